"""A sweep in the background: begun, watched, cancelled, waited for."""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from pathlib import Path

from granet_lab.experiments import files
from granet_lab.experiments.execution import claims, progress, sweep, tasks
from granet_lab.experiments.execution.pools import OwnProcesses
from granet_lab.experiments.execution.tasks import one_line
from granet_lab.experiments.execution.telling import Stopped
from granet_lab.experiments.identity import identity
from granet_lab.experiments.store import Run
from granet_lab.experiments.trials import Trial
from granet_lab.training.recipe import Recipe
from granet_lab.wording import counted

logger = logging.getLogger(__name__)

# Seconds that a cancelled task has to notice it.
_GRACE = 5.0


class Job:
    """Trials that are being measured in other processes while this one goes on.

    What is finished is in the store at once; how far the rest is can be read there too. Made by
    ``Lab.start``.

    Attributes:
        trials: what was asked and was not measured yet.
        failed: the trials that could not be measured, and why; complete once it has ended.
        cancelled: whether it was told to stop.
        warnings: what went wrong and was put right.
        error: in one line, what ended the whole job before its time; None if nothing did.
    """

    def __init__(
        self,
        root: Path,
        trials: Sequence[Trial],
        device: str,
        processes: OwnProcesses,
        stack: int | None = None,
    ) -> None:
        self.trials = [t for t in dict.fromkeys(trials) if tasks.result(root, t) is None]
        self.failed: dict[Trial, str] = {}
        self.warnings: list[str] = []
        self.error: str | None = None
        root = Path(root).absolute()
        self._root, self._device, self._processes, self._stack = root, device, processes, stack
        self.cancelled = False
        self._stop = root / f".{secrets.token_hex(4)}.stop"
        self._total = epochs_left(root, self.trials)
        self._thread = threading.Thread(target=self._work, name="granet-lab job", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        done, total = self.progress()
        state = "running" if self.running else "ended"
        return f"Job({counted(len(self.trials), 'trial')}, {state}: {done} of {total} epochs)"

    @property
    def running(self) -> bool:
        """Whether anything is still going on."""
        return self._thread.is_alive()

    def progress(self) -> tuple[int, int]:
        """Epochs trained so far, and how many there are to train in all."""
        return max(0, self._total - epochs_left(self._root, self.trials)), self._total

    def cancel(self) -> None:
        """Stop. What is under way ends within a few steps, or is ended after a few seconds.

        What was finished stays; what was not starts again the next time.
        """
        if self.cancelled or not self.running:
            return
        self.cancelled = True
        try:
            files.write(self._stop, b"", durable=False)
        except OSError:
            self._processes.kill()
            return
        threading.Thread(target=self._insist, daemon=True).start()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end, at most ``timeout`` seconds; whether it has ended."""
        self._thread.join(timeout)
        return not self.running

    def _insist(self) -> None:
        if not self.wait(_GRACE):
            self._processes.kill()
            self.wait()
        _remove(self._stop)  # it may have been written when the job was over

    def _work(self) -> None:
        try:
            self.failed = sweep.measure_all(
                self._root,
                self.trials,
                self._device,
                _UntilCancelled(self),
                bar=False,
                stop=self._stop,
                warn=self.warnings.append,
                stack=self._stack,
            )
        except Exception as error:
            if not self.cancelled:
                self.error = one_line(error)
                logger.warning("measuring in the background ended: %s", self.error)
        finally:
            self._tidy()

    def _tidy(self) -> None:
        """Take away the notes of tasks that were killed, and the word to stop."""
        for run, trials in _by_run(self._root, self.trials):
            claims.tidy(run)
            progress.tidy(run.path, [progress.TRAINING, *map(identity, trials)])
        _remove(self._stop)


class _UntilCancelled:
    """The processes of a job, and no others in their place once it is cancelled."""

    def __init__(self, job: Job) -> None:
        self._job, self.workers = job, job._processes.workers

    def open(self) -> AbstractContextManager[Executor]:
        if self._job.cancelled:
            raise Stopped
        return self._job._processes.open()


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def epochs_left(root: Path, trials: Sequence[Trial]) -> int:
    """Epochs of training between the store and the answer to some trials."""
    left = 0
    for run, branches in _by_run(root, trials):
        if not run.finished:
            left += run.recipe.epochs + 1 - len(run.rows())
        # Before looking for what has ended: that takes its note away last.
        told = progress.notes(run)
        for trial in branches:
            note = told.get(identity(trial))
            if not run.trial_path(identity(trial)).exists():
                left += trial.recovery_epochs - (note.done if note and note.alive else 0)
    return left


def _by_run(root: Path, trials: Sequence[Trial]) -> list[tuple[Run, list[Trial]]]:
    """Each run with the trials that branch from it."""
    branches: dict[Recipe, list[Trial]] = {}
    for trial in trials:
        branches.setdefault(trial.recipe, []).append(trial)
    return [(Run(root, recipe), group) for recipe, group in branches.items()]
