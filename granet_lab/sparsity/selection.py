"""Exact choices: the k best of many scores, and whole numbers that add up."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def top_k(scores: Tensor, k: int) -> Tensor:
    """Mark the ``k`` highest of ``scores``, exactly ``k`` whatever the ties.

    Equal scores are told apart by index, the lower one first, so the answer is the same on every
    device. Costs one selection, no sort.

    Args:
        scores: shape (n,), without NaN.
        k: 0 to n.

    Returns:
        Boolean tensor of shape (n,) with ``k`` entries True.
    """
    n = scores.numel()
    if k <= 0 or k >= n:
        return torch.full_like(scores, k >= n, dtype=torch.bool)
    threshold = scores.kthvalue(n - k + 1).values
    chosen = scores > threshold
    ties = (scores == threshold).nonzero().flatten()
    chosen[ties[: k - int(chosen.count_nonzero())]] = True
    return chosen


def top_k_across(scores: Mapping[str, Tensor], among: Mapping[str, Tensor], k: int):
    """Mark the ``k`` highest scores over all layers, among the positions where ``among`` is True.

    Args:
        scores: by layer name, each of the layer's shape.
        among: by layer name, boolean, of the same shapes.
        k: how many to mark, at most the number of positions in ``among``.

    Returns:
        Boolean tensors by layer name, ``k`` entries True in total.
    """
    chosen = top_k(torch.cat([scores[name][mask] for name, mask in among.items()]), k)
    marked, start = {}, 0
    for name, mask in among.items():
        stop = start + int(mask.count_nonzero())
        marked[name] = torch.zeros_like(mask)
        marked[name][mask] = chosen[start:stop]
        start = stop
    return marked


def apportion(
    total: int, shares: Mapping[str, float], capacity: Mapping[str, int]
) -> dict[str, int]:
    """Divide ``total`` in proportion to ``shares``, no part above its ``capacity``.

    A part whose share exceeds its capacity is filled and the rest is divided anew among the
    others. The remainders are rounded by the largest-remainder method, ties in order, so that the
    parts add up to ``total`` exactly.

    Raises:
        ValueError: ``total`` is more than all capacities together.
    """
    room = sum(capacity.values())
    if total > room:
        raise ValueError(f"{total} does not fit: there is room for {room}")
    parts = dict.fromkeys(shares, 0)
    open_ = [name for name in shares if capacity[name] > 0]
    rest = total
    while True:
        if not any(shares[name] for name in open_):
            shares = capacity  # no share says who takes the rest: room does
        weight = sum(shares[name] for name in open_)
        unit = rest / weight if weight else 0.0
        full = [name for name in open_ if shares[name] * unit >= capacity[name]]
        if not full:
            break
        for name in full:
            parts[name] = capacity[name]
            rest -= capacity[name]
            open_.remove(name)
    exact = {name: shares[name] * unit for name in open_}
    parts.update({name: math.floor(value) for name, value in exact.items()})
    missing = total - sum(parts.values())
    by_remainder = sorted(open_, key=lambda name: parts[name] - exact[name])
    for name in by_remainder[:missing]:
        parts[name] += 1
    return parts
