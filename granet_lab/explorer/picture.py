"""The explorer's picture: what stays is drawn once, what follows the slider is drawn over it."""

from __future__ import annotations

import io
import math
import statistics
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from PIL import Image

from granet_lab.explorer.lookup import Answer, Known, Line, Scene, mean_curve
from granet_lab.figures import panels
from granet_lab.training.recipes import Recipe, learning_rate

# CSS pixels, and dots for each of them: sharp on a laptop, and still quick to send.
WIDTH, HEIGHT, SHARPNESS = 940, 380, 1.5
_DPI = 100
_INK, _FAINT = "0.25", "0.62"
_SMALL, _NORMAL = 7.5, 8.5

# Wong's colours, told apart by colour-blind people too; shape and dash tell the same again.
COLOURS = {"A": "#0072B2", "B": "#D55E00"}
_DASHES = {"A": "-", "B": (0, (4, 1.5))}
_MARKERS = {"A": "o", "B": "s"}

# The accuracy axis is logarithmic in the error, so that a fall to chance and a tenth of a point
# are both seen; this many points are added to the error so that 100% has a place.
_ERROR_FLOOR = 0.1
_ACCURACIES = (0, 50, 80, 90, 95, 98, 99, 99.5, 99.8, 100)

Answers = Mapping[str, Sequence[Answer]]


