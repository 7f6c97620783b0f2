"""One update of a network that is sparse while it trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from granet_lab.sparsity.context import Context
from granet_lab.sparsity.masks import Masks
from granet_lab.sparsity.plan import Plan
from granet_lab.sparsity.pruning import Pruning, emptying_allowed, prune, prune_to
from granet_lab.sparsity.regeneration import regenerate
from granet_lab.sparsity.selection import top_k_across


@dataclass(frozen=True)
class Update:
    """What an update makes of the masks.

    Attributes:
        pruned: after pruning to the sparsity that the schedule asks for.
        kept: after dropping a fraction of each layer; what is zeroed is not in here.
        masks: after as many connections came back.
    """

    pruned: Masks
    kept: Masks
    masks: Masks


def update(context: Context, plan: Plan, step: int) -> Update:
    """Prune, drop, regrow: the order of GraNet (Liu et al. 2021, algorithm 1).

    Args:
        context: the network after its optimizer step, with the gradient of that step's batch.
        plan: of the run.
        step: optimizer steps done.
    """
    method = plan.method
    sparsity, pruned = plan.sparsity(step), context.masks
    with emptying_allowed():
        if sparsity > pruned.sparsity:
            pruned = prune_to(context, sparsity, method.prune_criterion, method.prune_scope)
        fraction = plan.regrow_fraction(step)
        if fraction == 0:
            return Update(pruned, pruned, pruned)
        drop = Pruning(rate=fraction, criterion=method.prune_criterion, scope="uniform")
        kept = prune(replace(context, masks=pruned), drop)
    return Update(pruned, kept, regenerate(context, pruned, kept, method.regrow))


def salient(
    weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor], masks: Masks, count: int
) -> dict[str, Tensor]:
    """Where |weight gradient| is largest, over all layers (Ding et al. 2019, equation 6).

    Args:
        weights, gradients: by layer name.
        masks: the active weights, which alone are looked at.
        count: how many weights.

    Returns:
        Boolean tensors, ``count`` entries True in total.
    """
    scores = {name: (weight * gradients[name]).abs() for name, weight in weights.items()}
    return top_k_across(scores, masks, count)
