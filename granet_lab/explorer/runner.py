"""Measuring from a widget: one job at a time, followed by a thread that asks for new pictures."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from granet_lab.experiments.execution import pools
from granet_lab.experiments.execution.background import Job
from granet_lab.experiments.execution.pools import OwnProcesses
from granet_lab.experiments.lab import Lab
from granet_lab.experiments.trials import Trial

# Seconds until the first processes have loaded everything, on two cores.
_START = 4.0
# Seconds between two looks at the store while something is under way.
_GLANCE = 0.2


class Runner:
    """Begins jobs, cancels them, and says what became of them.

    Args:
        lab: whose trials.
        threads_like: a trial; its threads decide how many processes fit on the machine.
        changed: is called while something is under way, and once it has ended; from a thread.

    Attributes:
        job: the last one; None if there was none.
        failed: trials that could not be measured, and why.
    """

    def __init__(self, lab: Lab, threads_like: Trial, changed: Callable[[], None]) -> None:
        self.job: Job | None = None
        self.failed: dict[Trial, str] = {}
        self.workers = pools.worker_count([threads_like.recipe], lab.device)
        self._lab, self._changed = lab, changed
        self._processes = OwnProcesses(self.workers, lab.device)
        self._follower: threading.Thread | None = None
        self._others: Callable[[], bool] = lambda: False
        self._asked, self._gate = False, threading.Lock()
        self._read: Job | None = None

    @property
    def running(self) -> bool:
        """Whether a job of this runner is under way."""
        return self.job is not None and self.job.running

    @property
    def head_start(self) -> float:
        """Seconds until the next job really begins."""
        return _START if self.job is None else 0.0

    def begin(self, trials: Sequence[Trial]) -> None:
        """Measure those that are missing, in the background.

        Raises:
            OSError: the lab cannot be written.
            ValueError: a job is under way already.
        """
        if self.running:
            raise ValueError("a measurement is under way: cancel it or wait")
        for trial in trials:
            self.failed.pop(trial, None)
        self.job = self._lab.start(trials, self._processes)
        self.follow(lambda: False)

    def follow(self, others: Callable[[], bool]) -> None:
        """Ask for new pictures, in one thread, while a job runs or ``others`` are at work."""
        with self._gate:
            self._others, self._asked = others, True
            if self._follower is None or not self._follower.is_alive():
                self._follower = threading.Thread(
                    target=self._work, name="granet-lab explorer", daemon=True
                )
                self._follower.start()

    def dismiss(self) -> None:
        """What became of a job that is over has been read."""
        if not self.running:
            self._read = self.job

    def result(self) -> list[str]:
        """What becomes of the last job, as sentences; none once it is over and dismissed."""
        job = self.job
        if job is None or job is self._read:
            return []
        said = [f"{text[0].upper()}{text[1:]}." for text in job.warnings]
        if job.running:
            if job.cancelled:
                said.append("Cancelling: epochs under way are ended.")
            elif job.progress()[0] == 0:
                said.append("Starting.")
            return said
        if job.error:
            said.append(f"Measuring ended: {job.error}. Run goes on from what was finished.")
        elif job.cancelled:
            done, total = job.progress()
            said.append(f"Cancelled after {done} of {total} epochs. What was finished is kept.")
        return said

    def _work(self) -> None:
        going = True
        while going:  # once more after the end, which may come at any moment
            self._asked = False
            going = self.running or self._others()
            time.sleep(_GLANCE if going else 0)
            if self.job is not None and not self.job.running:
                self.failed |= self.job.failed
            self._changed()
            with self._gate:  # who asks from now on finds this thread going, or gone
                going = going or self._asked
                if not going:
                    self._follower = None
