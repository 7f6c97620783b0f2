"""A run on its way: from where its files stop to its end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from granet_lab.experiments.checkpoints import Snapshot
from granet_lab.experiments.store import Run
from granet_lab.experiments.trained import train_alone
from granet_lab.training import loop
from granet_lab.training.evaluation import evaluate
from granet_lab.training.recipe import Recipe
from granet_lab.training.state import Diverged, TrainState


class Training:
    """What is left of a run.

    Args:
        run: where its history and checkpoints are kept.
        device: a torch device.
        keep: epochs of which a checkpoint is kept; by default every one. Those that an earlier
            training did not keep are made as this one begins.
        report: is called with the last row of the history that is there, and with each that comes.
        pulse: is called after every step; what it raises ends the training.

    Attributes:
        recipe: the run's.
        until: the epoch at which training ends: its last.
        lr: None: the learning rate follows the recipe's schedule.
        follow: the masks change as the recipe's method says.

    Raises:
        ValueError: an epoch that the run does not have.
    """

    lr: float | None = None
    follow = True

    def __init__(
        self,
        run: Run,
        device: str = "cpu",
        keep: Iterable[int] | None = None,
        report: Callable[[dict[str, Any]], None] | None = None,
        pulse: Callable[[], None] | None = None,
    ) -> None:
        self.recipe: Recipe = run.recipe
        self.until = run.recipe.epochs
        self._run, self._device, self._report = run, device, report
        self.pulse = pulse or (lambda: None)
        self._keep = run.check_epochs(keep)
        self._rows: list[dict[str, Any]] = []
        self._missing: set[int] = set()
        self._state: TrainState | None = None
        self._scribe: ThreadPoolExecutor | None = None
        self._writing: Future | None = None

    @property
    def needed(self) -> bool:
        """Whether there is anything to train, or a checkpoint to make."""
        run = self._run
        return not run.finished or (bool(self._absent()) and not run.diverged)

    def begin(self) -> TrainState:
        """The network as it was at the last epoch that the history has.

        Checkpoints beyond it are taken away: they are of an earlier training, whose history is
        lost, and on a GPU the run would be made of both.
        """
        run = self._run
        # Listed before the history is read: whoever is ahead writes a row, then its checkpoint.
        listed = run.checkpoints
        # Now: it may have waited, and somebody else have come further meanwhile.
        rows = self._rows = run.rows()
        for epoch in listed:
            if epoch >= len(rows):
                run.checkpoint_path(epoch).unlink(missing_ok=True)
        self._missing = self._absent()
        run.describe(self._device)
        for epoch in sorted(e for e in self._missing if e < len(rows)):
            run.keep(run.load(epoch, self._device, self.pulse))
        state = self._state = run.load(max(0, len(rows) - 1), self._device, self.pulse)
        if not rows:
            row = {"epoch": 0, "seconds": 0.0, "flops": 0.0, **loop.sparseness(state)}
            images = self.recipe.images(self._device)
            self.add(row | evaluate(state, self.recipe, images, self.pulse))
        else:
            self._tell(rows[-1])
        return state

    def add(self, row: dict[str, Any]) -> None:
        """Take note of an epoch, a row of :func:`granet_lab.training.loop.fit`."""
        self._settle()
        keep = self._state.epoch in self._missing
        self._written(row, Snapshot.of(self._state) if keep else None)
        if row["epoch"] == self.until:
            self._settle()
        self._tell(row)
        if row["epoch"] == self.until:
            self._state = None  # hundreds may be kept until the last is done

    def diverge(self, diverged: Diverged) -> None:
        """Take note that there is nothing more to come."""
        self._settle()
        self._run.record(self._rows, {"epoch": diverged.epoch, "diverged": str(diverged)})
        self._state = None

    def _written(self, row: dict[str, Any], kept: Snapshot | None) -> None:
        """Write an epoch down: at once, or while a GPU goes on with the next."""
        if not _meanwhile(self._device):
            self._write(row, kept)
            return
        if self._scribe is None:
            self._scribe = ThreadPoolExecutor(1, "granet-lab scribe")
        self._writing = self._scribe.submit(self._write, row, kept)

    def _write(self, row: dict[str, Any], kept: Snapshot | None) -> None:
        mine = self._run.record(self._rows, row)
        path = self._run.checkpoint_path(row["epoch"])
        # Beside a row of somebody else's belongs that one's checkpoint.
        if kept is not None and (mine or not path.exists()):
            kept.write(path)

    def close(self) -> None:
        """Wait until what was under way is written down; what became of it is no matter now."""
        with contextlib.suppress(Exception):
            self._settle()

    def _settle(self) -> None:
        """Wait until the last epoch is written down.

        Raises:
            OSError: it cannot be.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _absent(self) -> set[int]:
        return self._keep - set(self._run.checkpoints)

    def _tell(self, row: dict[str, Any]) -> None:
        if self._report is not None:
            self._report(row)


def _meanwhile(device: str) -> bool:
    """Whether a device trains on while the host writes: a CPU would do both itself."""
    return torch.device(device).type != "cpu"


def train(
    run: Run, device: str = "cpu", keep: Iterable[int] | None = None
) -> Iterator[dict[str, Any]]:
    """Train what is left of a run, its network alone, and yield the rows as they come.

    Args:
        run: the run.
        device: a torch device.
        keep: see :class:`Training`.
    """
    training = Training(run, device, keep)
    with contextlib.closing(training):
        if training.needed:
            yield from train_alone(training, device)
