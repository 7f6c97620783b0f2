"""A function that a GPU repeats from a recording of its kernels.

The host takes longer to launch the kernels of a small network, one by one, than the GPU takes to
run them. Recorded once (a CUDA graph), all of them are launched together.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from granet_lab.training import distributed

# From tensors to tensors; None for a gradient that does not exist.
Function = Callable[..., tuple[Tensor | None, ...]]

logger = logging.getLogger(__name__)

# Calls made as usual before anything is recorded: torch chooses kernels and sets up libraries.
_FIRST = 2
# How far what a recording gives may be from what a call gives, relative to its length: some
# kernels of a GPU add in any order, and deep networks multiply what is rounded.
_TOLERANCE = 0.05


def recorded(function: Function, device: torch.device, changed: Iterable[Tensor] = ()) -> Function:
    """The function, to be called often with inputs of the same shapes.

    On a GPU it is called as usual at first, then recorded; on a CPU it is returned as it is.

    Args:
        function: of tensors. What else it reads or changes must keep its place in memory.
        device: where.
        changed: what it changes in place.

    Returns:
        What it returns is overwritten by the next call.
    """
    possible = device.type == "cuda" and distributed.ranks()[1] == 1
    return Recorded(function, changed) if possible else function


class Recorded:
    """See :func:`recorded`.

    A recording is used only if it gives what a call gives: a function that chooses its operations
    by values, or that draws numbers otherwise than from torch, goes on being called.
    """

    def __init__(self, function: Function, changed: Iterable[Tensor] = ()) -> None:
        self._function, self._changed = function, list(changed)
        self._calls, self._replay, self._shapes = 0, None, ()

    def __call__(self, *inputs: Tensor) -> tuple[Tensor | None, ...]:
        """Call the function, or replay it."""
        if self._replay is not None and _shapes(inputs) == self._shapes:
            return self._replay(*inputs)
        self._calls += 1
        if self._calls <= _FIRST:
            return _aside(self._function, inputs)
        if self._calls == _FIRST + 1:
            return self._recorded_call(inputs)
        return self._function(*inputs)

    def _recorded_call(self, inputs: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
        """Record the function, compare it with a call, and return what the call gives."""
        why, replay = None, None
        before = [tensor.clone() for tensor in self._changed]
        try:
            replay = _capture(self._function, inputs)
            with torch.random.fork_rng(_devices(inputs)):
                found = [None if one is None else one.clone() for one in replay(*inputs)]
            with torch.no_grad():
                for tensor, old in zip(self._changed, before, strict=True):
                    tensor.copy_(old)
        except RuntimeError as error:  # it waits for an answer of the GPU, say
            why = str(error).strip().partition("\n")[0]
        expected = self._function(*inputs)
        if why is None and not _alike(found, expected):
            why = "a recording gives something else"
        if why is None:
            self._replay, self._shapes = replay, _shapes(inputs)
        else:
            logger.info("kernels are launched one by one: %s", why)
        return expected


def _aside(function: Function, inputs: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """Call a function on a stream of its own, as what is recorded later will be."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        found = function(*inputs)
    torch.cuda.current_stream().wait_stream(stream)
    return found


def _capture(function: Function, inputs: Sequence[Tensor]) -> Function:
    """Record a function's kernels, without running them.

    Raises:
        RuntimeError: it does what cannot be recorded.
    """
    # Strides stay: images have their channels last.
    static = [torch.empty_like(tensor) for tensor in inputs]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        outputs = function(*static)

    def replay(*inputs: Tensor) -> tuple[Tensor | None, ...]:
        for place, tensor in zip(static, inputs, strict=True):
            place.copy_(tensor)
        graph.replay()
        return outputs

    return replay


def _devices(tensors: Sequence[Tensor]) -> list[torch.device]:
    return list({tensor.device for tensor in tensors if tensor.device.type == "cuda"})


def _shapes(tensors: Sequence[Tensor]) -> tuple[torch.Size, ...]:
    return tuple(tensor.shape for tensor in tensors)


def _alike(found: Sequence[Tensor | None], expected: Sequence[Tensor | None]) -> bool:
    """Whether all of them, taken as one vector each, differ by rounding only."""
    if [one is None for one in found] != [one is None for one in expected]:
        return False
    pairs = [(a, b) for a, b in zip(found, expected, strict=True) if b is not None]
    differences = [torch.linalg.vector_norm((a - b).float()) for a, b in pairs]
    lengths = [torch.linalg.vector_norm(b.float()) for _, b in pairs]
    return bool(_length(differences) <= _TOLERANCE * _length(lengths))


def _length(parts: Sequence[Tensor]) -> Tensor:
    return torch.linalg.vector_norm(torch.stack(list(parts)))
