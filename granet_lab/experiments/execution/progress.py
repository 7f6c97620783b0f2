"""What is under way, as the store tells it: who works on what, and how far they are.

A note is for people who look on. Nothing is computed from it, and losing one loses nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from granet_lab.experiments.execution import presence
from granet_lab.experiments.execution.telling import NOTES
from granet_lab.experiments.identity import identity
from granet_lab.experiments.store import Run
from granet_lab.experiments.trials import Trial
from granet_lab.training.recipe import Recipe

# The names of tasks that are no trials: those have their hashes.
TRAINING, SWEEP = "training", "sweep"
# Seconds without a sign of life after which a process on another machine counts as gone.
_SILENCE = 600
# What reading a file comes to that is no notes.
_UNREADABLE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
    ArithmeticError,
)


@dataclass(frozen=True)
class Note:
    """What a task said of itself last.

    Attributes:
        done, of: epochs.
        age: seconds since then.
        alive: whether the process that wrote it is still there.
        own: whether the task belongs to this process or one that it started.
        elapsed: seconds between its beginning and now.
        curve: the trial's recovery curve so far, where that was asked.
    """

    done: int
    of: int
    age: float
    alive: bool
    own: bool
    elapsed: float = 0.0
    curve: list[dict[str, Any]] = field(default_factory=list)


def named(work: Recipe | Trial) -> str:
    """The name under which the training of a run, or the measuring of a trial, tells of itself."""
    return identity(work) if isinstance(work, Trial) else TRAINING


def note(run: Run, work: Recipe | Trial, curve: bool = False) -> Note | None:
    """What a task last said of itself; None if it is not under way.

    Args:
        run: its run.
        work: the run's training, or a trial.
        curve: whether to read the trial's recovery curve, too.
    """
    return _notes(run, named(work) if curve else None).get(named(work))


def notes(run: Run) -> dict[str, Note]:
    """Everything under way in a run, by name, without the curves."""
    return _notes(run, None)


def _notes(run: Run, drawn: str | None) -> dict[str, Note]:
    found: dict[str, Note] = {}
    for path in _pages(run.path):
        for name, one in _read(path, drawn).items():
            if name not in found or _better(one, found[name]):
                found[name] = one
    return found


def sweeps(root: Path) -> list[Note]:
    """The sweeps under way in a lab."""
    return [found for path in _pages(root) for found in _read(path).values()]


def busy(folder: Path) -> bool:
    """Whether a process that is still there works in the folder of a run or a lab."""
    return any(one.alive for one in sweeps(folder))


def tidy(folder: Path, names: Iterable[str] = ()) -> None:
    """Take away the notes of processes that are gone, and those that nobody can read.

    Args:
        folder: of a run or a lab.
        names: of tasks of this process, or of those that it started, that are known to be over.
    """
    over = {*names}
    for path in _pages(folder):
        found = _read(path)
        lost = not found and time.time() - (_written(path) or 0) / 1e9 > _SILENCE
        dead = found and not any(one.alive for one in found.values())
        mine = found and over >= found.keys() and all(one.own for one in found.values())
        if lost or dead or mine:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


class News:
    """What tasks say of themselves, to one who looks often: nothing is read twice."""

    def __init__(self) -> None:
        self._seen: dict[Path, int] = {}
        self._rows: dict[Path, int] = {}

    def of(self, run: Run) -> Iterator[tuple[str, Note]]:
        """What is new in a run since the last time, by name, without the curves."""
        for path in _pages(run.path):
            written = _written(path)
            if self._seen.get(path) != written and (found := _read(path)):
                self._seen[path] = written
                yield from found.items()

    def rows(self, run: Run) -> int:
        """How many rows the history of a run has."""
        path = run.path / "history.jsonl"
        written = _written(path)
        if path not in self._rows or self._seen.get(path) != written:
            self._seen[path], self._rows[path] = written, len(run.rows())
        return self._rows[path]


def _pages(folder: Path) -> list[Path]:
    try:
        return sorted(folder.glob(f"{NOTES}/[!.]*.notes"))
    except OSError:
        return []


def _better(one: Note, other: Note) -> bool:
    """Whether a note says more than another of the same task: of a process that is there, or
    younger."""
    return (one.alive, -one.age) > (other.alive, -other.age)


def _written(path: Path) -> int | None:
    """When; None if the file is not there."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _read(path: Path, drawn: str | None = None) -> dict[str, Note]:
    """What a process says of its tasks, by name; with a curve for one of them."""
    try:
        now = time.time()
        with path.open("rb") as file:
            age = max(0.0, now - os.fstat(file.fileno()).st_mtime)
            said = json.loads(file.readline())
            tasks = said["tasks"]
            curve = _line(file, list(tasks).index(drawn)) if drawn in tasks else []
        pid, here = int(said["pid"]), said["where"] == presence.here()
        alive = not presence.gone(pid, said["born"]) if here else age < _SILENCE
        own = here and os.getpid() in (pid, said["parent"])
        return {
            name: Note(
                int(task["done"]),
                int(task["of"]),
                age,
                alive,
                own,
                max(0.0, now - task["began"]),
                curve if name == drawn else [],
            )
            for name, task in tasks.items()
        }
    except _UNREADABLE:
        return {}  # gone meanwhile, or half of it lost with the machine: only a note


def _line(file: BinaryIO, n: int) -> list[dict[str, Any]]:
    """One of the lines to come."""
    return list(json.loads(next(islice(file, n, None), b"")))
