"""Criteria: a score for every prunable weight; the highest scores are kept.

A criterion takes a :class:`~granet_lab.sparsity.context.Context` and returns a tensor for every
prunable weight, by name and of its shape. Only the scores of active weights are looked at. A new
one is a function with ``@criterion`` above it, here or in a notebook.
"""

from __future__ import annotations

import torch
from torch import Tensor

from granet_lab.randomness import child
from granet_lab.registry import Registry
from granet_lab.sparsity.context import Context

CRITERIA: Registry = Registry("criterion")
criterion = CRITERIA.register


@criterion
def magnitude(context: Context) -> dict[str, Tensor]:
    """|w| (Han et al. 2015)."""
    return {name: weight.abs() for name, weight in context.weights().items()}


@criterion
def random(context: Context) -> dict[str, Tensor]:
    """Uniform noise: the control that every other criterion has to beat."""
    return uniform_noise(context, "random criterion")


def uniform_noise(context: Context, purpose: str) -> dict[str, Tensor]:
    """Numbers in [0, 1) for every prunable weight: the same for the same context and purpose."""
    generator = child(context.generator, purpose)
    return {
        name: torch.rand(w.shape, generator=generator, device=generator.device).to(w.device)
        for name, w in context.weights().items()
    }
