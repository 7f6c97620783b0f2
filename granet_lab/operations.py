"""Every operation of torch inside a block, seen one by one."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode


class Operations(TorchDispatchMode):
    """Base of classes whose ``__torch_dispatch__`` is called in place of each operation.

    Torch would hide it from its compiler, and to do so load the compiler: 2 s in each process that
    trains, for nothing, as nothing is compiled here.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False
