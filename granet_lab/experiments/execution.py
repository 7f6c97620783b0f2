"""Many trials on any executor: what is missing is trained and measured, and nothing else."""

from __future__ import annotations

import contextlib
import functools
import logging
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from pathlib import Path

import cloudpickle
from tqdm import tqdm

from granet_lab import checks
from granet_lab.experiments import files
from granet_lab.experiments.files import DamagedFile
from granet_lab.experiments.identity import SCHEMA, describe, identity
from granet_lab.experiments.plasticity import Trial, measure_trial
from granet_lab.experiments.store import Run
from granet_lab.registry import Registry
from granet_lab.sparsity import criteria, regrowths
from granet_lab.training import data, models
from granet_lab.training.recipes import Recipe

logger = logging.getLogger(__name__)

# How often the progress bar looks into the store, in seconds.
_GLANCE = 0.3
# Workers that may die in a row, with nothing finished in between, before work is given up.
_ATTEMPTS = 3


def result(root: Path, trial: Trial) -> dict | None:
    """What the store knows of a trial: its file's contents, None if it is not measured.

    A damaged file is set aside with a warning.
    """
    path = Run(root, trial.recipe).trial_path(identity(trial))
    try:
        return files.read_json(path)
    except FileNotFoundError:
        return None
    except DamagedFile as damaged:
        files.set_aside(damaged, path)
        return None


