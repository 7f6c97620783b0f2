"""What is removed as one: single weights, whole filters, or all but N of M neighbours."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

WEIGHT, FILTER = "weight", "filter"

_PATTERN = re.compile(r"([1-9]\d*):([1-9]\d*)")


def check(granularity: str) -> str:
    """Return a granularity that is known.

    Raises:
        ValueError: it is not; the message says what is.
    """
    if granularity in (WEIGHT, FILTER) or pattern(granularity) is not None:
        return granularity
    raise ValueError(
        f"unknown granularity {granularity!r}: choose from weight, filter, or N:M such as 2:4, "
        "N smaller than M"
    )


def pattern(granularity: str) -> tuple[int, int] | None:
    """N and M of "N:M"; None for another granularity."""
    found = _PATTERN.fullmatch(granularity) if isinstance(granularity, str) else None
    if found is None or int(found[1]) >= int(found[2]):
        return None
    return int(found[1]), int(found[2])


def removed(granularity: str) -> float | None:
    """The fraction that a pattern N:M removes; None for another granularity."""
    numbers = pattern(granularity)
    return None if numbers is None else 1 - numbers[0] / numbers[1]


def check_pattern(granularity: str, sparsity: float, name: str, scope: str) -> None:
    """Refuse what contradicts a pattern N:M, which fixes how much goes, and where.

    Args:
        granularity: any.
        sparsity: what was asked, under the name ``name``.
        name: "rate" or "sparsity".
        scope: what was asked.

    Raises:
        ValueError: the pattern does not give that sparsity, or the scope is not "uniform".
    """
    share = removed(granularity)
    if share is None:
        return
    if not math.isclose(sparsity, share, abs_tol=1e-6) or scope != "uniform":
        n, m = pattern(granularity)
        raise ValueError(
            f"granularity {granularity} removes {m - n} of every {m} weights: "
            f'it needs {name}={share:.6g} and scope="uniform"'
        )


def filters(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The sum over each filter, a slice along the first dimension: shape (out,) for each layer.

    Of a transposed convolution such a slice is all that one input writes.
    """
    return {name: _unshortened(value).flatten(1).sum(1) for name, value in values.items()}


def _unshortened(values: Tensor) -> Tensor:
    """Not in 16 bits, in which sums are cut short."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def of_filters(chosen: Tensor, shape: torch.Size) -> Tensor:
    """A filter's True or False for each of its weights."""
    return chosen.view(-1, *[1] * (len(shape) - 1)).expand(shape)


def best_filters(
    scores: Mapping[str, Tensor], among: Mapping[str, Tensor], keep: int
) -> dict[str, Tensor]:
    """Keep the filters with the highest sums of scores, over all layers.

    As many as bring the number of active weights closest to ``keep``; ties by place.

    Args:
        scores: by layer name, for every weight.
        among: the active weights; a filter without any is not looked at.
        keep: active weights to keep.

    Returns:
        Boolean tensors like ``among``: its weights in the filters that are kept.

    Raises:
        ValueError: a filter has scores of plus and minus infinity.
    """
    sums = filters({name: scores[name].where(mask, 0) for name, mask in among.items()})
    for name, found in sums.items():
        if found.isnan().any():
            raise ValueError(f"the scores of a filter of {name} add up to NaN")
    weights = torch.cat(list(filters(among).values()))
    order = torch.cat(list(sums.values())).sort(descending=True, stable=True).indices
    order = order[weights[order] > 0]
    kept = torch.cat([weights.new_zeros(1), weights[order].cumsum(0)])
    many = int((kept - keep).abs().argmin())
    chosen = torch.zeros_like(weights, dtype=torch.bool)
    chosen[order[:many]] = True
    of_layer = chosen.split([len(found) for found in sums.values()])
    return {
        name: mask & of_filters(part, mask.shape)
        for (name, mask), part in zip(among.items(), of_layer, strict=True)
    }


def best_of_each(scores: Tensor, among: Tensor, n: int, m: int) -> Tensor:
    """Keep at most ``n`` of every ``m`` neighbours along the input dimension, the highest scores.

    Groups begin at input 0; the last one may be smaller. Ties by place.

    Args:
        scores: shape (out, in, ...).
        among: the active weights.
        n, m: as in 2:4.

    Returns:
        Boolean tensor of the same shape.
    """
    inputs = scores.shape[1]
    padded = -(-inputs // m) * m
    lowest = torch.finfo(torch.float64).min
    ranked = scores.double().clamp_min(lowest).masked_fill(~among, -torch.inf).movedim(1, -1)
    ranked = torch.nn.functional.pad(ranked, (0, padded - inputs), value=-torch.inf)
    groups = ranked.reshape(*ranked.shape[:-1], -1, m)
    place = groups.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    chosen = (place < n).reshape(ranked.shape)[..., :inputs].movedim(-1, 1)
    return chosen & among
