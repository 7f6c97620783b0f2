"""Regeneration: which connections come back after pruning; masks in, masks out."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from granet_lab import checks
from granet_lab.sparsity import granularity as units
from granet_lab.sparsity import naming
from granet_lab.sparsity.context import Context
from granet_lab.sparsity.criteria import Scores, checked, scored
from granet_lab.sparsity.masks import Masks
from granet_lab.sparsity.naming import Layers
from granet_lab.sparsity.pruning import Pruning
from granet_lab.sparsity.regrowths import REGROW_SCOPES, REGROWTHS
from granet_lab.sparsity.selection import top_k_across

Chosen = Mapping[str, Tensor]


def regenerate(
    context: Context,
    before: Masks,
    after: Masks,
    regrow: str | Pruning | None,
    granularity: str = units.WEIGHT,
    scope: str = "layer",
    layers: Layers = naming.EVERY,
    dense: Layers = naming.NONE,
) -> Masks:
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
        regrow: a regrowth's name; None returns ``after``. A :class:`Pruning` says this and all
            that follows.
        granularity: "weight"; or "filter": of the filters without an active weight, as many as
            were emptied come back whole, those with the highest sums of scores.
        scope: "layer", or "global": as many as all layers lost, wherever they score highest
            (as many filters, if those come back).
        layers, dense: which layers take part, as in :class:`Pruning`; in the others nothing
            comes back.

    Raises:
        ValueError: an unknown name, or ``after`` has more active weights somewhere.
    """
    if isinstance(regrow, Pruning):
        granularity, scope = regrow.granularity, regrow.regrow_scope
        regrow, layers, dense = regrow.regrow, regrow.layers, regrow.dense
    checks.choice("regrow_scope", scope, REGROW_SCOPES)
    if regrow is None:
        return after
    score = REGROWTHS[regrow]
    if units.check(granularity) not in (units.WEIGHT, units.FILTER):
        raise ValueError(f"cannot regrow with granularity {granularity}: choose weight or filter")
    before, after = before.check(context.model), after.check(context.model)
    left = after.counts()
    for name, count in before.counts().items():
        if count < left[name]:
            raise ValueError(
                f"{name} has {left[name] - count} more active weights after pruning than before"
            )
    scores = dict(scored(score, context))
    part = naming.choose(list(after), layers, dense)
    regenerated = dict(after)
    for group in [part] if scope == "global" else [[name] for name in part]:
        free = {name: ~after[name] for name in group}
        found = checked({name: scores.pop(name, None) for name in group}, free, regrow)
        lost = [{name: masks[name] for name in group} for masks in (before, after)]
        grown = (
            _filters(found, *lost) if granularity == units.FILTER else _weights(found, free, *lost)
        )
        regenerated |= {name: mask | after[name] for name, mask in grown.items()}
    return Masks(regenerated)


def _weights(scores: Scores, free: Chosen, before: Chosen, after: Chosen) -> Chosen:
    """The best of the free positions, as many as were lost."""
    return top_k_across(scores, free, _active(before) - _active(after))


def _filters(scores: Scores, before: Chosen, after: Chosen) -> Chosen:
    """The weights of the best filters without an active one, as many as were emptied."""
    alive = [{name: n > 0 for name, n in units.filters(m).items()} for m in (before, after)]
    empty = {name: ~found for name, found in alive[1].items()}
    sums = units.filters({name: scores[name] for name in after})
    grown = top_k_across(sums, empty, _active(alive[0]) - _active(alive[1]))
    return {name: units.of_filters(grown[name], mask.shape) for name, mask in after.items()}


def _active(masks: Chosen) -> int:
    return sum(int(mask.count_nonzero()) for mask in masks.values())
