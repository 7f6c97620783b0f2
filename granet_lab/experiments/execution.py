"""Many trials on any executor: what is missing is trained and measured, and nothing else."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from pathlib import Path

import cloudpickle
from loky.process_executor import ShutdownExecutorError
from tqdm import tqdm

from granet_lab.datasets import AUGMENTATIONS, DATASETS
from granet_lab.experiments import files, progress
from granet_lab.experiments.files import DamagedFile
from granet_lab.experiments.identity import SCHEMA, describe, identity
from granet_lab.experiments.plasticity import measure_trial
from granet_lab.experiments.pools import Lent, Pool, ThisProcess
from granet_lab.experiments.progress import Stopped, telling
from granet_lab.experiments.store import Run
from granet_lab.experiments.trials import Trial
from granet_lab.models import MODELS
from granet_lab.registry import Registry
from granet_lab.sparsity import allocation, criteria, regrowths
from granet_lab.training.recipe import Recipe

logger = logging.getLogger(__name__)

# How often the progress bar looks into the store, in seconds.
_GLANCE = 0.3
# Workers may die so often in a row, with nothing finished in between. The last time the tasks go
# one by one, which shows whose fault it is.
_ATTEMPTS = 3
# What an executor answers when a worker died, or when another sweep had to kill them all.
_BROKEN = (BrokenExecutor, ShutdownExecutorError)
_DIED = f"its worker process died {_ATTEMPTS} times"


def result(root: Path, trial: Trial) -> dict | None:
    """What the store knows of a trial: its file's contents, None if it is not measured.

    A damaged file is set aside with a warning.
    """
    path = Run(root, trial.recipe).trial_path(identity(trial))
    try:
        return files.read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except DamagedFile as damaged:
        files.set_aside(damaged, path)
        return None


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
) -> dict[Trial | Recipe, str]:
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
    sweep = _Sweep(root, trials, dict.fromkeys(recipes, kept), device, bar, stop)
    with sweep.bar, contextlib.closing(sweep):
        left, attempts = len(sweep.unfinished()), 0
        while attempts < _ATTEMPTS:
            sweep.one_by_one = attempts == _ATTEMPTS - 1
            with pool.open() as executor:
                if sweep.go(executor, isinstance(pool, Lent)) or progress.is_set(stop):
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
        root: Path,
        trials: list[Trial],
        recipes: dict[Recipe, tuple[int, ...] | None],
        device: str,
        bar: bool,
        stop: Path | None,
    ) -> None:
        self.root, self.device, self.stop = root, device, stop
        self.trials, self.recipes = trials, recipes
        self.failed: dict[Trial | Recipe, str] = {}
        self.one_by_one = False
        self.definitions = cloudpickle.dumps(_own_definitions())
        self.runs = {
            recipe: Run(root, recipe) for recipe in [*(t.recipe for t in trials), *recipes]
        }
        self.to_train = [recipe for recipe, run in self.runs.items() if not run.finished]
        self.rows = {recipe: len(self.runs[recipe].rows()) for recipe in self.to_train}
        self.done, self.epochs = 0, sum(r.epochs + 1 - self.rows[r] for r in self.to_train)
        self.epochs += sum(t.recovery_epochs for t in trials)
        self.teller = progress.Sweep(root)
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

    def unfinished(self) -> list[Trial | Recipe]:
        left = [t for t in self.trials if t not in self.failed and result(self.root, t) is None]
        alone = [r for r in self.recipes if r not in self.failed and not self.runs[r].finished]
        return [*left, *alone]

    def go(self, executor: Executor, lent: bool) -> bool:
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
        todo: deque[Recipe | Trial] = deque()
        for recipe in branches:
            todo.extend(branches[recipe] if self.runs[recipe].finished else [recipe])
        # In this process a task is done when submit returns: one at a time keeps the bar moving.
        alone = self.one_by_one or isinstance(executor, ThisProcess)
        limit = 1 if alone else len(self.trials) + len(self.runs)
        pending: dict[Future, Recipe | Trial] = {}
        try:
            while todo or pending:
                if progress.is_set(self.stop):
                    todo.clear()  # what is submitted sees the word itself
                while todo and len(pending) < limit:
                    work = todo.popleft()
                    pending[self._submit(executor, work)] = work
                done, _ = wait(pending, timeout=_GLANCE, return_when=FIRST_COMPLETED)
                self._glance()
                for future in done:
                    if isinstance(future.exception(), _BROKEN):
                        if alone and not progress.is_set(self.stop):
                            self._fail(pending[future], _DIED, branches)
                        return False
                    todo.extend(self._finish(pending.pop(future), future, branches))
        except _BROKEN:
            return False
        except BaseException:
            for future in pending if lent else ():
                future.cancel()
            raise
        return True

    def _submit(self, executor: Executor, work: Recipe | Trial) -> Future:
        where = (self.device, self.definitions, self.stop)
        if isinstance(work, Trial):
            return executor.submit(_measure, self.root, work, *where)
        return executor.submit(_train, self.root, work, *where, self.recipes.get(work))

    def _finish(
        self, work: Recipe | Trial, future: Future, branches: dict[Recipe, list[Trial]]
    ) -> list[Trial]:
        """Note how a task ended; return the trials that can start now."""
        error = future.exception()
        if error is not None:
            self._fail(work, _one_line(error), branches)
        if isinstance(work, Trial):
            self._advance(work.recovery_epochs)
            return []
        return branches[work] if error is None else []

    def _fail(self, work: Recipe | Trial, why: str, branches: dict[Recipe, list[Trial]]) -> None:
        if isinstance(work, Trial):
            self.failed[work] = why
        else:
            self.failed[work] = why
            why = f"its run could not be trained: {why}"
            self.failed |= dict.fromkeys(branches[work], why)

    def _glance(self) -> None:
        """Count the epochs that runs have written to the store since the last look."""
        for recipe in self.to_train:
            rows = max(len(self.runs[recipe].rows()), self.rows[recipe])
            self._advance(rows - self.rows[recipe])
            self.rows[recipe] = rows
        self.teller.tell(self.done, self.epochs)

    def _advance(self, epochs: int) -> None:
        self.done += epochs
        self.bar.update(epochs)


def _train(
    root: Path,
    recipe: Recipe,
    device: str,
    definitions: bytes,
    stop: Path | None,
    keep: tuple[int, ...] | None,
) -> None:
    _define(definitions)
    with contextlib.suppress(Stopped):
        run = Run(root, recipe)
        with telling(run, recipe, stop) as task:
            task.tell(max(0, len(run.rows()) - 1), recipe.epochs)
            for row in run.train(device, keep):
                task.tell(row["epoch"], recipe.epochs)


def _measure(root: Path, trial: Trial, device: str, definitions: bytes, stop: Path | None) -> None:
    _define(definitions)
    if result(root, trial) is not None:
        return  # another sweep of the same trials was faster
    run, of = Run(root, trial.recipe), trial.recovery_epochs
    with contextlib.suppress(Stopped), telling(run, trial, stop) as task:
        task.tell(0, of)
        found = measure_trial(
            run, trial, device, lambda curve: task.tell(len(curve) - 1, of, curve)
        )
        files.write_json(
            run.trial_path(identity(trial)), {"schema": SCHEMA, "trial": describe(trial), **found}
        )


_SHIPPED: dict[str, Registry] = {
    "criteria": criteria.CRITERIA,
    "regrowths": regrowths.REGROWTHS,
    "datasets": DATASETS,
    "models": MODELS,
    "allocations": allocation.SCHEMES,
    "augmentations": AUGMENTATIONS,
}


def _own_definitions() -> list[tuple[str, list[Callable]]]:
    """What was defined by name outside the package, in a notebook say: workers need it too."""
    return [(name, registry.added()) for name, registry in _SHIPPED.items()]


# Once in a worker and sweep: a dataset that were defined anew for each trial would be loaded anew.
@functools.lru_cache(maxsize=1)
def _define(definitions: bytes) -> None:
    for name, entries in cloudpickle.loads(definitions):
        for entry in entries:
            _SHIPPED[name].register(entry)


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
