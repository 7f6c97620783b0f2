"""Prune, and regenerate what was pruned: masks in, masks out; the network stays as it is."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from granet_lab import checks
from granet_lab.sparsity.allocation import SCHEMES, active_counts
from granet_lab.sparsity.context import Context
from granet_lab.sparsity.criteria import CRITERIA
from granet_lab.sparsity.masks import Masks
from granet_lab.sparsity.regrowths import REGROWTHS
from granet_lab.sparsity.selection import apportion, top_k, top_k_across

GRANULARITIES = ("weight",)


class EmptyLayerWarning(UserWarning):
    """Pruning has left a layer without a single weight."""


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """One pruning operation.

    Attributes:
        rate: fraction of the current non-zeros that is removed, in [0, 1].
        criterion: what to keep, by name: "magnitude", "random", or one of your own.
        scope: over what weights are ranked. "global": all layers together; "uniform": each layer
            loses the same fraction; "er", "erk": each layer keeps what that allocation gives it.
        granularity: what is removed as one: "weight".
        regrow: how as many connections are chosen to come back afterwards: None (none do),
            "gradient", "random", or one of your own.

    Raises:
        ValueError: a rate outside [0, 1] or an unknown name; the message lists the known ones.
    """

    rate: float
    criterion: str = "magnitude"
    scope: str = "global"
    granularity: str = "weight"
    regrow: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate", checks.fraction("rate", self.rate))
        CRITERIA.check(self.criterion)
        checks.choice("scope", self.scope, ("global", *SCHEMES))
        checks.choice("granularity", self.granularity, GRANULARITIES)
        checks.choice("regrowth", self.regrow, (None, *REGROWTHS))


def prune(context: Context, pruning: Pruning) -> Masks:
    """The masks after removing the fraction ``pruning.rate`` of the current non-zeros.

    Exactly ``round(rate * active)`` weights go, whatever the scope and however many scores tie.
    ``pruning.regrow`` is not carried out: see :func:`regenerate`. A layer that is left empty is
    reported in a warning.
    """
    active = context.masks.counts()
    total = sum(active.values())
    keep = total - round(pruning.rate * total)
    if pruning.scope == "uniform":
        pruned = _keep_best(context, pruning.criterion, apportion(keep, active, active))
    else:
        pruned = _keep(context, keep, pruning.criterion, pruning.scope)
    _warn_if_emptied(context.masks, pruned)
    return pruned


def prune_to(
    context: Context, sparsity: float, criterion: str = "magnitude", scope: str = "global"
) -> Masks:
    """The masks at a target sparsity, reached by removing active weights alone.

    Exactly ``round(sparsity * size)`` of the prunable weights are inactive afterwards.

    Raises:
        ValueError: the network is sparser than that already, the sparsity lies outside [0, 1], or
            a name is unknown.
    """
    sparsity = checks.fraction("sparsity", sparsity)
    checks.choice("scope", scope, ("global", *SCHEMES))
    masks = context.masks
    keep = masks.total - round(sparsity * masks.total)
    if keep > masks.active:
        raise ValueError(
            f"cannot prune to sparsity {sparsity:g}: the network has {masks.sparsity:.4g} already"
        )
    pruned = _keep(context, keep, criterion, scope)
    _warn_if_emptied(masks, pruned)
    return pruned


def regenerate(context: Context, before: Masks, after: Masks, regrow: str | None) -> Masks:
    """The masks after as many connections come back as were removed, layer by layer.

    Every position that is inactive in ``after`` may come back, those just dropped included, as in
    the official GraNet code: on a network that was dense there are no others, and every one
    returns. Scores are taken on the context's model as it stands, so on weights that are not yet
    zeroed, as RigL and GraNet take the gradient. Apply ``after`` to the model
    (:meth:`Masks.apply_`) to make the returning weights start at zero.

    Args:
        context: the network, with batches if ``regrow`` needs a gradient.
        before: the masks before pruning.
        after: the masks after pruning.
        regrow: a regrowth's name; None returns ``after``.

    Raises:
        ValueError: an unknown regrowth, or ``after`` has more active weights somewhere.
    """
    if regrow is None:
        return after
    score = REGROWTHS[regrow]
    before, after = before.check(context.model), after.check(context.model)
    left = after.counts()
    missing = {name: count - left[name] for name, count in before.counts().items()}
    for name, count in missing.items():
        if count < 0:
            raise ValueError(f"{name} has {-count} more active weights after pruning than before")
    inactive = Masks({name: ~mask for name, mask in after.items()})
    scores = _checked(score(context), inactive, regrow)
    grown = {}
    for name, free in inactive.items():
        grown[name] = ~free
        grown[name][free] = top_k(scores[name][free], missing[name])
    return Masks(grown)


def _keep(context: Context, keep: int, criterion: str, scope: str) -> Masks:
    """Keep ``keep`` active weights, ranked over all layers or as an allocation scheme says."""
    if scope == "global":
        return Masks(top_k_across(_scores(context, criterion), context.masks, keep))
    shapes = {name: mask.shape for name, mask in context.masks.items()}
    counts = active_counts(shapes, keep, scope, capacity=context.masks.counts())
    return _keep_best(context, criterion, counts)


def _keep_best(context: Context, criterion: str, counts: dict[str, int]) -> Masks:
    """Keep in each layer the given number of its best active weights."""
    scores = _scores(context, criterion)
    kept = {}
    for name, mask in context.masks.items():
        kept[name] = mask.clone()
        kept[name][mask] = top_k(scores[name][mask], counts[name])
    return Masks(kept)


def _scores(context: Context, criterion: str) -> dict[str, Tensor]:
    return _checked(CRITERIA[criterion](context), context.masks, criterion)


def _checked(scores: dict[str, Tensor], ranked: Masks, name: str) -> dict[str, Tensor]:
    """The scores, if there is one for every weight and none that is ranked is NaN."""
    if not isinstance(scores, Mapping):
        raise ValueError(f"{name!r} gives no dict of scores but {type(scores).__name__}")
    for layer, mask in ranked.items():
        score = scores.get(layer)
        if not isinstance(score, Tensor) or score.shape != mask.shape or score.dtype == torch.bool:
            raise ValueError(f"{name!r} gives no score of shape {tuple(mask.shape)} for {layer}")
        if score[mask].isnan().any():
            raise ValueError(f"{name!r} scores {layer} with NaN")
    return scores


def empty_note(layers: list[str]) -> str:
    """The layers that pruning emptied, in words; nothing if there are none."""
    return f"pruning left no weight in {', '.join(layers)}" if layers else ""


def _warn_if_emptied(before: Masks, after: Masks) -> None:
    emptied = [name for name in after.empty_layers() if name not in before.empty_layers()]
    if emptied:
        warnings.warn(empty_note(emptied), EmptyLayerWarning, stacklevel=3)
