"""What is under way, as the store tells it: who works on what, and how far they are.

A note is for people who look on. Nothing is computed from it, and losing one loses nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from granet_lab.experiments.execution import presence
from granet_lab.experiments.execution.telling import FOLDER
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
    OverflowError,
    RecursionError,
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
        curve: the trial's recovery curve so far.
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


def note(run: Run, work: Recipe | Trial) -> Note | None:
    """What a task last said of itself; None if it is not under way."""
    return notes(run).get(named(work))


def notes(run: Run) -> dict[str, Note]:
    """Everything under way in a run, by name."""
    found: dict[str, Note] = {}
    for path in _pages(run.path):
        for name, one in _read(path).items():
            if name not in found or _better(one, found[name]):
                found[name] = one
    return found


def sweeps(root: Path) -> list[Note]:
    """The sweeps under way in a lab."""
    return [found for path in _pages(root) for found in _read(path).values()]


def tidy(folder: Path, names: Sequence[str] = ()) -> None:
    """Take away the notes of processes that are gone, and this process's own notes about the tasks
    that are named."""
    for path in _pages(folder):
        found = _read(path, curves=False)
        over = all(not one.alive for one in found.values())
        if found and (over or any(found[name].own for name in names if name in found)):
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
            if self._seen.get(path) != written and (found := _read(path, curves=False)):
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
    return sorted(folder.glob(f"{FOLDER}/[!.]*.notes"))


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


def _read(path: Path, curves: bool = True) -> dict[str, Note]:
    """What a process says of its tasks, by name."""
    try:
        now = time.time()
        with path.open("rb") as file:
            age = max(0.0, now - os.fstat(file.fileno()).st_mtime)
            said = json.loads(file.readline())
            drawn = json.loads(file.readline()) if curves else {}
        pid, here = int(said["pid"]), said["where"] == presence.here()
        alive = not presence.gone(pid) if here else age < _SILENCE
        own = here and os.getpid() in (pid, said["parent"])
        return {
            name: Note(
                int(task["done"]),
                int(task["of"]),
                age,
                alive,
                own,
                max(0.0, now - task["began"]),
                list(drawn[name]) if curves else [],
            )
            for name, task in said["tasks"].items()
        }
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RuntimeError,
        ArithmeticError,
    ):
        return {}  # gone meanwhile, or half of it lost with the machine: only a note
