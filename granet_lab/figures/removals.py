"""One way of pruning in three panels: which weights go, from where, and what it costs."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from granet_lab.figures import panels
from granet_lab.figures.panels import INK, NORMAL, SMALL
from granet_lab.figures.statistics import summarise

_KEPT, _REMOVED = "0.78", sns.color_palette("colorblind")[3]
_OTHERS = "0.75"
_BINS = 40
_STAGES = ("before", "pruned", "after")


def frame_of(weights: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The numbers behind :func:`draw`.

    Args:
        weights: from ``Lab.weights``, of one way of pruning; several seeds are added up.
        table: the rows of the tidy table that are compared: several ``criterion``.

    Returns:
        A row for each mark. ``panel``: "size", "layer" or "accuracy"; ``criterion``; ``x``: the
        upper end of a bin of absolute values, a layer, or a stage; ``value``: weights removed,
        or the mean accuracy in percent with ``low`` and ``high``; ``of``: weights that were
        active.
    """
    active = weights[weights["active"]]
    gone = active["fate"] != "kept"
    name = weights["criterion"].iloc[0]
    sizes = active["weight"].abs()
    edges = np.linspace(0, sizes.max(), _BINS + 1)
    places = np.clip(np.digitize(sizes, edges[1:-1]), 0, _BINS - 1)
    rows = [
        {"panel": "size", "criterion": name, "x": edges[i + 1], "value": v, "of": of}
        for i, (v, of) in enumerate(
            zip(np.bincount(places, gone, _BINS), np.bincount(places, minlength=_BINS), strict=True)
        )
    ]
    for layer, part in gone.groupby(active["layer"], sort=False):
        counts = {"value": part.sum(), "of": len(part)}
        rows.append({"panel": "layer", "criterion": name, "x": layer, **counts})
    for stage in _STAGES:
        means = summarise(table, f"acc_{stage}", ["criterion"]).rename(columns={"mean": "value"})
        rows += means.drop(columns="n").assign(panel="accuracy", x=stage).to_dict("records")
    return pd.DataFrame(rows, columns=["panel", "criterion", "x", "value", "low", "high", "of"])


def draw(frame: pd.DataFrame, criterion: str, recovery: int) -> Figure:
    """The three panels of a frame from :func:`frame_of`.

    Args:
        frame: the numbers.
        criterion: which of the accuracies stand out.
        recovery: epochs between the last two stages.
    """
    figure = panels.Page(figsize=(9.2, 2.5), dpi=120, layout="constrained")
    sizes, layers, costs = figure.subplots(1, 3, width_ratios=[1.15, 1, 1])
    _draw_sizes(sizes, frame[frame["panel"] == "size"])
    _draw_layers(layers, frame[frame["panel"] == "layer"])
    _draw_costs(costs, frame[frame["panel"] == "accuracy"], criterion, recovery)
    for axes in (sizes, layers, costs):
        axes.tick_params(labelsize=SMALL, colors=INK)
        sns.despine(ax=axes)
    return figure


def percent(share: float) -> str:
    """A share for people: 0% and 100% are exact."""
    text = f"{share:.0%}"
    return f"{share:.2%}" if text in ("0%", "100%") and share not in (0, 1) else text


def _draw_sizes(axes: Axes, part: pd.DataFrame) -> None:
    width = part["x"].iloc[0]
    left = part["x"] - width
    look = {"width": width, "align": "edge", "linewidth": 0}
    removed = part["value"].astype(float)
    axes.bar(left, part["of"], color=_KEPT, label="kept", **look)
    axes.bar(left, removed, color=_REMOVED, label="removed", **look)
    axes.set_yscale("symlog", linthresh=10)
    axes.set_ylim(0)
    axes.set_xlim(0, part["x"].max())
    axes.set_xlabel("Absolute value before pruning", fontsize=NORMAL)
    axes.set_ylabel("Weights", fontsize=NORMAL)
    axes.legend(frameon=False, fontsize=SMALL, loc="upper right")


def _draw_layers(axes: Axes, part: pd.DataFrame) -> None:
    share = part["value"].astype(float) / part["of"].astype(float)
    axes.barh(part["x"], 1, color=_KEPT, height=0.7)
    axes.barh(part["x"], share, color=_REMOVED, height=0.7)
    for place, (value, one) in enumerate(zip(share, part.itertuples(), strict=True)):
        inside = value > 0.5
        axes.annotate(
            f"{percent(value)} of {one.of:,.0f}",
            (value, place),
            xytext=(-4 if inside else 4, 0),
            textcoords="offset points",
            ha="right" if inside else "left",
            va="center",
            fontsize=SMALL - 0.5,
            color="white" if inside else "black",
        )
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("Removed from each layer", fontsize=NORMAL)


def _draw_costs(axes: Axes, part: pd.DataFrame, criterion: str, recovery: int) -> None:
    places = list(range(len(_STAGES)))
    for name, line in part.groupby("criterion", sort=False):
        line = line.set_index("x").reindex(list(_STAGES))
        if name == criterion:
            values = line["value"].astype(float)
            axes.plot(places, values, color=_REMOVED, marker="o", markersize=4.5, label=name)
            axes.fill_between(
                places, line["low"], line["high"], color=_REMOVED, alpha=0.18, linewidth=0
            )
            beside = [("right", -6, -3), ("center", 0, 8 if values.iloc[1] < 50 else -13)]
            for place, value, (align, right, up) in zip(
                places, values, [*beside, ("left", 6, -3)], strict=True
            ):
                if math.isnan(value):
                    continue
                axes.annotate(
                    f"{value:.1f}",
                    (place, value),
                    xytext=(right, up),
                    textcoords="offset points",
                    ha=align,
                    fontsize=SMALL,
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
                )
        else:
            axes.plot(places, line["value"], color=_OTHERS, linewidth=0.9, zorder=1)
    if part["criterion"].nunique() > 1:
        axes.plot([], [], color=_OTHERS, linewidth=0.9, label="other criteria")
    epochs = f"{recovery} epoch{'s' * (recovery != 1)}"
    axes.set_xticks(places, ["before", "pruned", f"{epochs}\nlater"])
    axes.set_xlim(-0.5, len(_STAGES) - 0.5)
    axes.set_ylim(0, 104)
    axes.set_ylabel("Test accuracy (%)", fontsize=NORMAL)
    axes.grid(axis="y", color="0.9", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=SMALL, loc="best")
