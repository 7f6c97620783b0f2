"""What is known of a setting: answers at one epoch, lines against the epoch, from memory."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from granet_lab.experiments import estimate
from granet_lab.experiments.execution import progress
from granet_lab.experiments.results import Results
from granet_lab.experiments.store import Run
from granet_lab.experiments.trials import Trial
from granet_lab.explorer.setting import Setting
from granet_lab.figures.statistics import interval
from granet_lab.training.recipe import Recipe


@dataclass(frozen=True)
class Answer:
    """What is known of one trial.

    Attributes:
        trial: the question.
        state: "measured", "diverged", "under way" or "missing".
        row: the tidy table's row; empty while there is none.
        curve: the recovery curve, or as much of it as there is.
        layers: active weights of each layer, see ``measure_trial``.
        note: who is at it, while it is under way.
    """

    trial: Trial
    state: str
    row: dict[str, Any] = field(default_factory=dict)
    curve: list[dict[str, Any]] = field(default_factory=list)
    layers: list[dict[str, Any]] = field(default_factory=list)
    note: progress.Note | None = None


@dataclass(frozen=True)
class Line:
    """Means over seeds, with 95% intervals: ``n`` seeds at each ``x``."""

    x: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]
    n: list[int]

    def at(self, x: int) -> tuple[float, float, float, int] | None:
        """Mean, low, high and n at a place; None if there is nothing."""
        if x not in self.x:
            return None
        i = self.x.index(x)
        return self.mean[i], self.low[i], self.high[i], self.n[i]


@dataclass(frozen=True)
class Known:
    """What is known of a setting whatever the epoch.

    Attributes:
        name: "A" or "B".
        setting: the setting.
        seeds: those it is averaged over.
        trunk: accuracy of the unpruned runs.
        line: what the setting measures, against the epoch.
        lowest: the lowest accuracy in any of its recovery curves.
    """

    name: str
    setting: Setting
    seeds: tuple[int, ...]
    trunk: Line
    line: Line
    lowest: float | None


@dataclass(frozen=True)
class Scene:
    """Everything about one or two settings that does not depend on the epoch.

    Attributes:
        known: the settings.
        difference: A minus B where there are two; empty if they measure different things.
        layers: names of the prunable parameters, if any trial has recorded them.
    """

    known: list[Known]
    difference: Line | None
    layers: list[str]

    def asks_the_same(self, other: Scene) -> bool:
        """Whether the settings and seeds are the same, whatever is known of them."""
        mine = [(known.setting, known.seeds) for known in self.known]
        return mine == [(known.setting, known.seeds) for known in other.known]


class Lookup:
    """Answers from the store to a recipe's settings.

    Args:
        root: the lab's folder.
        recipe: its method and seed are the setting's matter.
        results: refreshed by whoever owns it.
    """

    def __init__(self, root: Path, recipe: Recipe, results: Results) -> None:
        self._root, self._recipe, self._results = root, recipe, results
        self._trials: dict[tuple[Setting, int, int], Trial] = {}
        self._known: dict[Hashable, Any] = {}
        self._version = -1

    def trial(self, setting: Setting, epoch: int, seed: int) -> Trial:
        """The question that a setting asks at an epoch, checked once."""
        key = (setting, epoch, seed)
        if key not in self._trials:
            self._trials[key] = setting.trial(self._recipe, epoch, seed)
        return self._trials[key]

    def missing(self, trials: Iterable[Trial]) -> tuple[Trial, ...]:
        """Those that are not measured."""
        return tuple(trial for trial in trials if self._results.trial(trial) is None)

    def seconds(self, trials: tuple[Trial, ...], workers: int) -> float | None:
        """How long they would take, see ``estimate``."""
        key = ("seconds", trials, workers)
        return self._once(key, lambda: estimate.seconds(self._results, trials, workers))

    def answer(self, setting: Setting, epoch: int, seed: int) -> Answer:
        """What is known of one trial."""
        trial = self.trial(setting, epoch, seed)
        found = self._results.trial(trial)
        if found is not None:
            state = "measured" if found["row"]["status"] == "ok" else "diverged"
            layers = found.get("layers", [])
            return Answer(trial, state, found["row"], found["curve"], layers)
        note = progress.note(Run(self._root, trial.recipe), trial, curve=True)
        if note is not None and note.alive:
            return Answer(trial, "under way", curve=note.curve, note=note)
        return Answer(trial, "missing")

    def scene(self, settings: Mapping[str, Setting], seeds: Sequence[int]) -> Scene:
        """What is known whatever the epoch; the same object until the results change."""
        key = ("scene", *settings.items(), *seeds)
        return self._once(key, lambda: self._scene(settings, tuple(seeds)))

    def run_state(self, recipe: Recipe) -> str | None:
        """How far a run is, in words; None if it is finished."""
        rows = self._results.history(recipe)
        if rows and ("diverged" in rows[-1] or len(rows) == recipe.epochs + 1):
            return None
        note = progress.note(Run(self._root, recipe), recipe)
        done = max(0, len(rows) - 1)
        if note is not None and note.alive:
            who = "" if note.own else " in another process"
            return f"its run is training{who}, epoch {max(done, note.done)} of {note.of}"
        if rows:
            return f"its run stopped at epoch {done} of {recipe.epochs}"
        return "its run is not trained either"

    def at_work(self, answer: Answer) -> bool:
        """Whether a process is measuring the trial, or training the run that it branches from."""
        if answer.state == "under way":
            return True
        note = progress.note(Run(self._root, answer.trial.recipe), answer.trial.recipe)
        return answer.state == "missing" and note is not None and note.alive

    def _once(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        if self._version != self._results.version:
            self._known, self._version = {}, self._results.version
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]

    def _scene(self, settings: Mapping[str, Setting], seeds: tuple[int, ...]) -> Scene:
        known = [
            Known(
                name,
                chosen,
                seeds,
                self._once(("trunk", chosen.method, seeds), lambda c=chosen: self._trunk(c, seeds)),
                self._once(("line", chosen, seeds), lambda c=chosen: _line(self._values(c, seeds))),
                self._once(("lowest", chosen, seeds), lambda c=chosen: self._lowest(c, seeds)),
            )
            for name, chosen in settings.items()
        ]
        difference = self._difference(*settings.values(), seeds) if len(known) == 2 else None
        return Scene(known, difference, self._once("layers", self._layers))

    def _trunk(self, setting: Setting, seeds: Sequence[int]) -> Line:
        by_epoch: dict[int, dict[int, float]] = {}
        for seed in seeds:
            for row in self._results.history(setting.recipe(self._recipe, seed)):
                if row.get("test_acc") is not None:
                    by_epoch.setdefault(row["epoch"], {})[seed] = row["test_acc"]
        return _line(by_epoch)

    def _values(self, setting: Setting, seeds: Sequence[int]) -> dict[int, dict[int, float]]:
        """What the setting measures, by epoch and seed."""
        found = {}
        for epoch in range(self._recipe.epochs + 1):
            rows = {seed: self._row(setting, epoch, seed) for seed in seeds}
            known = {s: row[setting.measures] for s, row in rows.items() if row}
            known = {seed: value for seed, value in known.items() if value is not None}
            if known:
                found[epoch] = known
        return found

    def _row(self, setting: Setting, epoch: int, seed: int) -> dict[str, Any]:
        found = self._results.trial(self.trial(setting, epoch, seed))
        return found["row"] if found else {}

    def _difference(self, a: Setting, b: Setting, seeds: Sequence[int]) -> Line:
        if a.measures != b.measures:
            return _line({})
        left, right = self._values(a, seeds), self._values(b, seeds)
        return _line(
            {
                epoch: {s: left[epoch][s] - right[epoch][s] for s in seeds if s in both}
                for epoch in left.keys() & right.keys()
                if (both := left[epoch].keys() & right[epoch].keys())
            }
        )

    def _layers(self) -> list[str]:
        found = (trial.get("layers") for trial in self._results.all_trials())
        return [layer["layer"] for layer in next(filter(None, found), [])]

    def _lowest(self, setting: Setting, seeds: Sequence[int]) -> float | None:
        points = [
            point["test_acc"]
            for epoch in range(self._recipe.epochs + 1)
            for seed in seeds
            if (found := self._results.trial(self.trial(setting, epoch, seed)))
            for point in found["curve"]
        ]
        return min(points) if points else None


def mean_curve(answers: Sequence[Answer]) -> tuple[list[int], list[float]]:
    """The recovery curve, averaged over the seeds for as far as every one of them has come."""
    curves = [[point["test_acc"] for point in answer.curve] for answer in answers if answer.curve]
    length = min(map(len, curves), default=0)
    return list(range(length)), [statistics.fmean(c[i] for c in curves) for i in range(length)]


def _line(values: dict[int, dict[int, float]]) -> Line:
    x = sorted(values)
    groups = [list(values[place].values()) for place in x]
    intervals = [interval(group) for group in groups]
    return Line(
        x,
        [statistics.fmean(group) for group in groups],
        [low for low, _ in intervals],
        [high for _, high in intervals],
        [len(group) for group in groups],
    )
