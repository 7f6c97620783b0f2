"""What stays in the explorer's picture whatever the epoch: panels, lines, names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from granet_lab.explorer.lookup import Line, Scene
from granet_lab.training.recipe import Recipe

# CSS pixels, a hundred to matplotlib's inch.
WIDTH, HEIGHT = 940, 380
INK, _FAINT = "0.25", "0.62"
SMALL, NORMAL = 7.5, 8.5

# Wong's colours, told apart by colour-blind people too; shape and dash tell the same again.
COLOURS = {"A": "#0072B2", "B": "#D55E00"}
DASHES = {"A": "-", "B": (0, (4, 1.5))}
MARKERS = {"A": "o", "B": "s"}

# The accuracy axis is logarithmic in the error, so that a fall to chance and a tenth of a point
# are both seen; this many points are added to the error so that 100% has a place.
_ERROR_FLOOR = 0.1
_ACCURACIES = (0, 50, 80, 90, 95, 98, 99, 99.5, 99.8, 100)


class Scenery:
    """A scene as a figure, without anything that depends on the epoch.

    Args:
        recipe: whose run; its length and its learning-rate decays.
        scene: one setting or two.

    Attributes:
        figure: the whole.
        trunk: the axes of the accuracy; ``lines``: of what is measured against the epoch;
            ``difference``: of A minus B, None without a B; ``sparsity``: of the layers.
    """

    def __init__(self, recipe: Recipe, scene: Scene) -> None:
        self._recipe, self._settings, self._layers = recipe, scene.known, scene.layers
        self._epochs, difference = recipe.epochs, scene.difference
        self.figure = Figure(figsize=(WIDTH / 100, HEIGHT / 100))
        columns = self.figure.add_gridspec(
            1,
            3,
            width_ratios=(1.55, 1, 0.72),
            wspace=0.28,
            left=0.055,
            right=0.99,
            bottom=0.15,
            top=0.88 - 0.045 * (len(scene.known) - 1),
        )
        self.trunk = self.figure.add_subplot(columns[0])
        self.lines = self.difference = None
        if difference is None:
            self.lines = self.figure.add_subplot(columns[1])
        else:
            rows = columns[1].subgridspec(2, 1, height_ratios=(1.5, 1), hspace=0.12)
            self.lines = self.figure.add_subplot(rows[0])
            self.difference = self.figure.add_subplot(rows[1], sharex=self.lines)
        room = columns[2].subgridspec(1, 2, width_ratios=(0.36, 1), wspace=0)
        self.sparsity = self.figure.add_subplot(room[1])
        self._draw_trunk()
        self._draw_lines(difference)
        self._draw_layers()
        self._draw_names()

    def _draw_trunk(self) -> None:
        axes = self.trunk
        axes.set_yscale("function", functions=(_to_axis, _from_axis))
        methods = set()
        for known in self._settings:
            if known.setting.method not in methods:
                methods.add(known.setting.method)
                style = "-" if known.name == "A" else (0, (5, 2))
                axes.plot(
                    known.trunk.x, known.trunk.mean, color=_FAINT, linewidth=1.3, linestyle=style
                )
        trained = [value for known in self._settings for value in known.trunk.mean]
        lowest = [known.lowest for known in self._settings if known.lowest is not None]
        low, high = min([*trained, *lowest], default=0), max(trained, default=100)
        axes.set_ylim(_from_axis(_to_axis(low) - 0.06), _from_axis(_to_axis(high) + 0.1))
        axes.yaxis.set_major_locator(FixedLocator([a for a in _ACCURACIES if low - 8 < a]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        last = [known.setting.trial(self._recipe, self._epochs, 0) for known in self._settings]
        self._epoch_axis(axes, beyond=max(trial.recovery_epochs for trial in last))
        _label(axes, "Epoch", "Test accuracy (%), logarithmic in the error")

    def _draw_lines(self, difference: Line | None) -> None:
        for known in self._settings:
            # After epoch 0 the gain is that of training; at the end nothing remains to recover.
            apart = {0} | ({self._epochs} if known.setting.lr == "remaining" else set())
            _draw_line(self.lines, known.line, known.name, apart)
        self._epoch_axis(self.lines)
        words = {"plasticity": "Plasticity", "final_gap": "Final gap"}
        measured = {words[known.setting.measures] for known in self._settings}
        title = f"{' or '.join(sorted(measured, reverse=True)).capitalize()} (points)"
        _label(self.lines, "" if difference else "Epoch of pruning", title)
        _limits(self.lines, [known.line for known in self._settings])
        if difference is not None:
            _draw_line(self.difference, difference, "A", {0}, colour=INK)
            self._epoch_axis(self.difference)
            self.lines.tick_params(labelbottom=False)
            _label(self.difference, "Epoch of pruning", "A - B (points)")
            _limits(self.difference, [difference])

    def _draw_layers(self) -> None:
        axes = self.sparsity
        names = [name.removesuffix(".weight") for name in self._layers]
        axes.set_xlim(-0.04, 1.04)
        axes.set_ylim(len(names) - 0.4 if names else 1, -0.6)
        step = math.ceil(len(names) / 16) if names else 1
        axes.set_yticks(range(0, len(names), step), [_short(name) for name in names[::step]])
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        for i in range(len(names)):
            axes.axhline(i, color="0.92", linewidth=0.7, zorder=0)
        _label(axes, "Sparsity of each layer", "")
        axes.tick_params(axis="y", length=0)
        shapes = [("|", "before"), ("o", "pruned"), ("D", "regenerated")]
        handles = [
            axes.plot(
                [],
                [],
                linestyle="",
                marker=marker,
                color=INK,
                markersize=4.5,
                fillstyle="none" if marker == "D" else "full",
                label=text,
            )[0]
            for marker, text in shapes
        ]
        axes.legend(
            handles=handles,
            loc="lower right",
            bbox_to_anchor=(1.03, 1.0),
            ncols=3,
            frameon=False,
            fontsize=SMALL,
            handletextpad=0.1,
            columnspacing=0.8,
            borderpad=0,
        )

    def _draw_names(self) -> None:
        """What is compared, in words and in colours, above everything."""
        for i, known in enumerate(self._settings):
            name = f"{known.name}   " if len(self._settings) > 1 else ""
            self.figure.text(
                0.055,
                0.975 - 0.05 * i,
                f"{name}{known.setting}",
                color=COLOURS[known.name],
                fontsize=NORMAL,
                fontweight="bold",
                va="top",
            )

    def _epoch_axis(self, axes: Axes, beyond: int = 0) -> None:
        """From initialisation to the end of the run, and ``beyond`` it by some epochs."""
        axes.set_xlim(-0.02 * self._epochs, 1.02 * self._epochs + beyond)
        for epoch in self._recipe.milestones:
            axes.axvline(epoch, color=INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)


def _to_axis(accuracy: Any) -> Any:
    return -np.log10(np.maximum(100 - np.asarray(accuracy, dtype=float), 0) + _ERROR_FLOOR)


def _from_axis(place: Any) -> Any:
    return 100 + _ERROR_FLOOR - 10 ** -np.asarray(place, dtype=float)


def _draw_line(
    axes: Axes, line: Line, name: str, apart: set[int], colour: str | None = None
) -> None:
    """Means and their band; the points at the places ``apart`` stand by themselves."""
    colour = colour or COLOURS[name]
    inner = [i for i, x in enumerate(line.x) if x not in apart]
    x, mean, low, high = (
        [values[i] for i in inner] for values in (line.x, line.mean, line.low, line.high)
    )
    few = len(x) <= 25
    axes.axhline(0, color=INK, linewidth=0.8, zorder=0)
    axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(
        x,
        mean,
        color=colour,
        linewidth=1.4,
        linestyle=DASHES[name],
        marker=MARKERS[name] if few or len(x) == 1 else None,
        markersize=3,
    )
    alone = [i for i, x in enumerate(line.x) if x in apart]
    axes.plot(
        [line.x[i] for i in alone],
        [line.mean[i] for i in alone],
        color=colour,
        linestyle="",
        marker=MARKERS[name],
        markersize=3,
        clip_on=True,
    )


def _limits(axes: Axes, lines: Sequence[Line]) -> None:
    """Leave out what happens to untrained networks, unless there is nothing else."""

    def reach(skip: set[int]) -> list[float]:
        return [
            value
            for line in lines
            for i, x in enumerate(line.x)
            if x not in skip
            for value in (line.low[i], line.high[i])
        ]

    values = reach({0}) or reach(set()) or [-1.0, 1.0]
    low, high = min([*values, -0.3]), max([*values, 0.3])
    margin = 0.08 * (high - low)
    axes.set_ylim(low - margin, high + margin)


def _label(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=NORMAL)
    axes.set_ylabel(y, fontsize=NORMAL)
    axes.tick_params(labelsize=SMALL, colors=INK)
    sns.despine(ax=axes)


def _short(name: str, length: int = 13) -> str:
    return name if len(name) <= length else f"…{name[1 - length :]}"
