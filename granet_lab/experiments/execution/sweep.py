"""Many trials on any executor: what is missing is trained and measured, and nothing else."""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from pathlib import Path
from queue import SimpleQueue

from loky.process_executor import ShutdownExecutorError
from tqdm.contrib.logging import logging_redirect_tqdm

from granet_lab.experiments.execution import definitions, failures, following, progress, tasks
from granet_lab.experiments.execution.agenda import Agenda, Task
from granet_lab.experiments.execution.following import Following
from granet_lab.experiments.execution.packing import together
from granet_lab.experiments.execution.pools import Lent, Pool, ThisProcess, arrived
from granet_lab.experiments.execution.rooms import Question, Rooms
from granet_lab.experiments.execution.tasks import Place, Work, one_line, recipe_of, result
from granet_lab.experiments.execution.telling import is_set
from granet_lab.experiments.execution.tries import Tries
from granet_lab.experiments.store import Run
from granet_lab.experiments.trials import Trial
from granet_lab.training.recipe import Recipe

logger = logging.getLogger(__name__)

# Workers may die so often in a row, with nothing finished in between. The last time what they may
# have died of goes one by one, which shows whose fault it is.
_ATTEMPTS = 3
# What an executor answers when a worker died, or when another sweep had to kill them all.
_BROKEN = (BrokenExecutor, ShutdownExecutorError)
# Nobody can make another one like it.
_BROKE = (
    "the executor has broken, as a worker process died, or was shut down: ask again with a new "
    "one, and what is measured stays measured"
)
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
    cached: int = 0,
) -> dict[Work, str]:
    """Measure every trial that the store does not hold, and first the runs they branch from.

    Args:
        root: the lab's folder.
        trials: what is asked.
        device: a torch device.
        pool: where the work is done.
        bar: whether to show a bar, in epochs trained.
        stop: a file; once it is there, what is under way ends within a few steps and nothing else
            is begun.
        warn: is told what went wrong and was put right.
        recipes: of runs that are trained as well, without a trial.
        keep: the epochs of which they keep a checkpoint; by default all.
        cached: how many more were asked, and measured already.
        stack: the most networks that are trained at once; 1: each alone; None: as many as are
            good, but runs on a CPU each alone, so that they are the same whoever trains them.

    Returns:
        The trials that could not be measured and the runs that could not be trained, and why.
    """
    root = Path(root).absolute()  # workers may be at home elsewhere
    asked = list(dict.fromkeys(trials))
    missing = [trial for trial in asked if result(root, trial) is None]
    cached += len(asked) - len(missing)
    # The longest first, so that no core is idle at the end; and what branches from one checkpoint
    # together, for one worker.
    trials = sorted(together(missing), key=lambda t: -t.recovery_epochs)
    recipes = [recipe for recipe in dict.fromkeys(recipes) if not Run(root, recipe).finished]
    if not trials and not recipes:
        return {}
    kept = None if keep is None else tuple(keep)
    word = root / f".{secrets.token_hex(4)}.stop" if stop is None else stop
    runs = {recipe: Run(root, recipe) for recipe in [*(t.recipe for t in trials), *recipes]}
    with (
        logging_redirect_tqdm() if bar else contextlib.nullcontext(),  # not on the bar's line
        definitions.own().carried(root) as carried,
        contextlib.closing(Following(root, runs, trials, cached, bar)) as followed,
    ):
        place = Place(root, device, carried, word)
        sweep = _Sweep(place, runs, trials, dict.fromkeys(recipes, kept), stack, warn, followed)
        try:
            sweep.to_the_end(pool)
            followed.look()
        finally:
            tasks.LOADER.forget()  # this process may have worked itself, and has other things to do
            for folder in (root, *(run.path for run in runs.values())):
                progress.tidy(folder)  # some may have died on the way
    return sweep.failed


