"""Fewer checkpoints: an epoch that is not kept is reached again by training on from the nearest
earlier one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from granet_lab import checks
from granet_lab.experiments import files
from granet_lab.experiments.files import DamagedFile
from granet_lab.experiments.lab import Lab
from granet_lab.experiments.store import Run


@dataclass(frozen=True)
class Thinned:
    """What thinning takes from a run.

    Attributes:
        run: whose.
        epochs: of the checkpoints that go.
        kept: of those that stay.
        bytes: that are freed.
    """

    run: Run
    epochs: tuple[int, ...]
    kept: tuple[int, ...]
    bytes: int

    def take(self) -> None:
        """Take the checkpoints away."""
        for epoch in self.epochs:
            self.run.checkpoint_path(epoch).unlink(missing_ok=True)


def thin(lab: Lab, every: int | None = None, unneeded: bool = False) -> list[Thinned]:
    """Which checkpoints of finished runs can go; nothing is taken away yet.

    The first and the last of a run stay. With both wishes an epoch goes that either lets go.

    Args:
        lab: whose runs.
        every: only every so many-th epoch is kept.
        unneeded: only epochs that a measured trial branches from are kept.

    Raises:
        ValueError: neither is said, or ``every`` is below 1.
    """
    if every is None and not unneeded:
        raise ValueError("say what to keep: every n-th epoch, or those that trials need")
    if every is not None:
        checks.count("every", every, minimum=1)
    found = []
    for run in map(lab.run, lab.recipes()):
        if run.finished:
            epochs = run.checkpoints
            kept = {*epochs[:1], *epochs[-1:], *_wanted(run, epochs, every, unneeded)}
            gone = tuple(epoch for epoch in epochs if epoch not in kept)
            size = sum(run.checkpoint_path(epoch).stat().st_size for epoch in gone)
            found.append(Thinned(run, gone, tuple(sorted(kept)), size))
    return found


def _wanted(run: Run, epochs: Iterable[int], every: int | None, unneeded: bool) -> set[int]:
    wanted = {epoch for epoch in epochs if every is None or epoch % every == 0}
    return wanted & _branched_from(run) if unneeded else wanted


def _branched_from(run: Run) -> set[int]:
    """The epochs at which the run's measured trials prune."""
    found = set()
    for path in run.path.glob("trials/[!.]*.json"):
        try:
            # Whatever else it asks for: a criterion of a notebook, say, is not known here.
            found.add(int(files.read_json(path)["trial"]["epoch"]))
        except (DamagedFile, FileNotFoundError, ValueError, KeyError, TypeError):
            continue  # it will be measured anew, from wherever it has to
    return found
