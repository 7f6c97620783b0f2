"""Masks that change while a network trains."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from granet_lab.experiments.store import LAYER
from granet_lab.figures import heatmaps, panels
from granet_lab.figures.averages import (
    averaged,
    check_hue,
    milestones,
    refuse_mixture,
    refuse_repeats,
)
from granet_lab.figures.panels import NORMAL, Drawn
from granet_lab.sparsity.schedules import cosine
from granet_lab.sparsity.sparse_training import SparseTraining

# Columns of the history and how they are called.
_TRACKED = {
    "sparsity": "Sparsity",
    "exploration": "Weights ever active",
    "survival": "Regrown weights that stay",
    "test_acc": "Test accuracy (%)",
}
_PLANNED = {
    "sparsity": "Sparsity",
    "regrow_fraction": "Fraction of a layer dropped and regrown",
}
_DASH = 4


def schedules(methods: Iterable[SparseTraining], epochs: int) -> Drawn:
    """What methods intend: sparsity, and the fraction of each layer that an update drops and
    regrows, against the epoch.

    Args:
        methods: as recipes have them.
        epochs: of the run.

    Returns:
        The figure; the frame it draws: ``method`` (its name; in full where two have the same),
        ``epoch``, ``value`` ("sparsity", "regrow_fraction"), ``mean``.

    Raises:
        ValueError: there is no method, or the run is too short for one.
    """
    methods = list(dict.fromkeys(methods))
    if not methods:
        raise ValueError("there is no method whose schedule could be drawn")
    names = [method.name for method in methods]
    rows = []
    for method in methods:
        name = method.name if names.count(method.name) == 1 else str(method)
        method.check(epochs)
        for epoch in range(epochs + 1):
            rows.append((name, epoch, "sparsity", method.sparsity(epoch, epochs)))
            if method.regrow is not None and epoch < epochs:
                fraction = cosine(epoch / epochs, method.regrow_fraction, method.regrow_end)
                rows.append((name, epoch, "regrow_fraction", fraction))
    frame = pd.DataFrame(rows, columns=["method", "epoch", "value", "mean"])
    figure = panels.Page(figsize=(7.6, 3.0), dpi=120, layout="constrained")
    parts = [(value, part) for value, part in frame.groupby("value", sort=False)]
    drawn = []
    for axes, (value, part) in zip(
        figure.subplots(1, len(parts), squeeze=False)[0], parts, strict=True
    ):
        part = part.assign(low=part["mean"], high=part["mean"])
        panels.draw_lines(axes, part, "epoch", "method", panels.order(frame, "method"))
        _dash_what_coincides(axes)
        axes.set_title(_PLANNED[value], fontsize=NORMAL)
        drawn.append((axes, part))
    panels.finish(figure, drawn, "Epoch", "")
    return figure, frame


def _dash_what_coincides(axes: Axes) -> None:
    """Lines on top of one another share their length in dashes."""
    together: dict[tuple[float, ...], list[Line2D]] = {}
    for line in axes.get_lines():
        together.setdefault(tuple(line.get_ydata()), []).append(line)
    for lines in together.values():
        for place, line in enumerate(lines[1:], start=1):
            line.set_linestyle((_DASH * place, (_DASH, _DASH * (len(lines) - 1))))


def dynamics(history: pd.DataFrame, hue: str = "method") -> Drawn:
    """What becomes of the weights in the course of training, mean and 95% interval over seeds.

    Four panels against the epoch: sparsity, the fraction of the weights that was ever active,
    the fraction of what one update brought back that the next left in place, and test accuracy,
    whose axis leaves out the first twentieth of training.

    Args:
        history: from ``Lab.history``.
        hue: the column that the lines differ in.

    Returns:
        The figure; the frame it draws: ``value`` (a column of the history), ``hue``, ``epoch``,
        ``mean``, ``low``, ``high``, ``n`` (seeds).

    Raises:
        ValueError: there is nothing to draw, or settings are mixed.
    """
    found = [name for name in _TRACKED if name in history and history[name].notna().any()]
    if "exploration" not in found:
        raise ValueError("this is no history with masks: take it from Lab.history, of trained runs")
    check_hue(history, hue)
    # Beside a sparse network's sparsity the dense one's is another: no seed is there twice.
    free = ("pretrained_sparsity",)
    frames = [
        averaged(history, name, [], hue, "epoch", free)[0].assign(value=name) for name in found
    ]
    frame = pd.concat(frames, ignore_index=True)
    levels = panels.order(frame, hue)
    figure = panels.Page(figsize=(7.6, 5.0), dpi=120, layout="constrained")
    parts = []
    for axes, (name, part) in zip(
        figure.subplots(2, 2).flat, frame.groupby("value", sort=False), strict=False
    ):
        panels.draw_lines(axes, part, "epoch", hue, levels)
        panels.mark_decays(axes, milestones(history))
        axes.set_title(_TRACKED[name], fontsize=NORMAL)
        if name == "test_acc":
            start = range(part["epoch"].max() // 20 + 1)
            panels.focus(axes, part, "epoch", apart=start, tell=False)
        parts.append((axes, part))
    for axes in figure.axes[len(parts) :]:
        axes.remove()
    panels.finish(figure, parts, "Epoch", "")
    return figure, frame[["value", hue, "epoch", "mean", "low", "high", "n"]]


def layer_sparsity(history: pd.DataFrame, hue: str = "method") -> Drawn:
    """The sparsity of each layer after each epoch, a map for each value of ``hue``.

    Colours follow the logarithm of what is left; a layer with nothing left is grey.

    Args:
        history: from ``Lab.history``; over seeds the mean is drawn.
        hue: the column that the maps differ in.

    Returns:
        The figure; the frame it draws: ``hue``, ``layer``, ``epoch``, ``mean``.

    Raises:
        ValueError: no sparsities of layers were tracked, or settings are mixed.
    """
    names = [name for name in history if name.startswith(LAYER)]
    if not names or history[names].isna().all(axis=None):
        raise ValueError("this history has no sparsities of layers: take it from Lab.history")
    for name in ("dataset", "model"):
        refuse_mixture(name, history[name])
    check_hue(history, hue)
    for (level, _), part in history.groupby([hue, "epoch"]):
        refuse_repeats(part, f"{hue} {level}: ")
    long = history.melt([hue, "seed", "epoch"], names, "layer", "mean")
    long["layer"] = long["layer"].str.removeprefix(LAYER)
    frame = long.groupby([hue, "layer", "epoch"], sort=False)["mean"].mean().reset_index()
    return heatmaps.of_sparsity(frame, hue), frame
