"""What a sweep does next, and what of it in one task."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Set

from granet_lab.experiments.execution.packing import Pack, packs, portions
from granet_lab.experiments.execution.rooms import Question, Rooms
from granet_lab.experiments.execution.tasks import Work, recipe_of
from granet_lab.experiments.execution.tries import Tries
from granet_lab.training.recipe import Recipe
from granet_lab.training.stacked import kind

Task = Pack | Question


class Agenda:
    """Runs and trials that wait for their turn.

    Args:
        works: the first of them, in their order.
        workers: how many tasks are done at once; None: nobody knows.
        rooms: how many networks share a stack.
        tries: what has failed before goes by itself.
        suspects: what goes by itself and before anything else; may change meanwhile.
    """

    def __init__(
        self,
        works: Iterable[Work],
        workers: int | None,
        rooms: Rooms,
        tries: Tries,
        suspects: Set[Work],
    ) -> None:
        self._todo, self._ready = list(works), deque[Task]()
        self._workers, self._rooms, self._tries = workers, rooms, tries
        self._suspects = suspects

    def __bool__(self) -> bool:
        return bool(self._todo or self._ready)

    def add(self, works: Iterable[Work]) -> None:
        """These can be done now, too."""
        self._todo.extend(works)

    def clear(self) -> None:
        """Nothing is to be done any more."""
        self._todo.clear()
        self._ready.clear()

    def next(self) -> Task:
        """The next task; or a question that has to be answered first.

        Raises:
            IndexError: there is none.
        """
        while self._todo:
            self._ready.extend(self._take())
        return self._ready.popleft()

    def _take(self) -> list[Task]:
        """Take from what is to be done what goes well together."""
        if self._suspects:
            self._todo.sort(key=lambda work: work not in self._suspects)
        first, room = self._todo[0], self._rooms.of(self._todo[0])
        if room is not None and self._by_itself(first, room):
            return [(self._todo.pop(0),)]
        shared = kind(recipe_of(first))
        alike = [w for w in self._todo if type(w) is type(first) and kind(recipe_of(w)) == shared]
        if room is not None:
            alike = [w for w in alike if not self._by_itself(w, room)]
        taken = set(map(id, alike))
        self._todo = [work for work in self._todo if id(work) not in taken]
        if room is None:
            return [Question(alike)]
        return portions(alike, self._workers) if room == 1 else packs(alike, room, self._workers)

    def _by_itself(self, work: Work, room: int) -> bool:
        # Trials that share no stack may share a checkpoint; a run keeps a worker busy, and trials
        # wait for it.
        single = room == 1 and (isinstance(work, Recipe) or self._workers in (None, 1))
        return single or work in self._suspects or work in self._tries
