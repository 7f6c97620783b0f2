"""Regrowths: a score for every prunable weight; the highest among the inactive come back."""

from __future__ import annotations

from torch import Tensor

from granet_lab import checks
from granet_lab.registry import Registry
from granet_lab.sparsity.context import Context
from granet_lab.sparsity.criteria import Criterion, uniform_noise

REGROWTHS: Registry[Criterion] = Registry("regrowth", batches=1)

# Over what the connections that come back are chosen.
REGROW_SCOPES = ("layer", "global")

# Of the momentum that regrowth looks at: SGD's usual one.
_MOMENTUM = 0.9


def regrowth(function: Criterion | None = None, /, *, batches: int = 1):
    """Register a regrowth under its function's name; a decorator, with or without arguments.

    Args:
        function: context -> a score for every prunable weight.
        batches: how many batches a trial shows it.
    """
    return REGROWTHS.register(function, batches=checks.count("batches", batches, minimum=1))


@regrowth
def gradient(context: Context) -> dict[str, Tensor]:
    """|dL/dw|, where the loss would fall fastest (RigL, Evci et al. 2020; GraNet)."""
    return {name: g.abs() for name, g in context.gradients().items()}


@regrowth
def random(context: Context) -> dict[str, Tensor]:
    """Uniform noise (Mocanu et al. 2018, SET): the control for the gradient."""
    return uniform_noise(context, "random regrowth")


@regrowth(batches=10)
def momentum(context: Context) -> dict[str, Tensor]:
    """|v|, v = 0.9 v + dL/dw over the context's batches (Dettmers & Zettlemoyer 2019).

    The gradient of the dense weights, inactive ones included, remembered over some batches as
    SGD's momentum remembers it; the network stands still meanwhile.
    """
    found: dict[str, Tensor] = {}
    for gradients in context.batch_gradients():
        for name, g in gradients.items():
            found[name] = found[name].mul_(_MOMENTUM).add_(g) if name in found else g.clone()
    return {name: v.abs_() for name, v in found.items()}
