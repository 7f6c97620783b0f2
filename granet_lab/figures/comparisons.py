"""Ways of training sparse beside one another: accuracy at the end of training."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
from matplotlib.axes import Axes

from granet_lab.figures import panels
from granet_lab.figures.averages import averaged, refuse_mixture
from granet_lab.figures.panels import INK, Drawn

_SIZE = (5.2, 3.6)


def methods(table: pd.DataFrame) -> Drawn:
    """Test accuracy at the end of training against sparsity, a line for each method.

    Means over seeds with 95% intervals. The sparsities stand at equal distances; the dotted line
    is the dense network.

    Args:
        table: from ``Lab.compare``.

    Returns:
        The figure; the frame it draws: ``method``, ``asked_sparsity``, ``mean``, ``low``,
        ``high`` (percent), ``n`` (seeds), ``place`` (along the axis).

    Raises:
        ValueError: there is nothing to draw, or the table mixes recipes.
    """
    return _draw(table, "asked_sparsity", "method", "Sparsity", lambda s: f"{100 * s:g}%")


def ablation(
    table: pd.DataFrame, x: str = "regrow_fraction", hue: str = "initial_sparsity"
) -> Drawn:
    """Test accuracy at the end of training against one number of a method, a line for each value
    of another.

    Args:
        table: from ``Lab.compare``, of methods that differ in these two alone.
        x: column along the horizontal axis.
        hue: column that the lines differ in.

    Returns:
        The figure; the frame it draws: ``hue``, ``x``, ``mean``, ``low``, ``high`` (percent),
        ``n`` (seeds), ``place`` (along the axis).

    Raises:
        ValueError: there is nothing to draw, or the table mixes more.
    """
    return _draw(table, x, hue, x.replace("_", " ").capitalize(), lambda value: f"{value:g}")


def _draw(table: pd.DataFrame, x: str, hue: str, title: str, tick: Callable[[float], str]) -> Drawn:
    for name in ("method", "asked_sparsity", x, hue):
        if name not in table:
            raise ValueError(f"this is no comparison of methods: it has no column {name}")
    sparse = table[table["method"] != "dense"]
    free = () if hue == "method" else ("method",)
    if "asked_sparsity" not in (x, hue):
        refuse_mixture("asked_sparsity", sparse["asked_sparsity"])
    frame, _ = averaged(sparse, "test_acc", [], hue, x, free, lines=False)
    places = sorted(frame[x].unique())
    frame = frame.assign(place=frame[x].map(places.index).astype(float))
    figure, parts = panels.grid_of_axes(frame, None, None)
    figure.set_size_inches(*_SIZE)
    for axes, part in parts:
        _mark_dense(axes, table)
        panels.draw_lines(axes, part, "place", hue, panels.order(frame, hue))
        axes.set_xticks(range(len(places)), [tick(value) for value in places])
    panels.finish(figure, parts, title, "Test accuracy (%)")
    return figure, frame


def _mark_dense(axes: Axes, table: pd.DataFrame) -> None:
    dense = table.loc[table["method"] == "dense", "test_acc"].mean()
    if pd.notna(dense):
        axes.axhline(dense, color=INK, linewidth=1, linestyle=":", label="dense")
