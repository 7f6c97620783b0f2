"""How many networks share a stack, asked once for each kind of them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from granet_lab.experiments.execution.tasks import Work, recipe_of
from granet_lab.training.recipe import Recipe
from granet_lab.training.stacked import kind


@dataclass(frozen=True)
class Question:
    """How many networks of these, which wait for the answer, should share a stack."""

    waiting: list[Work]

    @property
    def kind(self) -> Hashable:
        """What they have in common."""
        return kind(recipe_of(self.waiting[0]))


class Rooms:
    """The answers so far.

    Args:
        stack: the most networks that are trained at once; None: as many as are good.
        on_cpu: runs are trained alone there, unless ``stack`` is given.
        warn: is told what could not be found out.
    """

    def __init__(self, stack: int | None, on_cpu: bool, warn: Callable[[str], None]) -> None:
        self._stack, self._on_cpu, self._warn = stack, on_cpu, warn
        self._found: dict[Hashable, int] = {}

    def __len__(self) -> int:
        return len(self._found)

    def of(self, work: Work) -> int | None:
        """How many networks like that of a run or trial share a stack; None: nobody has asked
        yet."""
        if isinstance(work, Recipe) and self._stack is None and self._on_cpu:
            return 1
        return 1 if self._stack == 1 else self._found.get(kind(recipe_of(work)))

    def answer(self, question: Question, found: int) -> None:
        """So many, or as many as are allowed."""
        most = found if self._stack is None else min(found, self._stack // 2 * 2)
        self._found[question.kind] = most

    def give_up(self, question: Question, why: str) -> None:
        """Nobody could say: each goes alone."""
        self._warn(f"trained one at a time, as nobody could say how many go together: {why}")
        self._found[question.kind] = 1