class _Sweep:
    """The runs and trials that are missing."""

    def __init__(
        self,
        place: Place,
        runs: Mapping[Recipe, Run],
        trials: list[Trial],
        recipes: dict[Recipe, tuple[int, ...] | None],
        stack: int | None,
        warn: Callable[[str], None],
        followed: Following,
    ) -> None:
        self.place, self.root, self.stop = place, place.root, place.stop
        self.runs, self.trials, self.recipes = runs, trials, recipes
        self.warn, self.followed = warn, followed
        self.failed: dict[Work, str] = {}
        self.tries = Tries(warn)
        self.rooms = Rooms(stack, place.on_cpu, warn)
        # What was under way when workers died again and again: each is tried by itself, before
        # anything else.
        self.suspects: set[Work] = set()
        self.under_way: set[Work] = set()

    @property
    def stopped(self) -> bool:
        return is_set(self.stop)

    def to_the_end(self, pool: Pool) -> None:
        """Do everything; where workers die again and again, find out of what.

        Raises:
            RuntimeError: a lent executor takes no work, or has broken.
        """
        left, attempts = self._left(), 0
        while attempts < _ATTEMPTS:
            self.suspects = self.under_way if attempts == _ATTEMPTS - 1 else set()
            with pool.open() as executor:
                if self.go(executor, pool) or self.stopped:
                    return
            if isinstance(pool, Lent):
                raise RuntimeError(_BROKE)
            before, left = left, self._left()
            attempts = 0 if left < before else attempts + 1
            if left[0]:
                self.warn("a worker process died; what it was doing is done again")
        self._fail(dict.fromkeys(self.unfinished(), _DIED), {})

    def _left(self) -> tuple[int, int, int]:
        """Less of it is progress: works that are not done, epochs of them, questions."""
        self.followed.look()
        return len(self.unfinished()), sum(self.followed.left.values()), -len(self.rooms)

    def unfinished(self) -> list[Work]:
        left = [t for t in self.trials if t not in self.failed and result(self.root, t) is None]
        alone = [r for r in self.recipes if r not in self.failed and not self.runs[r].finished]
        return [*left, *alone]

    def go(self, executor: Executor, pool: Pool) -> bool:
        """Submit everything that is missing and wait for it; False if the executor broke.

        A task that broke it while it was alone has failed. Interrupted, a lent executor is freed
        of what waits in it, and what it does ends soon; one's own is stopped whole.

        Raises:
            RuntimeError: the executor takes no work.
        """
        branches: dict[Recipe, list[Trial]] = {}
        for work in self.unfinished():
            if isinstance(work, Trial):
                branches.setdefault(work.recipe, []).append(work)
            else:
                branches.setdefault(work, [])
        agenda = Agenda((), pool.workers, self.rooms, self.tries, self.suspects)
        for recipe in branches:
            agenda.add(branches[recipe] if self.runs[recipe].finished else [recipe])
        # In this process a task is done when submit returns: one at a time keeps the bar moving.
        here = isinstance(executor, ThisProcess)
        pending: dict[Future, Task] = {}
        # Asking all that are pending which of them has ended would take longer the more there are.
        ended: SimpleQueue[Future] = SimpleQueue()
        try:
            while agenda or pending:
                if self.stopped:  # what is submitted sees the word itself
                    agenda.clear()
                alone = bool(self.suspects)
                while agenda and not (pending and (here or alone)):
                    task = agenda.next()
                    future = self._submit(executor, task, here)
                    pending[future] = task
                    future.add_done_callback(ended.put)
                done = arrived(ended, following.GLANCE) if pending else []
                self.followed.now_and_then()
                for future in done:
                    task = pending[future]
                    if isinstance(_error(future), _BROKEN):
                        self.under_way = {w for one in pending.values() for w in _works(one)}
                        if alone and not self.stopped:
                            self._convict(task, branches)
                        return False
                    agenda.add(self._finish(pending.pop(future), future, branches))
                self.tries.tell()
        except _BROKEN:
            return False
        except BaseException:
            if isinstance(pool, Lent):
                pool.abandon(pending, self.stop)
            raise
        return True

    def _convict(self, task: Task, branches: dict[Recipe, list[Trial]]) -> None:
        """Workers have died of it."""
        if isinstance(task, Question):
            self.rooms.give_up(task, _DIED)
        else:
            self._fail(dict.fromkeys(task, _DIED), branches)
            self.suspects -= set(task)

    def _submit(self, executor: Executor, task: Task, here: bool) -> Future:
        if isinstance(task, Question):
            call = (tasks.room, self.place, recipe_of(task.waiting[0]))
        else:
            room = self.rooms.of(task[0])
            keep = {work: self.recipes[work] for work in task if work in self.recipes}
            heard = self.followed.now_and_then if here else None
            call = (tasks.carry_out, self.place, task, room, keep, heard)
        try:
            return executor.submit(*call)
        except _BROKEN:
            raise
        except Exception as error:
            raise RuntimeError(f"the executor takes no work: {one_line(error)}") from error

    def _finish(
        self, task: Task, future: Future, branches: dict[Recipe, list[Trial]]
    ) -> list[Work]:
        """Note how a task ended; return what can start now, or once more."""
        if isinstance(task, Question):
            return self._answered(task, future)
        error = _error(future)
        self.suspects -= set(task)
        told = dict.fromkeys(task, _why(error)) if error is not None else future.result()
        failed = {w: why for w, why in told.items() if not tasks.done(self.root, w)}
        if self.stopped:
            return []
        # What happened to several at once need not be the fault of each.
        counts = error is None or len(task) == 1
        again = [work for work, why in failed.items() if self.tries.once_more(work, why, counts)]
        self._fail({w: why for w, why in failed.items() if w not in again}, branches)
        for work in task:
            if work not in again:
                self.followed.end(work)
        trained = [work for work in task if isinstance(work, Recipe) and work not in failed]
        return [*again, *(trial for recipe in trained for trial in branches[recipe])]

    def _answered(self, question: Question, future: Future) -> list[Work]:
        """Those that waited for the answer; without one they go alone, the third time."""
        error = _error(future)
        if error is None:
            self.rooms.answer(question, future.result())
        elif self.tries.used_up(question.kind):
            self.rooms.give_up(question, _why(error))
        return question.waiting

    def _fail(self, failed: Mapping[Work, str], branches: dict[Recipe, list[Trial]]) -> None:
        """Record it at once: the sweep may be killed before its end."""
        everything = dict(failed)
        for work, why in failed.items():
            if isinstance(work, Recipe):
                why = f"its run could not be trained: {why}"
                everything |= dict.fromkeys(branches.get(work, ()), why)
        self.failed |= everything
        for work, why in everything.items():
            if isinstance(work, Trial):
                failures.write(self.root, work, why)
                self.followed.failed += 1
            self.followed.end(work)


def _error(future: Future) -> BaseException | None:
    """How a task ended that is done; None if it ended well."""
    return CancelledError("it was cancelled") if future.cancelled() else future.exception()


def _why(error: BaseException) -> str:
    """For a table. What Dask says of a worker that died is a paragraph, and names the task."""
    died = type(error).__name__ == "KilledWorker"
    return "its worker process died" if died else one_line(error)


def _works(task: Task) -> Iterable[Work]:
    return task.waiting if isinstance(task, Question) else task
