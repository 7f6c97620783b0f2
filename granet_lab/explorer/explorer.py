"""The explorer: settings in, picture and numbers out, and a button for what is not measured."""

from __future__ import annotations

import base64
import functools
import html
import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd

from granet_lab.experiments.lab import Lab
from granet_lab.experiments.results import Results
from granet_lab.experiments.spelling import trials_code
from granet_lab.experiments.trials import Trial
from granet_lab.explorer import setting as settings
from granet_lab.explorer import words
from granet_lab.explorer.board import Board
from granet_lab.explorer.lookup import Answer, Lookup, Scene
from granet_lab.explorer.picture import Picture
from granet_lab.explorer.runner import Runner
from granet_lab.explorer.setting import Setting
from granet_lab.training.recipe import Recipe
from granet_lab.wording import counted

logger = logging.getLogger(__name__)

# Seconds that a scene stands at least, so that the slider stays quick while results come in.
_STAND = 1.0
_STILL = "A still picture: run this cell in JupyterLab to move the slider."


def _alone(method: Callable) -> Callable:
    """A callback that waits for the others, and whose failure is told in the widget."""

    @functools.wraps(method)
    def callback(self: Explorer, *_: Any) -> None:
        with self._lock:
            try:
                method(self)
            except KeyboardInterrupt:
                self._say("Interrupted. Nothing is lost: move the slider to draw again.")
            except Exception as error:
                logger.debug("in the explorer", exc_info=True)
                self._say(f"{type(error).__name__}: {error}")

    return callback


