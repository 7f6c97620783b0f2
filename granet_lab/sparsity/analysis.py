"""What masks have in common: overlap, survival, exploration; and a table of the layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from granet_lab.sparsity.cost import LayerCost
from granet_lab.sparsity.masks import Masks

# Weights compared at once, for all masks.
_PIECE = 2**18


def layer_table(masks: Masks, costs: Mapping[str, LayerCost] | None = None) -> list[dict[str, Any]]:
    """A row for each prunable parameter: ``pandas.DataFrame(layer_table(masks))`` prints it.

    Args:
        masks: which weights are active.
        costs: of ``cost.layer_costs``, for the last column.

    Returns:
        ``layer``, ``shape``, ``size`` (weights), ``active`` ones, ``sparsity``; with costs also
        ``flops``, the operations that one example takes there.

    Raises:
        ValueError: the costs are those of another network.
    """
    rows = []
    for name, mask in masks.items():
        active = int(mask.count_nonzero())
        row = {
            "layer": name,
            "shape": tuple(mask.shape),
            "size": mask.numel(),
            "active": active,
            "sparsity": 1 - active / max(1, mask.numel()),
        }
        if costs is not None:
            if name not in costs or costs[name].weights != mask.numel():
                raise ValueError(f"the costs are those of another network: see {name}")
            row["flops"] = costs[name].flops(active)
        rows.append(row)
    return rows


def by_layer(measure: Callable[..., float], *masks: Masks) -> dict[str, float]:
    """A number that is made from masks, for each layer by itself: ``by_layer(overlap, a, b)``."""
    _check_alike(masks)
    return {name: measure(*(Masks({name: one[name]}) for one in masks)) for name in masks[0]}


def overlap(a: Masks, b: Masks) -> float:
    """Jaccard's index: active in both, as a fraction of active in either; 1 if none is in any.

    Raises:
        ValueError: the masks belong to different networks.
    """
    return float(overlaps([a, b])[0, 1])


def overlaps(masks: Sequence[Masks]) -> Tensor:
    """:func:`overlap` of every two of some masks: shape (n, n), float64, symmetric, ones in the
    diagonal.

    Raises:
        ValueError: there are none, or they belong to different networks.
    """
    _check_alike(masks)
    both = torch.zeros(len(masks), len(masks), dtype=torch.float64)
    for name in masks[0]:
        flat = [one[name].flatten().split(_PIECE) for one in masks]
        for pieces in zip(*flat, strict=True):
            found = torch.stack([piece.cpu() for piece in pieces]).float()
            both += found @ found.T  # whole numbers below 2^24: exact
    active = both.diagonal()
    either = active[:, None] + active[None, :] - both
    return torch.where(either == 0, 1.0, both / either.clamp_min(1))


def regrown(kept: Masks, regenerated: Masks) -> Masks:
    """The connections that came back: active in ``regenerated`` and not in ``kept``."""
    _check_alike([kept, regenerated])
    return Masks({name: regenerated[name] & ~mask for name, mask in kept.items()})


def survival(born: Masks, later: Masks) -> float:
    """The fraction of some connections, :func:`regrown` ones, that is still active later.

    NaN if there are none.
    """
    _check_alike([born, later])
    alive = sum(int((mask & later[name]).count_nonzero()) for name, mask in born.items())
    return alive / born.active if born.active else float("nan")


def explored(masks: Iterable[Masks]) -> Iterator[float]:
    """The fraction of all weights that was ever active up to each of a course of masks.

    Liu et al. 2021 (ITOP), the in-time over-parameterisation rate.

    Raises:
        ValueError: the masks belong to different networks.
    """
    ever: Masks | None = None
    for one in masks:
        if ever is not None:
            _check_alike([ever, one])
        ever = one if ever is None else Masks({n: mask | one[n] for n, mask in ever.items()})
        yield ever.active / ever.total


def exploration(masks: Iterable[Masks]) -> float:
    """The fraction of all weights that was ever active: the last of :func:`explored`.

    Raises:
        ValueError: there are no masks, or they belong to different networks.
    """
    course = list(explored(masks))
    if not course:
        raise ValueError("there are no masks")
    return course[-1]


def _check_alike(masks: Sequence[Masks]) -> None:
    if not masks:
        raise ValueError("there are no masks")
    for one in masks[1:]:
        for name in sorted(masks[0].keys() ^ one.keys()):
            raise ValueError(f"the masks belong to different networks: not all have {name}")
        for name, mask in masks[0].items():
            if mask.shape != one[name].shape:
                shapes = f"{tuple(mask.shape)} and {tuple(one[name].shape)}"
                raise ValueError(f"the masks belong to different networks: {name} has {shapes}")
