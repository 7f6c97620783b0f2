"""Training and evaluation mode, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def in_mode(model: nn.Module, train: bool) -> Iterator[None]:
    """The network in training or evaluation mode inside the block; afterwards each of its modules
    in the mode it was found in."""
    modes = {module: module.training for module in model.modules()}
    model.train(train)
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