class Explorer:
    """A picture of a recipe's trials that follows a slider over the epoch of pruning.

    A notebook shows it when it is the value of a cell. Made by :func:`granet_lab.explore`.

    Attributes:
        lab, recipe: what is explored.
        board: the widgets; ``board.widget`` is the whole, to be put into a layout of one's own.
        runner: measures what is missing.
    """

    def __init__(self, lab: Lab, recipe: Recipe, **values: Any) -> None:
        self.lab, self.recipe = lab, recipe
        self._lock = threading.RLock()
        self._results = Results(lab.path)
        values = settings.asked(recipe, values)
        kin = settings.family(recipe, lab.recipes())
        self._results.refresh(kin)
        self._lookup = Lookup(lab.path, recipe, self._results)
        offered = settings.choices(recipe, kin, self._results, values)
        start = settings.first(recipe, values)
        regrow = "gradient" if start["regrow"] is None else None
        other = settings.fitting({**start, "regrow": regrow})
        epoch = values.get("epoch", [recipe.epochs // 2])[0]
        first = Setting.of(start).trial(recipe, epoch, recipe.seed)
        seeds = settings.first_seeds(recipe, self._results, values)
        self._drawn: tuple[Scene, float, Picture] | None = None
        self._answers: dict[str, list[Answer]] = {}
        self._note = ""
        self.board = Board(recipe.epochs, first.epoch, offered, {"A": start, "B": other}, seeds)
        self.runner = Runner(lab, first, self._follow)
        self._wire()
        self._show()

    # What is asked.

    @property
    def epoch(self) -> int:
        """The chosen epoch of pruning; setting it moves the slider."""
        return self.board.slider.value

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self.board.slider.value = epoch

    @property
    def seeds(self) -> list[int]:
        """The chosen seeds."""
        return self.board.seeds.seeds

    @property
    def settings(self) -> dict[str, Setting]:
        """What is chosen, by its letter: A, and B while two are compared."""
        shown = ("A", "B") if self.board.compare.value else ("A",)
        return {name: self.board.controls[name].setting for name in shown}

    @property
    def trials(self) -> list[Trial]:
        """The trials that the picture shows at this epoch, one for each setting and seed."""
        return self._trials([self.epoch])

    @property
    def curve(self) -> list[Trial]:
        """The trials of "Run all epochs"."""
        last = self.recipe.epochs
        return self._trials([*range(0, last, self.board.step.value), last])

    @property
    def table(self) -> pd.DataFrame:
        """The tidy table of those among :attr:`trials` that are measured."""
        return self.lab.table(self.trials)

    @property
    def code(self) -> list[str]:
        """A line of Python for each setting, that makes its trials."""
        return [
            trials_code([chosen.trial(self.recipe, self.epoch, seed) for seed in self.seeds])
            for chosen in self.settings.values()
        ]

    def _trials(self, epochs: Iterable[int]) -> list[Trial]:
        asked, seeds = self.settings.values(), self.seeds
        return [self._lookup.trial(s, e, seed) for e in epochs for s in asked for seed in seeds]

    # What is shown.

    def _wire(self) -> None:
        board = self.board
        board.observe(self._show)
        board.run.on_click(self._run)
        board.run_all.on_click(self._run_all)
        board.cancel.on_click(self._cancel)
        board.save.on_click(self._save)
        board.back.on_click(self._back)
        board.forth.on_click(self._forth)

    @_alone
    def _show(self) -> None:
        self.runner.dismiss()
        self._draw()

    @_alone
    def _follow(self) -> None:
        self._draw(self._note)

    def _draw(self, note: str = "") -> None:
        """Picture, numbers, words and buttons for what is asked now."""
        self._results.refresh({trial.recipe for trial in self.trials})
        self._answers = {
            name: [self._lookup.answer(chosen, self.epoch, seed) for seed in self.seeds]
            for name, chosen in self.settings.items()
        }
        scene = self._lookup.scene(self.settings, self.seeds)
        picture = self._picture(scene)
        self.board.overlay.value = picture.overlay(self.epoch, self._answers)
        self.board.image.value = picture.background
        self.board.numbers.value = words.numbers(scene, self._answers, self.epoch)
        self.board.code.value = "".join(words.code(line) for line in self.code)
        self._say(note)
        if self._others_at_work():
            self.runner.follow(self._others_at_work)

    def _picture(self, scene: Scene) -> Picture:
        """The background that the epoch moves through, drawn anew if anything in it changed."""
        if self._drawn is not None:
            drawn, when, picture = self._drawn
            young = self.runner.running and time.monotonic() - when < _STAND
            if drawn is scene or (young and drawn.asks_the_same(scene)):
                return picture
        picture = Picture(self.recipe, scene)
        self._drawn = scene, time.monotonic(), picture
        return picture

    def _say(self, note: str) -> None:
        """State, estimates and what happened, in words; and the buttons that fit them."""
        self._note = note
        runner, missing = self.runner, self._lookup.missing(self.trials)
        said = self._states()
        if missing and not runner.running:
            said[-1] += f" Run: {self._span(missing)}."
        damaged = [f"Damaged and set aside: {path}" for path in self._results.damaged[-3:]]
        said += [*runner.result(), note, *damaged]
        self.board.status.value = "<br>".join(html.escape(text) for text in said if text)
        curve = self._lookup.missing(self.curve)
        whole = f"Run all epochs ({counted(len(curve), 'trial')}, {self._span(curve)})"
        self.board.run_all.description = whole if curve else "All epochs measured"
        self.board.arrange(len(self.settings) > 1, runner.running, bool(missing), bool(curve))
        if runner.running:
            self.board.progress(*runner.job.progress())

    def _states(self) -> list[str]:
        said: dict[str, list[str]] = {}
        for name, answers in self._answers.items():
            runs = {a.trial.recipe.seed: self._lookup.run_state(a.trial.recipe) for a in answers}
            said.setdefault(words.state(answers, runs, self.runner.failed), []).append(name)
        if len(self._answers) == 1:
            return list(said)
        return [f"{' and '.join(names)}: {text}" for text, names in said.items()]

    def _span(self, trials: tuple[Trial, ...]) -> str:
        seconds = self._lookup.seconds(trials, self.runner.workers)
        return words.duration(None if seconds is None else seconds + self.runner.head_start)

    def _others_at_work(self) -> bool:
        return any(
            self._lookup.at_work(answer) for found in self._answers.values() for answer in found
        )

    # What the buttons do.

    @_alone
    def _run(self) -> None:
        self.runner.begin(self._lookup.missing(self.trials))
        self._draw()

    @_alone
    def _run_all(self) -> None:
        self.runner.begin(self._lookup.missing(self.curve))
        self._draw()

    @_alone
    def _cancel(self) -> None:
        if self.runner.running:
            self.runner.job.cancel()
        self._draw()

    @_alone
    def _save(self) -> None:
        named = "-vs-".join(setting.slug for setting in self.settings.values())
        path = self.lab.path.parent / "figures" / "explorer" / f"epoch{self.epoch}-{named}"
        picture = self._picture(self._lookup.scene(self.settings, self.seeds))
        written = picture.save(path, self.epoch, self._answers)
        self._say(f"Saved {' and '.join(map(str, written))}")

    @_alone
    def _back(self) -> None:
        self._jump(max((e for e in self._measured() if e < self.epoch), default=None))

    @_alone
    def _forth(self) -> None:
        self._jump(min((e for e in self._measured() if e > self.epoch), default=None))

    def _jump(self, epoch: int | None) -> None:
        if epoch is None:
            self._say("No epoch is measured there.")
        else:
            self.epoch = epoch

    def _measured(self) -> set[int]:
        """The epochs that any of the settings has a point at."""
        scene = self._lookup.scene(self.settings, self.seeds)
        return {epoch for known in scene.known for epoch in known.line.x}

    # What a notebook shows.

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """The live widget; a still picture for a page that no kernel stands behind."""
        with self._lock:
            scene = self._lookup.scene(self.settings, self.seeds)
            still = self._picture(scene).still(self.epoch, self._answers, note=_STILL)
        live = self.board.widget._repr_mimebundle_()
        png = base64.b64encode(still).decode()
        return {**live, "image/png": png, "text/plain": repr(self)}

    def __repr__(self) -> str:
        return f"Explorer({self.recipe.dataset}, {self.recipe.model}: epoch {self.epoch})"


def explore(lab: Lab, recipe: Recipe, **values: Any) -> Explorer:
    """Sliders over everything that a lab holds of a recipe, and a button for what it does not.

    Args:
        lab: where the trials are kept.
        recipe: what is trained; its seed and method can be chosen in the widget.
        values: where the controls start, by the names that :func:`granet_lab.grid` takes:
            ``epoch``, ``seed``, ``method``, ``lr`` ("frozen" or "remaining"), ``recovery_epochs``,
            ``reestimate_batchnorm``, and those of :class:`Pruning`. Several values are all
            offered, and the first one is chosen; all of several seeds are.

    Returns:
        What a notebook shows when it is the value of a cell. Its ``trials``, ``table`` and
        ``code`` say what is chosen at any time.

    Raises:
        ValueError: an unknown name, or a value that a trial would refuse.
    """
    return Explorer(lab, recipe, **values)
