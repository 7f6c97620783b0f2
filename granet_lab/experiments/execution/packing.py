"""What each worker is given at once, so that all are busy to the end."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from granet_lab.experiments.execution.tasks import Work

# What one task does: runs, or trials, whose networks share a stack.
Pack = tuple[Work, ...]


def packs(works: Sequence[Work], room: int, workers: int | None) -> list[Pack]:
    """Divide what goes well together.

    First large packs, in whose stacks one that ends makes room for the next, then smaller ones, so
    that all workers end together; but none that leaves a stack empty as long as there is enough.

    Args:
        works: runs or trials whose networks may share a stack.
        room: how many networks a stack holds.
        workers: how many there are; None: nobody knows, and everyone gets a full stack.
    """
    if workers is None:
        return [tuple(works[i : i + room]) for i in range(0, len(works), room)]
    if workers == 1:  # its stack is filled to the end
        return [tuple(works)] if works else []
    found: list[Pack] = []
    left = tuple(works)
    while left:
        pieces, amount = workers, len(left)
        if amount < 2 * workers * room:  # the last ones; two networks are the smallest stack
            pieces = max(1, min(workers, amount // 2))
        else:
            amount = workers * max(room, math.ceil(amount / (2 * workers)))
        found += _evenly(left[:amount], pieces)
        left = left[amount:]
    return found


def _evenly(works: Pack, pieces: int) -> list[Pack]:
    ends = [len(works) * i // pieces for i in range(pieces + 1)]
    return [works[a:b] for a, b in itertools.pairwise(ends)]
