"""What each worker is given at once, so that all are busy to the end; what each of several jobs
does that know nothing of one another."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from granet_lab import checks
from granet_lab.experiments.execution.tasks import Work
from granet_lab.experiments.trials import Trial

# What one task does: runs, or trials, whose networks share a stack.
Pack = tuple[Work, ...]


def packs(works: Sequence[Work], room: int, workers: int | None) -> list[Pack]:
    """Divide what goes well together.

    First large packs, in whose stacks one that ends makes room for the next, then smaller ones, so
    that all workers end together; but none that leaves a stack empty as long as there is enough.

    Args:
        works: runs or trials whose networks may share a stack.
        room: how many networks a stack holds, two at least.
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


def portions(trials: Sequence[Trial], workers: int) -> list[Pack]:
    """Divide trials that are measured each alone: of those that lie side by side and branch from
    one checkpoint, as many together as leave all workers busy to the end.

    A portion of several is at most half of what there is for each worker from it on, in epochs.

    Args:
        trials: the longest first.
        workers: how many there are.
    """
    left = sum(map(_epochs, trials))
    found: list[list[Trial]] = []
    for _, group in itertools.groupby(trials, key=lambda t: (t.recipe, t.epoch)):
        found.append([])
        taken = 0
        for trial in group:
            if found[-1] and (taken + _epochs(trial)) * 2 * workers > left:
                left -= taken
                found.append([])
                taken = 0
            found[-1].append(trial)
            taken += _epochs(trial)
        left -= taken
    return [tuple(portion) for portion in found]


def shard(trials: Sequence[Trial], part: int, parts: int) -> list[Trial]:
    """One of several parts of equal size; what branches from one checkpoint is side by side.

    Args:
        trials: all of them.
        part: which, from 1 on.
        parts: how many there are.

    Raises:
        ValueError: a part that there is not.
    """
    checks.count("parts", parts, minimum=1)
    if checks.count("part", part, minimum=1) > parts:
        raise ValueError(f"part must be at most {parts}, the number of parts, not {part}")
    asked = list(dict.fromkeys(trials))
    return list(_evenly(tuple(together(asked)), parts)[part - 1])


def together(trials: Sequence[Trial]) -> list[Trial]:
    """The trials, with those side by side that branch from one run, and from one checkpoint."""
    order = {recipe: i for i, recipe in enumerate(dict.fromkeys(t.recipe for t in trials))}
    return sorted(trials, key=lambda t: (order[t.recipe], t.epoch))


def _epochs(trial: Trial) -> int:
    return trial.recovery_epochs + 1  # it is tested once before the first


def _evenly(works: Pack, pieces: int) -> list[Pack]:
    ends = [len(works) * i // pieces for i in range(pieces + 1)]
    return [works[a:b] for a, b in itertools.pairwise(ends)]
