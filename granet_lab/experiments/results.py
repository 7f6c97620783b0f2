"""What the store holds of some runs, kept in memory: a look-up reads no file."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from granet_lab.experiments import files
from granet_lab.experiments.files import DamagedFile
from granet_lab.experiments.identity import identity
from granet_lab.experiments.store import Run
from granet_lab.experiments.trials import Trial
from granet_lab.training.recipe import Recipe


class Results:
    """Trials and histories of some runs, as of the last :meth:`refresh`.

    Args:
        root: the lab's folder.

    Attributes:
        version: goes up whenever a refresh has found something new.
        damaged: the files that were set aside because they were not what had been written.
    """

    def __init__(self, root: Path) -> None:
        self.version = 0
        self.damaged: list[str] = []
        self._root = root
        self._shelves: dict[Recipe, _Shelf] = {}

    def refresh(self, recipes: Iterable[Recipe], thorough: bool = False) -> bool:
        """Read what was written since the last time; whether there was anything.

        Args:
            recipes: of the runs to look at.
            thorough: whether to look at each file, and not only at its folder: what was changed in
                its place is read again.
        """
        news = False
        for recipe in recipes:
            if recipe not in self._shelves:
                self._shelves[recipe] = _Shelf(Run(self._root, recipe))
            news |= self._shelves[recipe].refresh(self.damaged, thorough)
        self.version += news
        return news

    def trial(self, trial: Trial) -> dict[str, Any] | None:
        """What was found (see ``measure_trial``); None if it is not measured."""
        shelf = self._shelves.get(trial.recipe)
        return shelf.trials.get(identity(trial)) if shelf else None

    def history(self, recipe: Recipe) -> list[dict[str, Any]]:
        """The rows of a run's history."""
        shelf = self._shelves.get(recipe)
        return shelf.rows if shelf else []

    def all_trials(self) -> list[dict[str, Any]]:
        """Everything found, in no particular order."""
        return [found for shelf in self._shelves.values() for found in shelf.trials.values()]


class _Shelf:
    """One run."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.trials: dict[str, dict[str, Any]] = {}
        self.rows: list[dict[str, Any]] = []
        self._folder_seen: object = None
        self._seen: dict[str, object] = {}
        self._history_seen: object = None

    def refresh(self, damaged: list[str], thorough: bool) -> bool:
        """Whether anything is new."""
        history = files.stamp(self.run.path / "history.jsonl")
        folder = files.stamp(self.run.path / "trials")
        news = False
        if history != self._history_seen:
            news |= self._read_history(damaged)
            self._history_seen = history
        if thorough or folder != self._folder_seen:
            news |= self._read_trials(damaged)
            self._folder_seen = folder
        return news

    def _read_history(self, damaged: list[str]) -> bool:
        path = self.run.path / "history.jsonl"
        was_there = path.exists()
        rows, before = self.run.rows(), self.rows
        if was_there and not rows:
            _add(path, damaged)
        self.rows = rows
        return rows != before

    def _read_trials(self, damaged: list[str]) -> bool:
        """Read the trials that are new or changed, forget those that are gone."""
        there = _files(self.run.path / "trials")
        gone = self._seen.keys() - there.keys()
        new = [name for name, stamp in there.items() if self._seen.get(name) != stamp]
        for name in gone:
            self.trials.pop(name, None)
            del self._seen[name]
        before = {name: self.trials.pop(name, None) for name in new}
        for name in new:
            path = self.run.trial_path(name)
            try:
                self.trials[name] = files.read_json(path)
                self._seen[name] = there[name]
            except FileNotFoundError:
                continue
            except DamagedFile as found:
                files.set_aside(found, path)
                _add(path, damaged)
        return bool(gone) or any(self.trials.get(name) != old for name, old in before.items())


def _add(path: Path, damaged: list[str]) -> None:
    """Name a file, though no second time if it could not be set aside."""
    if str(path) not in damaged:
        damaged.append(str(path))


def _files(folder: Path) -> dict[str, object]:
    """The trials in a folder by name, with what changes when one is replaced."""
    try:
        with os.scandir(folder) as entries:
            return {
                entry.name.removesuffix(".json"): _marks(entry)
                for entry in entries
                if entry.name.endswith(".json") and not entry.name.startswith(".")
            }
    except FileNotFoundError:
        return {}


def _marks(entry: os.DirEntry) -> object:
    try:
        found = entry.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
