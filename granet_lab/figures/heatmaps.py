"""Heat maps: a number for each layer and epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize, SymLogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from granet_lab.figures import panels
from granet_lab.figures.panels import DASHES, INK, NORMAL, SMALL

# Blue is gain, red is loss, white is zero: told apart by colour-blind eyes, too.
_COLOURS = "RdBu"
# Percentage points that linear colours can show without drowning what is near zero.
_MODEST = 8.0
# Inches.
_CELL_WIDTH, _CELL_HEIGHT = 0.42, 0.34
_MAP_WIDTH, _MAP_ROW = 2.6, 0.26


def by_layer_and_epoch(
    frame: pd.DataFrame, row: str | None, col: str | None, decays: Sequence[int], title: str
) -> Figure:
    """A panel for each value of two columns; in it a row for each layer, a column for each epoch.

    The epochs before training, 0, stand apart in grey: they do not set the colours.

    Args:
        frame: ``layers``, ``epoch``, ``mean`` and the columns of the panels. Layers are drawn
            from top to bottom as they come.
        row, col: columns that the panels differ in.
        decays: epochs at which the learning rate falls.
        title: of the colour bar.
    """
    layers, epochs = list(dict.fromkeys(frame["layers"])), sorted(frame["epoch"].unique())
    rows = list(dict.fromkeys(frame[row])) if row else [None]
    cols = sorted(frame[col].unique()) if col else [None]
    figure = panels.Page(
        figsize=(
            _CELL_WIDTH * len(epochs) * len(cols) + 2.6,
            _CELL_HEIGHT * len(layers) * len(rows) + 0.5 * len(rows) + 1.1,
        ),
        dpi=120,
        layout="constrained",
    )
    axes = figure.subplots(len(rows), len(cols), squeeze=False, sharex=True, sharey=True)
    reach = frame.loc[frame["epoch"] > 0, "mean"].abs().max()
    decays = [epoch for epoch in decays if epochs[0] < epoch <= epochs[-1]]
    norm = _norm(reach)
    for i, row_value in enumerate(rows):
        for j, col_value in enumerate(cols):
            part = frame[frame[row] == row_value] if row else frame
            part = part[part[col] == col_value] if col else part
            cells = part.pivot_table(index="layers", columns="epoch", values="mean")
            cells = cells.reindex(index=layers, columns=epochs)
            _draw(axes[i, j], cells, norm, decays)
            titles = [panels.label(row, row_value)] if row else []
            titles += [panels.label(col, col_value)] if col else []
            axes[i, j].set_title(", ".join(titles), fontsize=NORMAL)
            axes[i, j].set_xlabel("Epoch of pruning" if i == len(rows) - 1 else "", fontsize=NORMAL)
            axes[i, j].set_ylabel("")
    if decays:
        line = Line2D([], [], color=INK, linewidth=0.9, linestyle=DASHES)
        figure.legend(
            [line],
            ["learning rate decays"],
            loc="outside lower center",
            frameon=False,
            fontsize=NORMAL,
        )
    colours = ScalarMappable(norm, _COLOURS)
    bar = figure.colorbar(colours, ax=axes, aspect=30, pad=0.02, fraction=0.05)
    bar.set_label(title, fontsize=NORMAL)
    if isinstance(norm, SymLogNorm):
        marks = [1, 2, 5, 10, 20, 50, 100]
        bar.set_ticks([sign * mark for mark in marks for sign in (-1, 1) if mark <= reach] + [0])
        bar.ax.yaxis.set_major_formatter("{x:g}")
        bar.minorticks_off()
    bar.ax.tick_params(labelsize=SMALL, colors=INK)
    bar.outline.set_visible(False)
    return figure


def of_sparsity(frame: pd.DataFrame, hue: str) -> Figure:
    """A map for each value of ``hue``: a row for each layer, a column for each epoch.

    Args:
        frame: ``hue``, ``layer``, ``epoch``, ``mean`` (sparsity). Layers are drawn from top to
            bottom as they come.
        hue: column that the maps differ in.
    """
    layers, levels = list(dict.fromkeys(frame["layer"])), panels.order(frame, hue)
    figure = panels.Page(
        figsize=(_MAP_WIDTH * len(levels) + 1.6, _MAP_ROW * len(layers) + 1.2),
        dpi=120,
        layout="constrained",
    )
    left = 1 - frame["mean"]
    norm = LogNorm(min(0.1, left[left > 0].min()), 1)
    colours = sns.color_palette("mako", as_cmap=True).with_extremes(bad="0.8")
    maps = figure.subplots(1, len(levels), squeeze=False, sharey=True)[0]
    for axes, level in zip(maps, levels, strict=True):
        part = frame[frame[hue] == level]
        # dropna=False: a run of an earlier version has no sparsities, and an empty map.
        kept = 1 - part.pivot_table(
            index="layer", columns="epoch", values="mean", dropna=False
        ).reindex(layers)
        cells = kept.where(kept > 0)
        axes.pcolormesh(cells.columns, range(len(layers)), cells, norm=norm, cmap=colours)
        axes.set_yticks(range(len(layers)), layers)
        axes.set_ylim(len(layers) - 0.5, -0.5)
        axes.set_title(panels.label(hue, level), fontsize=NORMAL)
        axes.set_xlabel("Epoch", fontsize=NORMAL)
        axes.tick_params(labelsize=SMALL, colors=INK, length=0)
        sns.despine(ax=axes, left=True, bottom=True)
    bar = figure.colorbar(ScalarMappable(norm, colours), ax=maps, aspect=20, pad=0.02)
    marks = [s for s in (0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999) if 1 - s >= norm.vmin]
    bar.set_ticks([1 - s for s in marks], labels=[f"{s:g}" for s in marks])
    bar.minorticks_off()
    bar.ax.invert_yaxis()
    bar.set_label("Sparsity", fontsize=NORMAL)
    bar.ax.tick_params(labelsize=SMALL, colors=INK)
    bar.outline.set_visible(False)
    return figure


def _draw(axes: Axes, cells: pd.DataFrame, norm: Normalize, decays: Sequence[int]) -> None:
    texts = cells.map(lambda value: "" if math.isnan(value) else _number(value))
    untrained = np.array([[epoch == 0 for epoch in cells.columns]] * len(cells))
    look = {"linewidths": 1, "linecolor": "white", "cbar": False, "ax": axes, "fmt": ""}
    letters = {"fontsize": SMALL - 0.5}
    if not (untrained | cells.isna()).all(axis=None):
        sns.heatmap(
            cells,
            annot=texts,
            mask=untrained | cells.isna(),
            cmap=_COLOURS,
            norm=norm,
            annot_kws=letters,
            **look,
        )
    if (untrained & cells.notna()).any(axis=None):
        grey = sns.color_palette(["0.93"], as_cmap=True)
        sns.heatmap(
            cells.notna().astype(float),
            annot=texts,
            mask=~untrained | cells.isna(),
            cmap=grey,
            annot_kws={**letters, "color": INK},
            **look,
        )
    for epoch in decays:
        place = sum(other < epoch for other in cells.columns)
        if 0 < place < len(cells.columns):
            axes.axvline(place, color=INK, linewidth=0.9, linestyle=DASHES)
    axes.set_facecolor("white")
    axes.tick_params(labelsize=SMALL, colors=INK, length=0, rotation=0)


def _norm(reach: float) -> Normalize:
    """From -reach to reach; beyond a point logarithmic where one layer would drown the others."""
    if reach > _MODEST:
        return SymLogNorm(1, vmin=-reach, vmax=reach)
    reach = reach if reach > 0 else 1.0
    return Normalize(-reach, reach)


def _number(value: float) -> str:
    """With one digit behind the point where there is room; never "-0"."""
    text = f"{value:.0f}" if abs(value) >= 9.95 else f"{value:.1f}"
    return text.removeprefix("-") if float(text) == 0 else text
