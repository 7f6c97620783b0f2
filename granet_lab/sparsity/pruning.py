"""Pruning: which of the active weights stay; masks in, masks out, the network as it is."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from torch import Tensor

from granet_lab import checks
from granet_lab.sparsity import granularity as units
from granet_lab.sparsity import naming
from granet_lab.sparsity.allocation import SCHEMES, active_counts
from granet_lab.sparsity.context import Context
from granet_lab.sparsity.criteria import CRITERIA, checked, scored
from granet_lab.sparsity.masks import Masks
from granet_lab.sparsity.naming import Layers
from granet_lab.sparsity.regrowths import REGROW_SCOPES, REGROWTHS
from granet_lab.sparsity.selection import apportion, top_k_across


class EmptyLayerWarning(UserWarning):
    """Pruning has left a layer without a single weight."""


@contextmanager
def emptying_allowed() -> Iterator[None]:
    """No :class:`EmptyLayerWarning` inside the block, where a table says it in its own way."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmptyLayerWarning)
        yield


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """One pruning operation.

    Attributes:
        rate: fraction of the current non-zeros that is removed, in [0, 1].
        criterion: what to keep, by name: "magnitude", "snip", ..., or one of your own.
        scope: over what weights are ranked. "global": all layers together; "uniform": each layer
            loses the same fraction; "er", "erk": each layer keeps what that allocation gives it.
        granularity: what is removed as one: "weight"; "filter", a slice along the first dimension
            (all that a filter or neuron reads), by the sum of its weights' scores, for magnitude
            its L1 norm (``dense="last"`` spares the classes; such sums grow with the filter, so
            ranked globally small filters go first: ``scope="uniform"`` compares like with like);
            or "N:M", which keeps the best N of every M neighbours along the input dimension, of a
            last, smaller group as many.
        regrow: how as many connections are chosen to come back afterwards: None (none do),
            "gradient", "random", "momentum", or one of your own.
        regrow_scope: "layer": each layer gets back as many as it lost; "global": as many as all
            layers lost together come back wherever they score highest.
        layers: which layers are pruned, all by default: names with wildcards, separated by
            spaces, "first" and "last" among them. The rate is of their weights.
        dense: which of them are left as they are, written in the same way; none by default.

    Raises:
        ValueError: a rate outside [0, 1], an unknown name (the message lists the known ones), or
            values that contradict one another.
    """

    rate: float
    criterion: str = "magnitude"
    scope: str = "global"
    granularity: str = units.WEIGHT
    regrow: str | None = None
    regrow_scope: str = "layer"
    layers: str = naming.EVERY
    dense: str = naming.NONE

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate", checks.fraction("rate", self.rate))
        CRITERIA.check(self.criterion)
        checks.choice("scope", self.scope, ("global", *SCHEMES))
        units.check(self.granularity)
        units.check_pattern(self.granularity, self.rate, "rate", self.scope)
        checks.choice("regrowth", self.regrow, (None, *REGROWTHS))
        checks.choice("regrow_scope", self.regrow_scope, REGROW_SCOPES)
        if self.regrow is None and self.regrow_scope != "layer":
            raise ValueError("regrow_scope says where connections come back: choose a regrow, too")
        if self.regrow is not None and units.pattern(self.granularity) is not None:
            raise ValueError(
                f"granularity {self.granularity} has no room for regrow: in every group as many "
                "would come back as were removed"
            )
        for name in ("layers", "dense"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} must be names in one string, not {getattr(self, name)!r}")
            object.__setattr__(self, name, " ".join(getattr(self, name).split()))


def prune(context: Context, pruning: Pruning) -> Masks:
    """The masks after removing the fraction ``pruning.rate`` of the current non-zeros.

    Exactly ``round(rate * active)`` weights of the layers that take part go, whatever the scope
    and however many scores tie; whole filters as many as come closest to that, in each layer if
    the scope is not global; and of an N:M pattern what it says. ``pruning.regrow`` is not carried
    out: see ``regenerate``. A layer that is left empty is reported in a warning.

    Raises:
        ValueError: the network has no such layer, or scores that cannot be ranked.
    """
    part = naming.choose(list(context.masks), pruning.layers, pruning.dense)
    counts = context.masks.counts()
    total = sum(counts[name] for name in part)
    keep = total - round(pruning.rate * total)
    pruned = _keep(context, part, keep, pruning.criterion, pruning.scope, pruning.granularity)
    _warn_if_emptied(context.masks, pruned)
    return pruned