class Picture:
    """A scene, drawn once; the epoch moves through it.

    Args:
        recipe: whose run; its length and its learning rate.
        scene: one setting or two.
    """

    def __init__(self, recipe: Recipe, scene: Scene) -> None:
        self._recipe, self._settings, self._layers = recipe, scene.known, scene.layers
        self._epochs, difference = recipe.epochs, scene.difference
        self._figure = Figure(figsize=(WIDTH / _DPI, HEIGHT / _DPI), dpi=_DPI * SHARPNESS)
        self._canvas = FigureCanvasAgg(self._figure)
        self._moving: list[Artist] = []
        columns = self._figure.add_gridspec(
            1,
            3,
            width_ratios=(1.55, 1, 0.72),
            wspace=0.28,
            left=0.055,
            right=0.99,
            bottom=0.15,
            top=0.88 - 0.045 * (len(scene.known) - 1),
        )
        self._trunk = self._figure.add_subplot(columns[0])
        self._lines = self._difference = None
        if difference is None:
            self._lines = self._figure.add_subplot(columns[1])
        else:
            rows = columns[1].subgridspec(2, 1, height_ratios=(1.5, 1), hspace=0.12)
            self._lines = self._figure.add_subplot(rows[0])
            self._difference = self._figure.add_subplot(rows[1], sharex=self._lines)
        room = columns[2].subgridspec(1, 2, width_ratios=(0.36, 1), wspace=0)
        self._sparsity = self._figure.add_subplot(room[1])
        self._draw_trunk()
        self._draw_lines(difference)
        self._draw_layers()
        self._draw_names()
        self._canvas.draw()
        self._background = self._canvas.copy_from_bbox(self._figure.bbox)

    def png(self, epoch: int, answers: Answers, note: str = "") -> bytes:
        """The picture at an epoch.

        Args:
            epoch: of pruning.
            answers: for each setting's name what is known, a trial for each seed.
            note: written below it.
        """
        self._move(epoch, answers)
        self._canvas.restore_region(self._background)
        renderer = self._canvas.get_renderer()
        for artist in self._moving:
            artist.draw(renderer)
        if note:
            footnote = self._figure.text(0.99, 0.012, note, fontsize=_SMALL, color=_INK, ha="right")
            footnote.draw(renderer)
            footnote.remove()
        size = self._canvas.get_width_height()
        pixels = Image.frombuffer("RGBA", size, self._canvas.buffer_rgba(), "raw", "RGBA", 0, 1)
        buffer = io.BytesIO()
        # Run lengths are what such a picture is made of: a third faster than deflate's search.
        pixels.convert("RGB").save(buffer, "PNG", compress_level=1, compress_type=zlib.Z_RLE)
        return buffer.getvalue()

    def save(self, path: str | Path, epoch: int, answers: Answers) -> list[Path]:
        """Write the picture at an epoch as PNG and PDF; return both paths."""
        self._move(epoch, answers)
        return panels.save(self._figure, path)

    # What stays.

    def _draw_trunk(self) -> None:
        axes = self._trunk
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
        self._epoch_axis(axes)
        _label(axes, "Epoch", "Test accuracy (%), logarithmic in the error")

    def _draw_lines(self, difference: Line | None) -> None:
        for known in self._settings:
            # After epoch 0 the gain is that of training; at the end nothing remains to recover.
            apart = {0} | ({self._epochs} if known.setting.lr == "remaining" else set())
            _draw_line(self._lines, known.line, known.name, apart)
        self._epoch_axis(self._lines)
        words = {"plasticity": "Plasticity", "final_gap": "Final gap"}
        measured = {words[known.setting.measures] for known in self._settings}
        title = f"{' or '.join(sorted(measured, reverse=True)).capitalize()} (points)"
        _label(self._lines, "" if difference else "Epoch of pruning", title)
        _limits(self._lines, [known.line for known in self._settings], self._epochs)
        if difference is not None:
            _draw_line(self._difference, difference, "A", {0}, colour=_INK)
            self._epoch_axis(self._difference)
            self._lines.tick_params(labelbottom=False)
            _label(self._difference, "Epoch of pruning", "A - B (points)")
            _limits(self._difference, [difference], self._epochs)

    def _draw_layers(self) -> None:
        axes = self._sparsity
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
                color=_INK,
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
            fontsize=_SMALL,
            handletextpad=0.1,
            columnspacing=0.8,
            borderpad=0,
        )

    def _draw_names(self) -> None:
        """What is compared, in words and in colours, above everything."""
        for i, known in enumerate(self._settings):
            name = f"{known.name}   " if len(self._settings) > 1 else ""
            self._figure.text(
                0.055,
                0.975 - 0.05 * i,
                f"{name}{known.setting}",
                color=COLOURS[known.name],
                fontsize=_NORMAL,
                fontweight="bold",
                va="top",
            )

    def _epoch_axis(self, axes: Axes) -> None:
        axes.set_xlim(-0.02 * self._epochs, 1.02 * self._epochs)
        for epoch in self._recipe.milestones:
            axes.axvline(epoch, color=_INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)

    # What follows the slider.

    def _move(self, epoch: int, answers: Answers) -> None:
        for artist in self._moving:
            artist.remove()
        self._moving = [
            *self._marker(epoch),
            *(artist for name in answers for artist in self._branch(epoch, name, answers[name])),
            *(artist for known in self._settings for artist in self._ring(epoch, known)),
            *self._dots(answers),
        ]
        for artist in self._moving:
            artist.set_animated(True)

    def _marker(self, epoch: int) -> Iterator[Artist]:
        for axes in filter(None, (self._trunk, self._lines, self._difference)):
            yield axes.axvline(epoch, color=_INK, linewidth=1, alpha=0.6)
        lr = learning_rate(self._recipe, min(epoch, self._epochs - 1))
        share = epoch / self._epochs
        yield self._trunk.annotate(
            f"epoch {epoch}, learning rate {lr:.4g}",
            xy=(epoch, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="left" if share < 0.25 else "right" if share > 0.75 else "center",
            fontsize=_NORMAL,
            color=_INK,
        )

    def _branch(self, epoch: int, name: str, answers: Sequence[Answer]) -> Iterator[Artist]:
        """The loss by pruning and the recovery: every seed thin, the mean thick."""
        colour, axes = COLOURS[name], self._trunk
        known = [answer for answer in answers if answer.curve]
        for answer in known if len(known) > 1 else ():
            y = [point["test_acc"] for point in answer.curve]
            yield axes.plot(range(epoch, epoch + len(y)), y, color=colour, lw=0.7, alpha=0.45)[0]
        x, y = mean_curve(known)
        if x:
            x = [epoch + k for k in x]
            befores = [a.row["acc_before"] for a in known if a.row.get("acc_before") is not None]
            if befores:
                yield axes.plot(
                    [epoch, epoch], [statistics.fmean(befores), y[0]], color=colour, lw=1.6, ls=":"
                )[0]
            few = len(x) <= 12
            yield axes.plot(
                x,
                y,
                color=colour,
                lw=1.8,
                ls=_DASHES[name],
                marker=_MARKERS[name],
                markersize=3.5,
                markevery=None if few else [0, len(x) - 1],
            )[0]

    def _ring(self, epoch: int, known: Known) -> Iterator[Artist]:
        """The chosen epoch on the lines against the epoch."""
        found = known.line.at(epoch)
        if found is not None:
            low, high = self._lines.get_ylim()
            yield self._lines.plot(
                [epoch],
                [min(max(found[0], low), high)],
                marker=_MARKERS[known.name],
                markersize=9,
                markerfacecolor="none",
                markeredgewidth=1.6,
                color=COLOURS[known.name],
                clip_on=False,
            )[0]

    def _dots(self, answers: Answers) -> Iterator[Artist]:
        """How sparse each layer is: before, pruned, regenerated; means over seeds."""
        several = len(answers) > 1
        for place, (name, found) in enumerate(answers.items()):
            known = [answer.layers for answer in found if answer.layers]
            if not known or len(known[0]) != len(self._layers):
                continue
            rows = np.arange(len(self._layers)) + (0.18 * (2 * place - 1) if several else 0)
            zeros = {
                stage: np.mean(
                    [[1 - one[stage] / one["size"] for one in seed] for seed in known], 0
                )
                for stage in ("before", "after", "regenerated")
            }
            colour, axes = COLOURS[name], self._sparsity
            yield axes.hlines(rows, zeros["before"], zeros["after"], color=colour, lw=1, alpha=0.5)
            dot = {"color": colour, "linestyle": "", "clip_on": False}
            yield axes.plot(zeros["before"], rows, marker="|", markersize=7, **dot)[0]
            yield axes.plot(zeros["after"], rows, marker="o", markersize=4.5, **dot)[0]
            if any(answer.trial.pruning.regrow for answer in found):
                yield axes.plot(
                    zeros["regenerated"],
                    rows,
                    marker="D",
                    markersize=6.5,
                    markerfacecolor="none",
                    **dot,
                )[0]


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
    axes.axhline(0, color=_INK, linewidth=0.8, zorder=0)
    axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(
        x,
        mean,
        color=colour,
        linewidth=1.4,
        linestyle=_DASHES[name],
        marker=_MARKERS[name] if few or len(x) == 1 else None,
        markersize=3,
    )
    alone = [i for i, x in enumerate(line.x) if x in apart]
    axes.plot(
        [line.x[i] for i in alone],
        [line.mean[i] for i in alone],
        color=colour,
        linestyle="",
        marker=_MARKERS[name],
        markersize=3,
        clip_on=True,
    )


def _limits(axes: Axes, lines: Sequence[Line], epochs: int) -> None:
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
    axes.set_xlabel(x, fontsize=_NORMAL)
    axes.set_ylabel(y, fontsize=_NORMAL)
    axes.tick_params(labelsize=_SMALL, colors=_INK)
    sns.despine(ax=axes)


def _short(name: str, length: int = 13) -> str:
    return name if len(name) <= length else f"…{name[1 - length :]}"