def measure_all(
    root: Path,
    trials: Sequence[Trial],
    device: str,
    executor: Executor | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> dict[Trial, str]:
    """Measure every trial that the store does not hold, and first the runs they branch from.

    Args:
        root: the lab's folder.
        trials: what is asked.
        device: a torch device.
        executor: where the work is done; by default processes on this machine.
        workers: how many of those processes; by default one for each core (on a GPU, one).
            1 works in this process.
        progress: whether to show a bar, in epochs trained.

    Returns:
        The trials that could not be measured, and why.

    Raises:
        ValueError: fewer than one worker.
    """
    if workers is not None:
        checks.count("workers", workers, minimum=1)
    # The longest first, so that no core is idle at the end.
    missing = [trial for trial in dict.fromkeys(trials) if result(root, trial) is None]
    trials = sorted(missing, key=lambda trial: -trial.recovery_epochs)
    if not trials:
        return {}
    sweep = _Sweep(root, trials, device, progress)
    with sweep.bar:
        left, attempts = len(trials), 0
        while attempts < _ATTEMPTS:
            with _executor(executor, workers, trials, device) as pool:
                if sweep.go(pool, borrowed=executor is not None):
                    break
            logger.warning("a worker process died; what it was doing is done again")
            before, left = left, len(sweep.unfinished())
            attempts = 0 if left < before else attempts + 1
        else:
            why = f"its worker process died {_ATTEMPTS} times"
            sweep.failed |= dict.fromkeys(sweep.unfinished(), why)
    return sweep.failed


class _Sweep:
    """The runs and trials that are missing, and how far they are."""

    def __init__(self, root: Path, trials: list[Trial], device: str, progress: bool) -> None:
        self.root, self.device, self.trials = root, device, trials
        self.failed: dict[Trial, str] = {}
        self.definitions = cloudpickle.dumps(_own_definitions())
        self.runs = {t.recipe: Run(root, t.recipe) for t in trials}
        self.to_train = [recipe for recipe, run in self.runs.items() if not run.finished]
        self.rows = {recipe: len(self.runs[recipe].rows()) for recipe in self.to_train}
        epochs = sum(r.epochs + 1 - self.rows[r] for r in self.to_train)
        epochs += sum(t.recovery_epochs for t in trials)
        parts = [f"{len(self.to_train)} runs"] if self.to_train else []
        self.bar = tqdm(
            total=epochs,
            unit="epoch",
            desc=" and ".join([*parts, f"{len(trials)} trials"]),
            disable=not progress,
            smoothing=0.05,
            mininterval=0.5,
        )

    def unfinished(self) -> list[Trial]:
        return [t for t in self.trials if t not in self.failed and result(self.root, t) is None]

    def go(self, pool: Executor, borrowed: bool) -> bool:
        """Submit everything that is missing and wait for it; False if the pool broke.

        Interrupted, a borrowed pool is freed of what waits in it; one's own is stopped whole.
        """
        branches: dict[Recipe, list[Trial]] = {}
        for trial in self.unfinished():
            branches.setdefault(trial.recipe, []).append(trial)
        todo: deque[Recipe | Trial] = deque()
        for recipe in branches:
            todo.extend(branches[recipe] if self.runs[recipe].finished else [recipe])
        # In this process a task is done when submit returns: one at a time keeps the bar moving.
        limit = 1 if isinstance(pool, _ThisProcess) else len(self.trials) + len(self.runs)
        pending: dict[Future, Recipe | Trial] = {}
        try:
            while todo or pending:
                while todo and len(pending) < limit:
                    work = todo.popleft()
                    pending[self._submit(pool, work)] = work
                done, _ = wait(pending, timeout=_GLANCE, return_when=FIRST_COMPLETED)
                self._glance()
                for future in done:
                    todo.extend(self._finish(pending.pop(future), future, branches))
        except BrokenExecutor:
            return False
        except BaseException:
            for future in pending if borrowed else ():
                future.cancel()
            raise
        return True

    def _submit(self, pool: Executor, work: Recipe | Trial) -> Future:
        task = _measure if isinstance(work, Trial) else _train
        return pool.submit(task, self.root, work, self.device, self.definitions)

    def _finish(
        self, work: Recipe | Trial, future: Future, branches: dict[Recipe, list[Trial]]
    ) -> list[Trial]:
        """Note how a task ended; return the trials that can start now."""
        error = future.exception()
        if isinstance(error, BrokenExecutor):
            raise error
        if isinstance(work, Trial):
            self.bar.update(work.recovery_epochs)
            if error is not None:
                self.failed[work] = _one_line(error)
            return []
        if error is None:
            return branches[work]
        for trial in branches[work]:
            self.failed[trial] = f"its run could not be trained: {_one_line(error)}"
        return []

    def _glance(self) -> None:
        """Count the epochs that runs have written to the store since the last look."""
        for recipe in self.to_train:
            rows = max(len(self.runs[recipe].rows()), self.rows[recipe])
            self.bar.update(rows - self.rows[recipe])
            self.rows[recipe] = rows


def _train(root: Path, recipe: Recipe, device: str, definitions: bytes) -> None:
    _define(definitions)
    for _ in Run(root, recipe).train(device):
        pass


def _measure(root: Path, trial: Trial, device: str, definitions: bytes) -> None:
    _define(definitions)
    run = Run(root, trial.recipe)
    found = measure_trial(run, trial, device)
    files.write_json(
        run.trial_path(identity(trial)), {"schema": SCHEMA, "trial": describe(trial), **found}
    )


_SHIPPED: dict[str, Registry] = {
    "criteria": criteria.CRITERIA,
    "regrowths": regrowths.REGROWTHS,
    "datasets": data.DATASETS,
    "models": models.MODELS,
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


@contextlib.contextmanager
def _executor(
    given: Executor | None, workers: int | None, trials: Sequence[Trial], device: str
) -> Iterator[Executor]:
    """The executor that was given, this process, or processes on this machine."""
    if given is not None:
        yield given
        return
    import loky

    if workers is None:
        threads = max(trial.recipe.threads for trial in trials)
        cores = loky.cpu_count(only_physical_cores=True)
        workers = max(1, cores // threads) if device == "cpu" else 1
    if min(workers, len(trials)) == 1:
        yield _ThisProcess()
        return
    pool = loky.get_reusable_executor(workers, timeout=60, initializer=_ignore_interrupt)
    try:
        yield pool
    except BaseException:
        # Stop at once: what is under way is not in the store and will start again.
        pool.shutdown(wait=True, kill_workers=True)
        raise


class _ThisProcess(Executor):
    """Does the work in the thread that waits for it, when its turn comes."""

    def submit(self, fn: Callable, /, *args, **kwargs) -> Future:
        future: Future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def _ignore_interrupt() -> None:
    """Ctrl-C reaches the whole process group; the process that waits decides what it means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