def prune_to(
    context: Context,
    sparsity: float,
    criterion: str = "magnitude",
    scope: str = "global",
    granularity: str = units.WEIGHT,
    dense: Layers = naming.NONE,
) -> Masks:
    """The masks at a target sparsity, reached by removing active weights alone.

    Exactly ``round(sparsity * size)`` of the prunable weights are inactive afterwards, those of
    layers that are left dense counted among the prunable ones; whole filters, or an N:M pattern,
    come as close as they can.

    Args:
        context: the network.
        sparsity: of the whole network, in [0, 1].
        criterion, scope, granularity: as in :class:`Pruning`. Under "uniform", "er" and "erk"
            each layer gets what the scheme gives it, whatever it has now.
        dense: layers that are left as they are, see ``naming.choose``.

    Raises:
        ValueError: the network is sparser than that already, there is not enough to remove, the
            sparsity lies outside [0, 1], or a name is unknown.
    """
    sparsity = checks.fraction("sparsity", sparsity)
    checks.choice("scope", scope, ("global", *SCHEMES))
    units.check_pattern(units.check(granularity), sparsity, "sparsity", scope)
    masks, counts = context.masks, context.masks.counts()
    part = naming.choose(list(masks), dense=dense)
    remove = masks.active - (masks.total - round(sparsity * masks.total))
    if remove < 0:
        raise ValueError(
            f"cannot prune to sparsity {sparsity:g}: the network has {masks.sparsity:.4g} already"
        )
    room = sum(counts[name] for name in part)
    if remove > room and units.pattern(granularity) is None:
        raise ValueError(
            f"cannot prune to sparsity {sparsity:g}: {remove} weights have to go, "
            f"the layers that are not left dense have {room}"
        )
    pruned = _keep(context, part, room - remove, criterion, scope, granularity, anew=True)
    _warn_if_emptied(masks, pruned)
    return pruned


def _keep(
    context: Context,
    part: list[str],
    keep: int,
    criterion: str,
    scope: str,
    granularity: str,
    anew: bool = False,
) -> Masks:
    """Keep ``keep`` active weights of some layers, in as many rounds as the criterion asks for.

    ``anew`` means that "uniform" gives each layer a share of its size, not of what it has.
    """
    active = {name: int(context.masks[name].count_nonzero()) for name in part}
    rounds = CRITERIA[criterion].rounds if units.pattern(granularity) is None else 1
    for target in _targets(sum(active.values()), keep, rounds):
        among = {name: context.masks[name] for name in part}
        left = {name: int(mask.count_nonzero()) for name, mask in among.items()}
        scores = checked(scored(CRITERIA[criterion], context), among, criterion)
        if scope == "global":
            kept = _best(scores, among, target, granularity)
        else:
            if scope == "uniform" and not anew:
                counts = apportion(target, active, left)
            else:
                shapes = {name: mask.shape for name, mask in among.items()}
                counts = active_counts(shapes, target, scope, capacity=left)
            kept = {}
            for name, mask in among.items():
                kept |= _best({name: scores[name]}, {name: mask}, counts[name], granularity)
        context = replace(context, masks=Masks({**context.masks, **kept}))
    return context.masks


def _best(
    scores: Mapping[str, Tensor], among: Mapping[str, Tensor], keep: int, granularity: str
) -> dict[str, Tensor]:
    """The active weights that stay, over all layers that are given."""
    if granularity == units.WEIGHT:
        return top_k_across(scores, among, keep)
    if granularity == units.FILTER:
        return units.best_filters(scores, among, keep)
    n, m = units.pattern(granularity)
    return {name: units.best_of_each(scores[name], mask, n, m) for name, mask in among.items()}


def _targets(active: int, keep: int, rounds: int) -> list[int]:
    """How many weights are left after each round: by the same factor fewer each time."""
    factor = max(keep, 1) / max(active, 1)
    return [*(round(active * factor ** (i / rounds)) for i in range(1, rounds)), keep]


def empty_note(layers: list[str]) -> str:
    """The layers that pruning emptied, in words; nothing if there are none."""
    return f"pruning left no weight in {', '.join(layers)}" if layers else ""


def _warn_if_emptied(before: Masks, after: Masks) -> None:
    emptied = [name for name in after.empty_layers() if name not in before.empty_layers()]
    if emptied:
        warnings.warn(empty_note(emptied), EmptyLayerWarning, stacklevel=3)
