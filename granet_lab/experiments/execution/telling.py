"""Leaving notes of what is under way, for whoever looks on; and learning that it should stop.

Tasks that a process has at once share a file in each folder: those of a stack come to the end of an
epoch together.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from granet_lab.experiments import files
from granet_lab.experiments.execution import presence

# The folder of notes, in that of a run or of a lab.
NOTES = "progress"
# Seconds between two notes, and between two looks whether to stop: often enough for people, too
# rare to cost anything; and how many times as long as writing takes.
_PAUSE, _REST = 0.15, 20
# Seconds after which a note is written again though there is nothing new, as a sign of life.
_ANEW = 60.0


class Stopped(Exception):
    """The task was asked to end before it was done."""


class Teller:
    """Says how far the tasks of one process are.

    Args:
        stop: a file; once it is there, :meth:`tell` and :meth:`check` raise :class:`Stopped`.
    """

    def __init__(self, stop: Path | None = None) -> None:
        self._stop, self._looked = stop, 0.0
        self._pages: dict[Path, _Page] = {}

    def tell(
        self, folder: Path, name: str, done: int, of: int, curve: Sequence[dict[str, Any]] = ()
    ) -> None:
        """Say how many epochs of a task are done. Of one by itself it can be read at once, unless
        another note was left a moment ago; those that are told together are written by the next
        :meth:`check`, all in one.

        Args:
            folder: of its run, or of the lab.
            name: of the task.
            done, of: epochs.
            curve: the recovery curve so far.

        Raises:
            Stopped: it is time to end.
        """
        if is_set(self._stop):
            raise Stopped
        if folder not in self._pages:
            self._pages[folder] = _Page(folder)
        self._pages[folder].say(name, {"done": done, "of": of}, curve)

    def check(self) -> None:
        """Look whether to stop, and write what was said, unless that was done a moment ago.

        Raises:
            Stopped: it is time to end.
        """
        if time.monotonic() - self._looked < _PAUSE:
            return
        self._looked = time.monotonic()
        if is_set(self._stop):
            raise Stopped
        for page in self._pages.values():
            page.freshen()

    def end(self, folder: Path, name: str) -> None:
        """A task is not under way any more."""
        if folder in self._pages:
            self._pages[folder].unsay(name)

    def close(self) -> None:
        """Nothing is under way any more."""
        for page in self._pages.values():
            page.clear()


class _Page:
    """What the tasks in one folder say. The first line tells how far they are, and each of the
    others one's curve: who counts epochs need not read those."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NOTES / f"{secrets.token_hex(8)}.notes"
        self._tasks: dict[str, dict[str, Any]] = {}
        self._curves: dict[str, Sequence[dict[str, Any]]] = {}
        self._stale, self._due, self._told = False, 0.0, 0.0

    def say(self, name: str, said: dict[str, int], curve: Sequence[dict[str, Any]]) -> None:
        began = self._tasks.get(name, {"began": time.time()})["began"]
        self._tasks[name], self._curves[name] = {"began": began, **said}, curve
        self._stale = True
        if len(self._tasks) == 1:
            self.freshen()

    def unsay(self, name: str) -> None:
        if name not in self._tasks:
            return
        del self._tasks[name], self._curves[name]
        self._stale = True
        if not self._tasks:
            self.clear()

    def clear(self) -> None:
        self._tasks, self._curves, self._stale = {}, {}, False
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def freshen(self) -> None:
        """Write what is new, unless that was done a moment ago."""
        began = time.monotonic()
        if began < self._due or not (self._stale or (self._tasks and began > self._told + _ANEW)):
            return
        lines = [_who() | {"tasks": self._tasks}, *map(list, self._curves.values())]
        content = "".join(f"{json.dumps(line)}\n" for line in lines)
        with contextlib.suppress(OSError):  # the result itself will say that the disk is full
            files.write(self._path, content.encode(), durable=False)
            self._stale, self._told = False, time.monotonic()
        now = time.monotonic()
        self._due = now + max(_PAUSE, _REST * (now - began))


def _who() -> dict[str, Any]:
    """Who tells."""
    me = os.getpid()
    return {
        "where": presence.here(),
        "pid": me,
        "born": presence.born(me),
        "parent": os.getppid(),
    }


def is_set(stop: Path | None) -> bool:
    """Whether somebody has asked to stop."""
    return stop is not None and stop.exists()
