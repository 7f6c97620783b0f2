"""A CUDA graph on a CPU: the operations of a function, run again on the same memory."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from granet_lab.training.recording import Recorded


def capture(function, inputs):
    """As ``recording._capture``: what the function changes is as before, nothing has happened."""
    static = [torch.empty_like(tensor).zero_() for tensor in inputs]
    tape = _Tape()
    with torch.random.fork_rng([]), tape:
        outputs = function(*static)
    tape.undo()

    def replay(*inputs):
        for place, tensor in zip(static, inputs, strict=True):
            place.copy_(tensor)
        tape.replay()
        return outputs

    return replay


def use(monkeypatch, *modules):
    """Let modules record as on a GPU what they call ``recorded`` for, and say what was."""
    made = []

    def recorded(function, device, changed=(), network=None, where=()):
        made.append(Recorded(function, changed, capture, network))
        return made[-1]

    for module in modules:
        monkeypatch.setattr(module, "recorded", recorded)
        monkeypatch.setattr("granet_lab.training.recording._FIRST", {"cpu": 2})
    monkeypatch.setattr("granet_lab.training.recording._aside", lambda f, inputs: f(*inputs))
    return made


class _Tape(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.operations, self.before, self.own = [], {}, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        for value in _tensors((args, kwargs)):
            if id(value) not in self.own and id(value) not in self.before:
                self.before[id(value)] = value, value.detach().clone()
        found = func(*args, **kwargs)
        self.own |= {id(value) for value in _tensors(found)} - self.before.keys()
        self.operations.append((func, args, kwargs, found))
        return found

    @torch.no_grad()
    def undo(self):
        for value, old in self.before.values():
            value.copy_(old)

    @torch.no_grad()
    def replay(self):
        for func, args, kwargs, found in self.operations:
            again = func(*args, **kwargs)
            for place, value in zip(_tensors(found), _tensors(again), strict=True):
                place.copy_(value)


def _tensors(values):
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]
