"""Panels of lines with intervals: one look for every figure, no global matplotlib state."""

from __future__ import annotations

import io
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from granet_lab.sparsity.naming import EVERY

# What a plot gives: the picture, and the numbers that it draws.
Drawn = tuple[Figure, pd.DataFrame]

# Inches: three panels fill the width of a page, and every panel keeps its size.
_PANEL_WIDTH, _PANEL_HEIGHT = 2.6, 2.5
SMALL, NORMAL = 8, 9
INK = "0.25"
DASHES = (0, (4, 3))
# Percentage points: a panel never magnifies less than this to its whole height.
_LEAST_SPAN = 2.0

# When the colours begin again, lines are dashed.
_COLOURS = 10
_STROKES = ("-", (0, (5, 1.5)))
_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
# What looks the same in every figure, whatever stands beside it.
_ORDERS = {
    "regrow": ("none", "gradient", "random", "momentum"),
    "method": (
        *("dense", "static", "set", "rigl", "gmp", "granet", "granet_st", "gsm"),
        *("lottery", "lr_rewinding", "one_shot", "snip", "grasp", "synflow"),
    ),
}


class Page(Figure):
    """A figure that a notebook shows by itself, without pyplot: as a sharp PNG."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=120)
        width, height = (round(72 * inches) for inches in self.get_size_inches())
        return buffer.getvalue(), {"width": width, "height": height}


def label(name: str, value: Any) -> str:
    """A value of a column in words, for titles and legends."""
    if name == "regrow":
        return "no regeneration" if value == "none" else f"{value} regeneration"
    if name == "milestones":
        return f"decays at {value.replace(' ', ', ')}" if value else "constant learning rate"
    if name == "reestimate_batchnorm":
        return "BatchNorm re-estimated" if value else "BatchNorm as trained"
    if name == "regrow_scope":
        return "regrown layer by layer" if value == "layer" else "regrown across layers"
    if name == "dense":
        return f"{value} dense" if value else "no layer left dense"
    if name == "layers":
        return "all layers" if value == EVERY else f"{value}"
    if name == "pretrained_sparsity":
        return "dense" if value == 0 else f"pre-trained at sparsity {value:g}"
    if name == "method":
        return f"{value}".replace("_", "-")
    return f"{name.replace('_', ' ')} {value:g}" if isinstance(value, float) else f"{value}"


def grid_of_axes(
    frame: pd.DataFrame, row: str | None, col: str | None
) -> tuple[Figure, list[tuple[Axes, pd.DataFrame]]]:
    """A figure with a panel for each value of two columns, and the rows that belong to each.

    Combinations that the frame does not have leave no panel.
    """
    rows = sorted(frame[row].unique()) if row else [None]
    cols = sorted(frame[col].unique()) if col else [None]
    figure = Page(
        figsize=(_PANEL_WIDTH * len(cols) + 0.7, _PANEL_HEIGHT * len(rows) + 0.7),
        dpi=120,
        layout="constrained",
    )
    panels = []
    for i, row_value in enumerate(rows):
        for j, col_value in enumerate(cols):
            part = frame
            part = part[part[row] == row_value] if row else part
            part = part[part[col] == col_value] if col else part
            if part.empty:
                continue
            axes = figure.add_subplot(len(rows), len(cols), i * len(cols) + j + 1)
            titles = [label(row, row_value)] if row else []
            titles += [label(col, col_value)] if col else []
            axes.set_title(", ".join(titles), fontsize=NORMAL)
            panels.append((axes, part))
    return figure, panels


def draw_lines(
    axes: Axes,
    part: pd.DataFrame,
    x: str,
    hue: str,
    levels: Sequence[Any],
    apart: Collection[float] = (),
) -> None:
    """A line of means for each level of ``hue``, with its interval as a band.

    The points at the places ``apart`` stand by themselves: what they measure is another matter.
    """
    known = _ORDERS.get(hue, ())
    places = list(dict.fromkeys([*known, *levels])) if {*known} & {*levels} else list(levels)
    palette = sns.color_palette("colorblind", len(places) + 1)
    colours = {level: palette[places.index(level)] for level in levels}
    markers = {level: _MARKERS[places.index(level) % len(_MARKERS)] for level in levels}
    strokes = {level: _STROKES[places.index(level) // _COLOURS % 2] for level in levels}
    few = part[x].nunique() <= 20
    for level in levels:
        rows = part[part[hue] == level]
        if rows.empty:
            continue
        alone = rows[rows[x].isin(apart)]
        line = rows.drop(alone.index)
        look = {"color": colours[level], "marker": markers[level] if few else None}
        sns.lineplot(
            line,
            x=x,
            y="mean",
            **look,
            markersize=4.5,
            markeredgewidth=0,
            linewidth=1.4,
            linestyle=strokes[level],
            label=label(hue, level),
            legend=False,
            errorbar=None,
            ax=axes,
        )
        axes.fill_between(
            line[x], line["low"], line["high"], color=colours[level], alpha=0.18, linewidth=0
        )
        if len(alone):
            reach = [alone["mean"] - alone["low"], alone["high"] - alone["mean"]]
            axes.errorbar(
                alone[x], alone["mean"], yerr=reach, **look, markersize=4.5, elinewidth=1.4, ls=""
            )


def order(frame: pd.DataFrame, hue: str) -> list[Any]:
    """The levels of a column in the order of their colours."""
    found = list(frame[hue].unique())
    known = [level for level in _ORDERS.get(hue, ()) if level in found]
    return known + sorted(set(found) - set(known))


def mark_decays(axes: Axes, milestones: Sequence[int]) -> None:
    """A dashed line at each epoch where the learning rate falls."""
    for epoch in milestones:
        axes.axvline(
            epoch,
            color=INK,
            linewidth=0.8,
            linestyle=DASHES,
            zorder=0,
            label="learning rate decays",
        )


def focus(
    axes: Axes, part: pd.DataFrame, x: str, apart: Collection[float], tell: bool = True
) -> None:
    """Choose the vertical limits by the points that do not stand ``apart``, if there are any.

    A mean that falls outside (an untrained network may gain 90 points) is written at the edge of
    the panel, with an arrow, instead of flattening everything else, and an interval that does has
    an arrow where it is cut; unless ``tell`` is False, where a line leaves the panel and says
    enough.
    """
    alone = part[part[x].isin(apart)]
    rest = part.drop(alone.index)
    if rest.empty:
        return
    low, high = rest["low"].min(), rest["high"].max()
    margin = 0.1 * (high - low) + max(0, _LEAST_SPAN - (high - low)) / 2
    low, high = low - margin, high + margin
    axes.set_ylim(low, high)
    if not tell:
        return
    for place, found in alone.groupby(x):
        means = found["mean"]
        furthest = means.loc[(means - (low + high) / 2).abs().idxmax()]
        if found[["mean", "high"]].max(axis=None) > high:
            _at_edge(axes, place, high, f"▲ {round(furthest)}" if furthest > high else "▲")
        if found[["mean", "low"]].min(axis=None) < low:
            _at_edge(axes, place, low, f"▼ {round(furthest)}" if furthest < low else "▼")


def _at_edge(axes: Axes, place: float, edge: float, text: str) -> None:
    """Write where something leaves a panel."""
    up = edge == axes.get_ylim()[1]
    axes.annotate(
        text,
        xy=(place, edge),
        xytext=(0, 0 if up else 2),
        textcoords="offset points",
        ha="center" if place > 0 or len(text) == 1 else "left",
        va="top" if up else "bottom",
        fontsize=SMALL,
        color=INK,
    )


def finish(
    figure: Figure, panels: Sequence[tuple[Axes, pd.DataFrame]], x: str, y: str, title: str = ""
) -> None:
    """Labels, grid and one legend below all panels."""
    handles: dict[str, Any] = {}
    places = [axes.get_subplotspec() for axes, _ in panels]
    lowest = {place.colspan.start: place for place in places}  # panels come row by row
    for (axes, _), place in zip(panels, places, strict=True):
        last = place is lowest[place.colspan.start]
        axes.set_xlabel(x if last else "", fontsize=NORMAL)
        axes.set_ylabel(y if place.is_first_col() else "", fontsize=NORMAL)
        axes.tick_params(labelsize=SMALL, colors=INK)
        axes.grid(axis="y", color="0.9", linewidth=0.7)
        axes.set_axisbelow(True)
        sns.despine(ax=axes)
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(name, handle)
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=min(len(handles), max(1, math.floor(figure.get_figwidth() / _legend_width(handles)))),
        frameon=False,
        fontsize=NORMAL,
    )
    if title:
        figure.suptitle(title, fontsize=NORMAL + 1)


def _legend_width(names: Collection[str]) -> float:
    """Inches that an entry of the legend takes."""
    return 0.55 + 0.068 * max(map(len, names), default=0)


def save(figure: Figure, path: str | Path) -> list[Path]:
    """Write a figure as PNG (200 dpi) and PDF; return both paths.

    Args:
        figure: any figure.
        path: without an ending.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    written = [path.with_name(f"{path.name}.{ending}") for ending in ("png", "pdf")]
    for target in written:
        figure.savefig(target, dpi=200)
    return written
