"""What is under way, told through the store: who works on what, and how far they are.

A note is for people who look on. Nothing is computed from it, and losing one loses nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from granet_lab.experiments import files
from granet_lab.experiments.identity import describe, identity
from granet_lab.experiments.store import Run
from granet_lab.experiments.trials import Trial
from granet_lab.training.recipe import Recipe

# Of a training; that of a trial has the trial's hash.
_TRAINING = "training"
# Seconds between two notes of one task, and between two looks whether it should stop: often enough
# for people, too rare to cost anything.
_PAUSE = 0.15
# Seconds without a sign of life after which a task on another machine counts as given up.
_SILENCE = 600


class Stopped(Exception):
    """The task was asked to end before it was done."""


@dataclass(frozen=True)
class Note:
    """What a task said of itself last.

    Attributes:
        trial: the trial's description; None for the training of a run, or a sweep.
        done, of: epochs.
        curve: the trial's recovery curve so far.
        age: seconds since then.
        elapsed: seconds between its beginning and now.
        own: whether the task belongs to this process or one that it started.
        alive: whether the process that wrote it is still there.
    """

    trial: dict[str, Any] | None
    done: int
    of: int
    age: float
    alive: bool
    own: bool
    elapsed: float = 0.0
    curve: list[dict[str, Any]] = field(default_factory=list)


class Teller:
    """Leaves notes of how far something is, and learns that it should stop.

    Args:
        path: of the note.
        stop: a file; once it is there, the next :meth:`tell` raises :class:`Stopped`.
        facts: what the note says besides.
    """

    def __init__(self, path: Path, stop: Path | None = None, **facts: Any) -> None:
        self._path, self._stop, self._told, self._looked = path, stop, 0.0, 0.0
        who = {"host": platform.node(), "pid": os.getpid(), "parent": os.getppid()}
        self._facts = {**who, "began": time.time(), **facts}

    def tell(self, done: int, of: int, curve: Sequence[dict[str, Any]] = ()) -> None:
        """Leave a note, unless one was left a moment ago.

        Raises:
            Stopped: it is time to end.
        """
        if is_set(self._stop):
            raise Stopped
        if time.monotonic() - self._told < _PAUSE:
            return
        self._told = time.monotonic()
        said = self._facts | {"done": done, "of": of, "curve": list(curve)}
        with contextlib.suppress(OSError):  # the result itself will say that the disk is full
            files.write(self._path, json.dumps(said).encode(), durable=False)

    def check(self) -> None:
        """Look whether to stop, unless that was done a moment ago.

        Raises:
            Stopped: it is time to end.
        """
        if self._stop is None or time.monotonic() - self._looked < _PAUSE:
            return
        self._looked = time.monotonic()
        if is_set(self._stop):
            raise Stopped

    def end(self) -> None:
        """Take the note away."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


class Task(Teller):
    """Training a run, or measuring a trial: leaves its notes in the run's folder."""

    def __init__(self, run: Run, work: Recipe | Trial, stop: Path | None = None) -> None:
        facts = {"trial": describe(work)} if isinstance(work, Trial) else {}
        super().__init__(note_path(run, work), stop, **facts)


class Sweep(Teller):
    """Many tasks: leaves its notes in the lab's folder."""

    def __init__(self, root: Path) -> None:
        super().__init__(root / "progress" / f"{secrets.token_hex(4)}.json")


@contextlib.contextmanager
def telling(run: Run, work: Recipe | Trial, stop: Path | None = None) -> Iterator[Task]:
    """A :class:`Task` whose note goes away with the block, however that ends."""
    task = Task(run, work, stop)
    try:
        yield task
    finally:
        task.end()


def note(run: Run, work: Recipe | Trial) -> Note | None:
    """What a task last said of itself; None if it is not under way."""
    return _read(note_path(run, work))


def notes(run: Run) -> list[Note]:
    """Everything under way in a run."""
    found = [_read(path) for path in sorted(run.path.glob("progress/*.json"))]
    return [one for one in found if one is not None]


class News:
    """What tasks say of themselves, to one who looks often: nothing is read twice."""

    def __init__(self) -> None:
        self._seen: dict[Path, int] = {}
        self._rows: dict[Path, int] = {}

    def of(self, run: Run) -> dict[str, Note]:
        """What is new in a run since the last time, by the hash of the trial, or "training"."""
        found = {}
        for path in run.path.glob("progress/*.json"):
            written = _written(path)
            if self._seen.get(path) != written and (one := _read(path)) is not None:
                self._seen[path] = written
                found[path.stem] = one
        return found

    def rows(self, run: Run) -> int:
        """How many rows the history of a run has."""
        path = run.path / "history.jsonl"
        written = _written(path)
        if path not in self._rows or self._seen.get(path) != written:
            self._seen[path], self._rows[path] = written, len(run.rows())
        return self._rows[path]


def _written(path: Path) -> int | None:
    """When; None if the file is not there."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def sweeps(root: Path) -> list[Note]:
    """The sweeps under way in a lab."""
    found = [_read(path) for path in sorted(root.glob("progress/*.json"))]
    return [one for one in found if one is not None]


def note_path(run: Run, work: Recipe | Trial) -> Path:
    """Where the note of a task is, or would be."""
    name = identity(work) if isinstance(work, Trial) else _TRAINING
    return run.path / "progress" / f"{name}.json"


def is_set(stop: Path | None) -> bool:
    """Whether somebody has asked to stop."""
    return stop is not None and stop.exists()


def _read(path: Path) -> Note | None:
    try:
        now = time.time()
        age = max(0.0, now - path.stat().st_mtime)
        said = json.loads(path.read_bytes())
        here = said["host"] == platform.node()
        return Note(
            trial=said.get("trial"),
            done=int(said["done"]),
            of=int(said["of"]),
            curve=list(said["curve"]),
            age=age,
            elapsed=max(0.0, now - said["began"]),
            alive=psutil.pid_exists(said["pid"]) if here else age < _SILENCE,
            own=here and os.getpid() in (said["pid"], said["parent"]),
        )
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None  # gone meanwhile, or half of it lost with the machine: only a note
