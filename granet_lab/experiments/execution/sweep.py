"""Many trials on any executor: what is missing is trained and measured, and nothing else."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from dataclasses import dataclass
from pathlib import Path

from loky.process_executor import ShutdownExecutorError
from tqdm import tqdm

from granet_lab.experiments.execution import progress, tasks
from granet_lab.experiments.execution.packing import Pack, packs
from granet_lab.experiments.execution.pools import Lent, Pool, ThisProcess
from granet_lab.experiments.execution.tasks import Place, Work, one_line, recipe_of, result
from granet_lab.experiments.identity import identity
from granet_lab.experiments.store import Run
from granet_lab.experiments.trials import Trial
from granet_lab.training.recipe import Recipe
from granet_lab.training.stacked import kind


@dataclass(frozen=True)
class Question:
    """How many networks of these, which wait for the answer, should share a stack."""

    waiting: list[Work]


logger = logging.getLogger(__name__)

# How often the progress bar looks into the store, in seconds.
_GLANCE = 0.3
# Workers may die so often in a row, with nothing finished in between. The last time the tasks go
# one by one, which shows whose fault it is.
_ATTEMPTS = 3
# What an executor answers when a worker died, or when another sweep had to kill them all.
_BROKEN = (BrokenExecutor, ShutdownExecutorError)
_DIED = f"its worker process died {_ATTEMPTS} times"


def measure_all(
    root: Path,
    trials: Sequence[Trial],
    device: str,
    pool: Pool,
    bar: bool = True,
    stop: Path | None = None,
    warn: Callable[[str], None] = logger.warning,
    recipes: Sequence[Recipe] = (),
    keep: Iterable[int] | None = None,
    stack: int | None = None,
) -> dict[Work, str]:
    """Measure every trial that the store does not hold, and first the runs they branch from.

    Args:
        root: the lab's folder.
        trials: what is asked.
        device: a torch device.
        pool: where the work is done.
        bar: whether to show a bar, in epochs trained.
        stop: a file; once it is there, what is under way ends at its next epoch and nothing else
            is begun.
        warn: is told what went wrong and was put right.
        recipes: of runs that are trained as well, without a trial.
        keep: the epochs of which they keep a checkpoint; by default all.
        stack: the most networks that are trained at once; 1: each alone; None: as many as are
            good, but runs on a CPU each alone, so that they are the same whoever trains them.

    Returns:
        The trials that could not be measured and the runs that could not be trained, and why.
    """
    # The longest first, so that no core is idle at the end.
    missing = [trial for trial in dict.fromkeys(trials) if result(root, trial) is None]
    trials = sorted(missing, key=lambda trial: -trial.recovery_epochs)
    recipes = [recipe for recipe in dict.fromkeys(recipes) if not Run(root, recipe).finished]
    if not trials and not recipes:
        return {}
    kept = None if keep is None else tuple(keep)
    place = Place(root, device, tasks.own_definitions(), stop)
    sweep = _Sweep(place, trials, dict.fromkeys(recipes, kept), bar, stack)
    with sweep.bar, contextlib.closing(sweep):
        left, attempts = len(sweep.unfinished()), 0
        while attempts < _ATTEMPTS:
            sweep.one_by_one = attempts == _ATTEMPTS - 1
            with pool.open() as executor:
                if sweep.go(executor, pool) or progress.is_set(stop):
                    break
            before, left = left, len(sweep.unfinished())
            attempts = 0 if left < before else attempts + 1
            if left:
                warn("a worker process died; what it was doing is done again")
        else:
            sweep.failed |= dict.fromkeys(sweep.unfinished(), _DIED)
    return sweep.failed


class _Sweep:
    """The runs and trials that are missing, and how far they are."""

    def __init__(
        self,
        place: Place,
        trials: list[Trial],
        recipes: dict[Recipe, tuple[int, ...] | None],
        bar: bool,
        stack: int | None,
    ) -> None:
        root = self.root = place.root
        self.place, self.stop = place, place.stop
        self.trials, self.recipes = trials, recipes
        self.stack = stack
        self.rooms: dict[Hashable, int] = {}
        self.names = {identity(trial): trial for trial in trials}
        self.reached: dict[Trial, int] = {}
        self.looked = 0.0
        self.failed: dict[Work, str] = {}
        self.one_by_one = False
        self.runs = {
            recipe: Run(root, recipe) for recipe in [*(t.recipe for t in trials), *recipes]
        }
        self.to_train = [recipe for recipe, run in self.runs.items() if not run.finished]
        self.rows = {recipe: len(self.runs[recipe].rows()) for recipe in self.to_train}
        self.done, self.epochs = 0, sum(r.epochs + 1 - self.rows[r] for r in self.to_train)
        self.epochs += sum(t.recovery_epochs for t in trials)
        self.teller, self.news = progress.Sweep(root), progress.News()
        parts = [f"{len(self.to_train)} runs"] if self.to_train else []
        parts += [f"{len(trials)} trials"] if trials else []
        self.bar = tqdm(
            total=self.epochs,
            unit="epoch",
            desc=" and ".join(parts),
            disable=not bar,
            smoothing=0.05,
            mininterval=0.5,
        )

    def close(self) -> None:
        """Take away what says that it is under way."""
        self.teller.end()

    def unfinished(self) -> list[Work]:
        left = [t for t in self.trials if t not in self.failed and result(self.root, t) is None]
        alone = [r for r in self.recipes if r not in self.failed and not self.runs[r].finished]
        return [*left, *alone]

    def go(self, executor: Executor, pool: Pool) -> bool:
        """Submit everything that is missing and wait for it; False if the executor broke.

        A task that broke it while it was alone has failed. Interrupted, a lent executor is freed
        of what waits in it; one's own is stopped whole.
        """
        branches: dict[Recipe, list[Trial]] = {}
        for work in self.unfinished():
            if isinstance(work, Trial):
                branches.setdefault(work.recipe, []).append(work)
            else:
                branches.setdefault(work, [])
        todo: list[Work] = []
        for recipe in branches:
            todo.extend(branches[recipe] if self.runs[recipe].finished else [recipe])
        ready: deque[Pack | Question] = deque()
        # In this process a task is done when submit returns: one at a time keeps the bar moving.
        here = isinstance(executor, ThisProcess)
        alone = self.one_by_one or here
        limit = 1 if alone else len(self.trials) + len(self.runs)
        pending: dict[Future, Pack | Question] = {}
        try:
            while todo or ready or pending:
                if progress.is_set(self.stop):  # what is submitted sees the word itself
                    todo.clear()
                    ready.clear()
                while todo:
                    ready.extend(self._take(todo, pool.workers))
                while ready and len(pending) < limit:
                    task = ready.popleft()
                    pending[self._submit(executor, task, here)] = task
                done, _ = wait(pending, timeout=_GLANCE, return_when=FIRST_COMPLETED)
                self._glance()
                for future in done:
                    if isinstance(future.exception(), _BROKEN):
                        task = pending[future]
                        if alone and isinstance(task, tuple) and not progress.is_set(self.stop):
                            self._fail(dict.fromkeys(task, _DIED), branches)
                        return False
                    todo.extend(self._finish(pending.pop(future), future, branches))
        except _BROKEN:
            return False
        except BaseException:
            for future in pending if isinstance(pool, Lent) else ():
                future.cancel()
            raise
        return True

    def _take(self, todo: list[Work], workers: int | None) -> list[Pack | Question]:
        """Take from what is to be done what goes well together, as tasks; or ask first how much
        does."""
        first, room = todo[0], self._room(todo[0])
        if room == 1:
            return [(todo.pop(0),)]
        shared = kind(recipe_of(first))
        alike = [w for w in todo if type(w) is type(first) and kind(recipe_of(w)) == shared]
        taken = set(map(id, alike))
        todo[:] = [work for work in todo if id(work) not in taken]
        if room is None:
            return [Question(alike)]
        return packs(alike, room, workers)

    def _room(self, work: Work) -> int | None:
        """How many networks like that of a run or trial share a stack; None: nobody has asked
        yet."""
        by_itself = isinstance(work, Recipe) and self.stack is None and self.place.on_cpu
        alone = self.one_by_one or self.stack == 1 or by_itself
        return 1 if alone else self.rooms.get(kind(recipe_of(work)))

    def _submit(self, executor: Executor, task: Pack | Question, here: bool) -> Future:
        if isinstance(task, Question):
            return executor.submit(tasks.room, self.place, recipe_of(task.waiting[0]))
        room = self._room(task[0])
        keep = {work: self.recipes[work] for work in task if work in self.recipes}
        heard = self._hear if here else None
        return executor.submit(tasks.carry_out, self.place, task, room, keep, heard)

    def _finish(
        self, task: Pack | Question, future: Future, branches: dict[Recipe, list[Trial]]
    ) -> list[Work]:
        """Note how a task ended; return what can start now."""
        error = future.exception()
        if isinstance(task, Question):
            found = 1 if error is not None else future.result()
            most = found if self.stack is None else min(found, self.stack // 2 * 2)
            self.rooms[kind(recipe_of(task.waiting[0]))] = most
            return task.waiting
        failed = dict.fromkeys(task, one_line(error)) if error is not None else future.result()
        self._fail(failed, branches)
        for work in task:
            if isinstance(work, Trial):
                self._reach(work, work.recovery_epochs)
        trained = [work for work in task if isinstance(work, Recipe) and work not in failed]
        return [trial for recipe in trained for trial in branches[recipe]]

    def _fail(self, failed: dict[Work, str], branches: dict[Recipe, list[Trial]]) -> None:
        self.failed |= failed
        for work, why in failed.items():
            if isinstance(work, Recipe):
                why = f"its run could not be trained: {why}"
                self.failed |= dict.fromkeys(branches[work], why)

    def _hear(self) -> None:
        """Look at the store from time to time, while this process is at work on a pack."""
        if time.monotonic() - self.looked >= _GLANCE:
            self._glance()

    def _glance(self) -> None:
        """Count the epochs that tasks have told of in the store since the last look."""
        for recipe in self.to_train:
            rows = max(self.news.rows(self.runs[recipe]), self.rows[recipe])
            self._advance(rows - self.rows[recipe])
            self.rows[recipe] = rows
        for run in self.runs.values():
            for name, note in self.news.of(run).items():
                if name in self.names:
                    self._reach(self.names[name], note.done)
        self.teller.tell(self.done, self.epochs)
        self.looked = time.monotonic()

    def _reach(self, trial: Trial, epochs: int) -> None:
        """A trial has come so far, or further."""
        before = self.reached.get(trial, 0)
        self.reached[trial] = max(before, epochs)
        self._advance(self.reached[trial] - before)

    def _advance(self, epochs: int) -> None:
        self.done += epochs
        self.bar.update(epochs)
