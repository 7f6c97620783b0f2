"""What is asked is trained: each network alone, or several together in a stack."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

from granet_lab.experiments.execution.telling import Stopped
from granet_lab.training import loop
from granet_lab.training.recipe import Recipe
from granet_lab.training.stacked import Lane, Stack
from granet_lab.training.state import Diverged, TrainState

# A stack that is emptier than this, with nobody waiting, is exchanged for a smaller one.
_FULL_ENOUGH = 0.75


class Asked(Protocol):
    """A run or a trial on its way: a network, told of every epoch that it is trained.

    Attributes:
        recipe: its own.
        until: the epoch at which training ends.
        lr: a fixed learning rate; None follows the recipe's schedule.
        follow: whether the masks change as the recipe's method says; else they stay.
    """

    recipe: Recipe
    until: int
    lr: float | None
    follow: bool

    def begin(self) -> TrainState:
        """The network where training starts."""

    def add(self, row: dict[str, Any]) -> None:
        """Take note of an epoch, a row of :func:`granet_lab.training.loop.fit`."""

    def diverge(self, diverged: Diverged) -> None:
        """Take note that there is nothing more to come."""

    def pulse(self) -> None:
        """Is called after every step; what it raises ends the training."""


Kind = TypeVar("Kind", bound=Asked)


def train_alone(one: Asked, device: str = "cpu") -> Iterator[dict[str, Any]]:
    """Train a network to where it is to come, and yield the rows of its epochs."""
    try:
        state, images = one.begin(), one.recipe.images(device)
        for row in loop.fit(
            state, one.recipe, images, one.until, one.lr, one.follow, pulse=one.pulse
        ):
            one.add(row)
            yield row
    except Diverged as diverged:
        one.diverge(diverged)


def train_together(
    asked: Iterable[Kind],
    room: int,
    device: str = "cpu",
    done: Callable[[Kind], bool] = lambda one: False,
) -> Iterator[tuple[Kind, Exception | None]]:
    """Train networks of one kind, as many at once as there is room for; one that is done makes
    room for the next.

    Args:
        asked: not begun.
        room: the most networks in a stack, an even number.
        device: a torch device.
        done: whether somebody else has done one before its turn came: it is passed over.

    Yields:
        Each as it is done, with the error that ended it, if one did.
    """
    waiting = deque(asked)
    stack: Stack | None = None
    under_way: dict[Lane, Kind] = {}
    while waiting or under_way:
        width = min(room, len(waiting) + len(under_way))
        if stack is None or width < _FULL_ENOUGH * stack.width:
            stack, under_way = _moved(stack, under_way, width + width % 2, waiting, device)
        while waiting and len(under_way) < stack.width:
            one = waiting.popleft()
            if done(one):
                continue
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
                    under_way[stack.enter(state, one.recipe, one.lr, one.follow)] = one
        if not under_way:
            continue
        for lane, row in stack.train_epoch(next(iter(under_way.values())).pulse).items():
            one = under_way[lane]
            if isinstance(row, Diverged):
                one.diverge(row)
            else:
                one.add(row | {"stacked": True})
            if isinstance(row, Diverged) or lane.state.epoch == one.until:
                stack.leave(lane)
                del under_way[lane]
                yield one, None


def _moved(
    stack: Stack | None,
    under_way: dict[Lane, Kind],
    width: int,
    waiting: deque[Kind],
    device: str,
) -> tuple[Stack, dict[Lane, Kind]]:
    """A stack of another width, with the networks that are on their way."""
    some = next(iter(under_way.values()), None) or waiting[0]
    recipe = some.recipe
    new, moved = Stack(recipe, recipe.images(device), width), {}
    for lane, one in under_way.items():
        stack.leave(lane)
        moved[new.enter(lane.state, lane.recipe, lane.lr, one.follow)] = one
    return new, moved
