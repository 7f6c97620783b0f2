"""Networks by name."""

from __future__ import annotations

import torch
from torch import nn

from granet_lab.randomness import seeded
from granet_lab.registry import Registry

MODELS: Registry = Registry("model")
model = MODELS.register

Shape = tuple[int, int, int]


def build(name: str, input_shape: Shape, classes: int, seed: int) -> nn.Module:
    """A freshly initialised network: the same one for the same seed.

    Args:
        name: a model's name.
        input_shape: (channels, height, width).
        classes: number of outputs.
        seed: of the initialisation. Torch's own generators are left as they were.

    Raises:
        ValueError: an unknown name.
    """
    factory = MODELS[name]
    with seeded("initialisation", seed):
        return factory(input_shape, classes).to(memory_format=torch.channels_last)
