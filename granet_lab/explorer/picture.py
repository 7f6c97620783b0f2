"""The explorer's picture: a background drawn once, and over it what follows the slider."""

from __future__ import annotations

import io
import statistics
import zlib
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import RendererSVG
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from PIL import Image

from granet_lab.explorer.lookup import Answer, Known, Scene, mean_curve
from granet_lab.explorer.scenery import COLOURS, DASHES, INK, MARKERS, NORMAL, SMALL, Scenery
from granet_lab.figures import panels
from granet_lab.training.recipe import Recipe, learning_rate

Answers = Mapping[str, Sequence[Answer]]

# Of the background: sharp on screens of twice the usual density, too.
_DOTS_PER_INCH = 200
# An SVG is measured in points.
_POINTS_PER_INCH = 72


class Picture:
    """A scene, drawn once; the epoch moves through it.

    The background is a PNG. What moves is a small SVG to be laid over it, which is made, sent and
    shown in a fraction of the time that a picture takes.

    Args:
        recipe: whose run; its length and its learning rate.
        scene: one setting or two.

    Attributes:
        background: PNG of everything that does not depend on the epoch.
    """

    def __init__(self, recipe: Recipe, scene: Scene) -> None:
        self._recipe, self._settings, self._layers = recipe, scene.known, scene.layers
        self._scenery = Scenery(recipe, scene)
        self._figure = self._scenery.figure
        self._canvas = FigureCanvasAgg(self._figure)
        self._moving: list[Artist] = []
        self.background = self._png()

    def overlay(self, epoch: int, answers: Answers) -> str:
        """What the epoch adds to the background, as an SVG element of the same shape.

        Args:
            epoch: of pruning.
            answers: for each setting's name what is known, a trial for each seed.
        """
        self._move(epoch, answers)
        width, height = self._figure.get_size_inches() * _POINTS_PER_INCH
        written = io.StringIO()
        renderer = RendererSVG(width, height, written, image_dpi=_POINTS_PER_INCH)
        for artist in self._moving:
            artist.draw(renderer)
        renderer.finalize()
        # Without the head of a file, whose style would apply to the whole page.
        drawn = written.getvalue()
        drawn = drawn[drawn.index("<g ") :]
        return (
            '<svg xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="0 0 {width:g} {height:g}" role="img" '
            f'aria-label="{escape(self._title(epoch))}" '
            f'style="stroke-linejoin:round;stroke-linecap:butt">{drawn}'
        )

    def still(self, epoch: int, answers: Answers, note: str = "") -> bytes:
        """Everything in one PNG.

        Args:
            epoch: of pruning.
            answers: for each setting's name what is known, a trial for each seed.
            note: written below it.
        """
        self._move(epoch, answers)
        footnote = self._figure.text(0.99, 0.012, note, fontsize=SMALL, color=INK, ha="right")
        try:
            return self._png()
        finally:
            footnote.remove()

    def save(self, path: str | Path, epoch: int, answers: Answers) -> list[Path]:
        """Write the picture at an epoch as PNG and PDF; return both paths."""
        self._move(epoch, answers)
        return panels.save(self._figure, path)

    def _png(self) -> bytes:
        self._figure.set_dpi(_DOTS_PER_INCH)
        self._canvas.draw()
        size = self._canvas.get_width_height()
        pixels = Image.frombuffer("RGBA", size, self._canvas.buffer_rgba(), "raw", "RGBA", 0, 1)
        self._figure.set_dpi(_POINTS_PER_INCH)
        written = io.BytesIO()
        # Run lengths are what such a picture is made of: a third faster than deflate's search.
        pixels.convert("RGB").save(written, "PNG", compress_level=1, compress_type=zlib.Z_RLE)
        return written.getvalue()

    def _title(self, epoch: int) -> str:
        lr = learning_rate(self._recipe, min(epoch, self._recipe.epochs - 1))
        return f"epoch {epoch}, learning rate {lr:.4g}"

    def _move(self, epoch: int, answers: Answers) -> None:
        for artist in self._moving:
            artist.remove()
        self._moving = [
            *self._marker(epoch),
            *(artist for name in answers for artist in self._branch(epoch, name, answers[name])),
            *(artist for known in self._settings for artist in self._ring(epoch, known)),
            *self._gap(epoch, answers),
            *self._dots(answers),
        ]

    def _marker(self, epoch: int) -> Iterator[Artist]:
        for axes in filter(
            None, (self._scenery.trunk, self._scenery.lines, self._scenery.difference)
        ):
            yield _line(
                axes,
                [epoch, epoch],
                [0, 1],
                transform=axes.get_xaxis_transform(),
                color=INK,
                lw=1,
                alpha=0.6,
            )
        yield self._scenery.trunk.annotate(
            self._title(epoch),
            xy=(epoch, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            ha=self._side(epoch, 0.25, 0.75),
            fontsize=NORMAL,
            color=INK,
        )

    def _gap(self, epoch: int, answers: Answers) -> Iterator[Artist]:
        """In words, beside the marker, where there is no branch."""
        missing = [
            name
            for name, found in answers.items()
            if all(answer.state == "missing" for answer in found)
        ]
        side = self._side(epoch, 0.7, 0.7)
        for line, name in enumerate(missing):
            yield self._scenery.trunk.annotate(
                f"{name}: not measured yet" if len(answers) > 1 else "not measured yet",
                xy=(epoch, 0.5),
                xycoords=("data", "axes fraction"),
                xytext=(6 if side == "left" else -6, -14 * line),
                textcoords="offset points",
                ha=side,
                fontsize=NORMAL,
                fontstyle="italic",
                color=COLOURS[name],
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.85},
            )

    def _side(self, epoch: int, low: float, high: float) -> str:
        """How a text at the marker is aligned so that it stays inside."""
        share = epoch / self._recipe.epochs
        return "left" if share < low else "right" if share > high else "center"

    def _branch(self, epoch: int, name: str, answers: Sequence[Answer]) -> Iterator[Artist]:
        """The loss by pruning and the recovery: every seed thin, the mean thick."""
        colour, axes = COLOURS[name], self._scenery.trunk
        known = [answer for answer in answers if answer.curve]
        if len(known) > 1:
            each = [[(epoch + k, p["test_acc"]) for k, p in enumerate(a.curve)] for a in known]
            yield axes.add_artist(LineCollection(each, colors=colour, linewidths=0.7, alpha=0.45))
        x, y = mean_curve(known)
        if x:
            x = [epoch + k for k in x]
            befores = [a.row["acc_before"] for a in known if a.row.get("acc_before") is not None]
            if befores:
                drop = [statistics.fmean(befores), y[0]]
                yield _line(axes, [epoch, epoch], drop, color=colour, lw=1.6, ls=":")
            few = len(x) <= 12
            yield _line(
                axes,
                x,
                y,
                color=colour,
                lw=1.8,
                ls=DASHES[name],
                marker=MARKERS[name],
                markersize=3.5,
                markevery=None if few else [0, len(x) - 1],
            )

    def _ring(self, epoch: int, known: Known) -> Iterator[Artist]:
        """The chosen epoch on the lines against the epoch."""
        found = known.line.at(epoch)
        if found is not None:
            low, high = self._scenery.lines.get_ylim()
            yield _line(
                self._scenery.lines,
                [epoch],
                [min(max(found[0], low), high)],
                marker=MARKERS[known.name],
                markersize=9,
                markerfacecolor="none",
                markeredgewidth=1.6,
                color=COLOURS[known.name],
                clip_on=False,
            )

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
            colour, axes = COLOURS[name], self._scenery.sparsity
            spans = zip(zeros["before"], zeros["after"], rows, strict=True)
            ways = [[(low, row), (high, row)] for low, high, row in spans]
            yield axes.add_artist(LineCollection(ways, colors=colour, linewidths=1, alpha=0.5))
            dot = {"color": colour, "linestyle": "", "clip_on": False}
            yield _line(axes, zeros["before"], rows, marker="|", markersize=7, **dot)
            yield _line(axes, zeros["after"], rows, marker="o", markersize=4.5, **dot)
            if any(answer.trial.pruning.regrow for answer in found):
                yield _line(
                    axes,
                    zeros["regenerated"],
                    rows,
                    marker="D",
                    markersize=6.5,
                    markerfacecolor="none",
                    **dot,
                )


def _line(axes: Axes, x: Sequence[float], y: Sequence[float], **style: Any) -> Artist:
    """A line that the axes do not fit their limits to: a third of the time of ``plot``."""
    return axes.add_artist(Line2D(x, y, **style))
