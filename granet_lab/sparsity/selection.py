"""Exact choices: the k best of many scores, and whole numbers that add up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def kth_highest(parts: Sequence[Tensor], k: int) -> Tensor:
    """The ``k``-th highest of all numbers in some tensors, which are neither joined nor sorted.

    A radix selection: the numbers are counted by their highest 16 bits, then those that share the
    answer's highest bits by the next 16. Takes a pass over the numbers and little memory.

    Args:
        parts: tensors of one floating type, without NaN.
        k: 1 to how many numbers there are.

    Returns:
        A scalar of the same type and device.
    """
    flat = [part.flatten() for part in parts]
    pieces = [piece for part in flat for piece in part.split(_PIECE) if piece.numel()]
    bits = torch.iinfo(_INTEGERS[pieces[0].dtype]).bits
    for shift in range(bits - _DIGIT, -1, -_DIGIT):
        counts = sum(torch.bincount(_digit(piece, shift), minlength=2**_DIGIT) for piece in pieces)
        above = counts.flip(0).cumsum(0)
        place = int(torch.searchsorted(above, k))
        k -= int(above[place - 1]) if place else 0
        digit = 2**_DIGIT - 1 - place
        found = (piece[_digit(piece, shift) == digit] for piece in pieces)
        pieces = [piece for piece in found if piece.numel()]
    return pieces[0][0]


_DIGIT = 16
# Numbers looked at together: few enough to stay in a core's cache.
_PIECE = 2**17
_INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}


def _digit(numbers: Tensor, shift: int) -> Tensor:
    """16 bits of each number, from bits that are in the order of the numbers."""
    bits = (numbers + 0.0).view(_INTEGERS[numbers.dtype])  # -0.0 becomes 0.0
    span = torch.iinfo(bits.dtype)
    # Negative numbers are stored as sign and size: turn their order around.
    bits = torch.where(bits < 0, bits ^ span.max, bits)
    digit = (bits >> shift) & (2**_DIGIT - 1)
    return digit ^ 2 ** (_DIGIT - 1) if shift == span.bits - _DIGIT else digit


def top_k_across(
    scores: Mapping[str, Tensor], among: Mapping[str, Tensor], k: int
) -> dict[str, Tensor]:
    """Mark the ``k`` highest scores over all layers, among the positions where ``among`` is True.

    Exactly ``k``, whatever the ties: equal scores are told apart by place, the earlier layer and
    the lower index first, so the answer is the same on every device.

    Args:
        scores: by layer name, each of the layer's shape, without NaN where ``among`` is True.
        among: by layer name, boolean, of the same shapes.
        k: how many to mark, at most the number of positions in ``among``.

    Returns:
        Boolean tensors by layer name, ``k`` entries True in total.
    """
    sizes = {name: int(mask.count_nonzero()) for name, mask in among.items()}
    if k >= sum(sizes.values()):
        return {name: mask.clone() for name, mask in among.items()}
    if k <= 0:
        return {name: torch.zeros_like(mask) for name, mask in among.items()}
    floats = {name: _as_float(scores[name]) for name in among}
    ranked = [
        floats[name] if size == mask.numel() else floats[name][mask]
        for (name, mask), size in zip(among.items(), sizes.values(), strict=True)
    ]
    threshold = kth_highest(ranked, k)
    marked = {name: (floats[name] > threshold) & mask for name, mask in among.items()}
    left = k - sum(int(chosen.count_nonzero()) for chosen in marked.values())
    for name, mask in among.items():
        if left == 0:
            break
        ties = ((floats[name] == threshold) & mask).nonzero()[:left]
        marked[name][tuple(ties.T)] = True
        left -= len(ties)
    return marked


def _as_float(scores: Tensor) -> Tensor:
    """In a type that holds every score exactly and that :func:`kth_highest` takes."""
    if scores.dtype in _INTEGERS:
        return scores
    return scores.to(torch.float32 if scores.dtype.is_floating_point else torch.float64)


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
