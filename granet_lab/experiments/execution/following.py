"""How far a sweep is, seen in the store, and the bar that says so."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from granet_lab.experiments.estimate import about
from granet_lab.experiments.execution import progress
from granet_lab.experiments.execution.pace import Pace
from granet_lab.experiments.execution.telling import Teller
from granet_lab.experiments.identity import identity
from granet_lab.experiments.store import Run
from granet_lab.experiments.trials import Trial
from granet_lab.training.recipe import Recipe
from granet_lab.wording import counted

# How often somebody looks into the store, in seconds.
GLANCE = 0.3
# The kinds of work, whose epochs take different times.
_RUN, _TRIAL = "run", "trial"
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} epochs [{elapsed}{postfix}]"


class Following:
    """Follows runs and trials that others train.

    Args:
        root: the lab's folder.
        runs: all that is worked on, or branched from.
        trials: what is measured.
        cached: how many more were asked, and are there.
        bar: whether to show one.

    Attributes:
        left: epochs of runs and of trials that are still to come.
        failed: how many trials have failed so far.
    """

    def __init__(
        self,
        root: Path,
        runs: Mapping[Recipe, Run],
        trials: Sequence[Trial],
        cached: int,
        bar: bool,
    ) -> None:
        self._runs, self._cached, self.failed = runs, cached, 0
        self._names = {identity(trial): trial for trial in trials}
        self._reached: dict[Trial, int] = {}
        self._rows = {r: len(run.rows()) for r, run in runs.items() if not run.finished}
        self.left = {
            _RUN: sum(recipe.epochs + 1 - n for recipe, n in self._rows.items()),
            _TRIAL: sum(trial.recovery_epochs for trial in trials),
        }
        self._all = sum(self.left.values())
        self._pace, self._passed = Pace(), dict.fromkeys(self.left, 0)
        self._under_way: set[Recipe | Trial] = set()
        self._looked = 0.0
        self._root, self._teller, self._news = root, Teller(), progress.News()
        parts = [counted(len(self._rows), "run")] if self._rows else []
        parts += [counted(len(trials), "trial")] if trials else []
        self.bar = tqdm(
            total=self._all,
            unit="epoch",
            desc=" and ".join(parts),
            disable=not bar,
            bar_format=_BAR,
            mininterval=0.5,
        )

    def close(self) -> None:
        """Take away the bar, and what says that a sweep is under way."""
        self.bar.close()
        self._teller.close()

    def now_and_then(self) -> None:
        """Look, unless that was done a moment ago."""
        if time.monotonic() - self._looked >= GLANCE:
            self.look()

    def look(self) -> None:
        """Count the epochs that tasks have told of in the store since the last time."""
        for recipe in self._rows:
            self._look_at(recipe)
        for recipe, run in self._runs.items():
            for name, note in self._news.of(run):
                if name in self._names and note.alive:
                    self._under_way.add(self._names[name])
                    self.reach(self._names[name], note.done)
                elif name == progress.TRAINING and note.alive and recipe in self._rows:
                    self._under_way.add(recipe)
        for trial in [one for one in self._under_way if isinstance(one, Trial)]:
            if self._runs[trial.recipe].trial_path(identity(trial)).exists():
                self.end(trial)  # others of its task go on
        self._pace.passed(self._passed)
        if self._under_way or self._reached:
            self._pace.begin()
        self._passed = dict.fromkeys(self._passed, 0)
        done = self._all - sum(self.left.values())
        self.bar.set_postfix_str(self._said(), refresh=False)
        self.bar.update(done - self.bar.n)
        self._teller.tell(self._root, progress.SWEEP, done, self._all)
        self._looked = time.monotonic()

    def reach(self, trial: Trial, epochs: int) -> None:
        """A trial has come so far, or further."""
        before = self._reached.get(trial, 0)
        self._reached[trial] = max(before, epochs)
        self._count(_TRIAL, self._reached[trial] - before)

    def end(self, work: Recipe | Trial) -> None:
        """Something is not under way any more."""
        if isinstance(work, Trial):
            self._under_way.discard(work)
            self.reach(work, work.recovery_epochs)
        elif work in self._rows:
            self._look_at(work)
            self._under_way.discard(work)
            # What it has left if it diverged never comes, and says nothing about the others' pace.
            self.left[_RUN] -= work.epochs + 1 - self._rows.pop(work)

    def _look_at(self, recipe: Recipe) -> None:
        rows = max(self._news.rows(self._runs[recipe]), self._rows[recipe])
        self._count(_RUN, rows - self._rows[recipe])
        self._rows[recipe] = rows

    def _count(self, kind: str, epochs: int) -> None:
        self._passed[kind] += epochs
        self.left[kind] -= epochs

    def _said(self) -> str:
        """What the bar says besides epochs."""
        seconds = self._pace.left(self.left)
        parts = [f"{about(seconds)} left"] if seconds else []
        counts = {
            "running": len(self._under_way),
            "cached": self._cached,
            "failed": self.failed,
        }
        return ", ".join([*parts, *(f"{n} {what}" for what, n in counts.items() if n)])
