"""Trials measured together: their networks share a stack, one that is done makes room."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from granet_lab.experiments.plasticity import Measurement
from granet_lab.experiments.progress import Stopped
from granet_lab.training.stacked import Lane, Stack
from granet_lab.training.state import Diverged

# A stack that is emptier than this, with nobody waiting, is exchanged for a smaller one.
_FULL_ENOUGH = 0.75


def measure_together(
    measurements: Iterable[Measurement], room: int, device: str = "cpu"
) -> Iterator[tuple[Measurement, Exception | None]]:
    """Carry trials out whose networks are of one kind.

    Args:
        measurements: not begun.
        room: the most networks in a stack, an even number.
        device: a torch device.

    Yields:
        Each as it is done, with the error that ended it, if one did.
    """
    waiting = deque(measurements)
    stack: Stack | None = None
    under_way: dict[Lane, Measurement] = {}
    while waiting or under_way:
        asked = min(room, len(waiting) + len(under_way))
        if stack is None or asked < _FULL_ENOUGH * stack.width:
            stack, under_way = _moved(stack, under_way, asked + asked % 2, waiting, device)
        while waiting and len(under_way) < stack.width:
            one = waiting.popleft()
            try:
                state = one.begin()
            except Diverged as diverged:
                one.diverge(diverged)
                yield one, None
            except Stopped:
                raise
            except Exception as error:
                yield one, error
            else:
                if state.epoch == one.until:
                    yield one, None
                else:
                    under_way[stack.enter(state, one.trial.recipe, one.lr, follow=False)] = one
        for lane, row in stack.train_epoch().items() if under_way else ():
            one = under_way[lane]
            if isinstance(row, Diverged):
                one.diverge(row)
            else:
                one.add(row)
            if isinstance(row, Diverged) or lane.state.epoch == one.until:
                stack.leave(lane)
                del under_way[lane]
                yield one, None


def _moved(
    stack: Stack | None,
    under_way: dict[Lane, Measurement],
    width: int,
    waiting: deque[Measurement],
    device: str,
) -> tuple[Stack, dict[Lane, Measurement]]:
    """A stack of another width, with the networks that are on their way."""
    some = next(iter(under_way.values()), None) or waiting[0]
    recipe = some.trial.recipe
    new, moved = Stack(recipe, recipe.images(device), width), {}
    for lane, one in under_way.items():
        stack.leave(lane)
        moved[new.enter(lane.state, lane.recipe, lane.lr, follow=False)] = one
    return new, moved
