"""Regrowths: a score for every prunable weight; the highest among the inactive come back."""

from __future__ import annotations

from torch import Tensor

from granet_lab.registry import Registry
from granet_lab.sparsity.context import Context
from granet_lab.sparsity.criteria import uniform_noise

REGROWTHS: Registry = Registry("regrowth")
regrowth = REGROWTHS.register


@regrowth
def gradient(context: Context) -> dict[str, Tensor]:
    """|dL/dw|, where the loss would fall fastest (RigL, Evci et al. 2020; GraNet)."""
    return {name: g.abs() for name, g in context.gradients().items()}


@regrowth
def random(context: Context) -> dict[str, Tensor]:
    """Uniform noise (Mocanu et al. 2018, SET): the control for the gradient."""
    return uniform_noise(context, "random regrowth")
