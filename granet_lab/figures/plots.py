"""Figures: a tidy frame in, (the figure, the numbers behind it) out."""

from __future__ import annotations

import pandas as pd

from granet_lab import checks
from granet_lab.figures import heatmaps, panels, removals
from granet_lab.figures.averages import SETTINGS, averaged, milestones, refuse_mixture
from granet_lab.figures.comparisons import ablation, methods
from granet_lab.figures.dynamics import dynamics, layer_sparsity, schedules
from granet_lab.figures.panels import Drawn, save
from granet_lab.figures.printed import method_summary, method_table
from granet_lab.sparsity.naming import EVERY

__all__ = [
    "ablation",
    "damage",
    "dynamics",
    "final_gap",
    "layer_sparsity",
    "layers",
    "method_summary",
    "method_table",
    "methods",
    "plasticity",
    "recovery",
    "removal",
    "save",
    "schedules",
    "trunk",
]

# Settings of what happens once the weights are gone.
_AFTERWARDS = ("lr_mode", "recovery_epochs", "reestimate_batchnorm")


def plasticity(table: pd.DataFrame, hue: str = "regrow") -> Drawn:
    """Pruning plasticity against the epoch of pruning, mean and 95% interval over seeds.

    A panel for each rate, a row of panels for each pre-trained sparsity, a line for each value of
    ``hue``; the learning-rate decays are dashed. The vertical axis leaves out epoch 0, where the
    network is untrained and the gain is that of training.

    Args:
        table: from ``Lab.measure``; only trials with the frozen learning rate are drawn.
        hue: the column that the lines differ in.

    Returns:
        The figure; the frame it draws: ``pretrained_sparsity``, ``rate``, ``hue``, ``epoch``,
        ``mean``, ``low``, ``high`` (percentage points), ``n`` (seeds).

    Raises:
        ValueError: there is nothing to draw, or the table mixes settings that no panel and no
            line tells apart.
    """
    return _against_epoch(table, "plasticity", "Plasticity (percentage points)", hue)


def damage(table: pd.DataFrame, hue: str = "criterion") -> Drawn:
    """What pruning costs at once: test accuracy just after it minus that just before, against the
    epoch of pruning.

    Otherwise like :func:`plasticity`; what came back and how training went on does not matter.
    The untrained network of epoch 0 has nothing to lose and is left out.
    """
    if not {"acc_pruned", "acc_before"} <= set(table):
        raise ValueError("this is no table of trials: it has no acc_pruned and acc_before")
    lost = table["acc_pruned"] - table["acc_before"]
    later = {"lr_mode": "any", "recovery_epochs": 1, "regrow": None, "regrow_scope": "layer"}
    later = {name: value for name, value in later.items() if name != hue}
    table = table.assign(damage=lost, **later)[table["epoch"] > 0]
    table = table.drop_duplicates([name for name in (*SETTINGS, "seed", "epoch") if name in table])
    if table.empty:
        raise ValueError("there is no damage to draw: epoch 0 alone was pruned")
    return _against_epoch(table, "damage", "Change at once (percentage points)", hue)


def final_gap(table: pd.DataFrame, hue: str = "regrow") -> Drawn:
    """Final gap against the epoch of pruning: like :func:`plasticity`, for the trials that train
    to the end of the run on the remaining schedule. Where nothing is left of it, the point stands
    apart."""
    return _against_epoch(table, "final_gap", "Final gap (percentage points)", hue)


def layers(table: pd.DataFrame, value: str = "plasticity") -> Drawn:
    """Plasticity by layer and epoch, as a heat map: what if one layer alone is pruned?

    A column of panels for each rate, a row for each kind of regeneration; the learning-rate
    decays are dashed. What is measured at epoch 0, where the network is untrained, is written in
    grey and does not set the colours.

    Args:
        table: from ``Lab.measure``, of trials that prune single layers
            (``grid(..., layers=layer_names(recipe))``); other rows are left out.
        value: "plasticity" or "final_gap".

    Returns:
        The figure; the frame it draws: ``regrow``, ``rate``, ``layers``, ``epoch``, ``mean``,
        ``low``, ``high`` (percentage points), ``n`` (seeds).

    Raises:
        ValueError: there is nothing to draw, or settings are mixed.
    """
    words = {"plasticity": "Plasticity", "final_gap": "Final gap"}
    checks.choice("value", value, words)
    if value not in table or "layers" not in table:
        raise ValueError(f"this is no table of trials that has {value} and layers")
    single = table[(table["layers"] != EVERY) & ~table["layers"].str.contains(r"[*? ]")]
    if single.empty:
        raise ValueError("no trial prunes a single layer: grid(..., layers=layer_names(recipe))")
    free = ["recovery_epochs"] if value == "final_gap" else []
    facets = ["regrow", "rate"]
    frame, single = averaged(single, value, facets, "layers", "epoch", free, lines=False)
    frame = frame.set_index("layers").loc[list(dict.fromkeys(single["layers"]))].reset_index()
    levels = panels.order(frame, "regrow")
    frame = frame.sort_values(["regrow"], key=lambda names: names.map(levels.index), kind="stable")
    frame = frame[["regrow", "rate", "layers", "epoch", "mean", "low", "high", "n"]]
    figure = heatmaps.by_layer_and_epoch(
        frame,
        "regrow" if len(levels) > 1 else None,
        "rate",
        milestones(single),
        f"{words[value]} (percentage points)",
    )
    return figure, frame.reset_index(drop=True)


def recovery(curves: pd.DataFrame, epoch: int, hue: str = "regrow") -> Drawn:
    """Test accuracy while training goes on after pruning at one epoch.

    The dotted line is the accuracy before pruning.

    Args:
        curves: from ``Lab.curves``.
        epoch: of pruning.
        hue: the column that the lines differ in.

    Returns:
        The figure; the frame it draws: like that of :func:`plasticity`, ``recovery_epoch`` (0 is
        just after pruning) in place of ``epoch``, accuracies in percent.

    Raises:
        ValueError: that epoch was not measured, or settings are mixed.
    """
    if curves.empty:
        raise ValueError("no recovery curves to draw: measure trials first")
    chosen = curves[curves["epoch"] == epoch]
    if chosen.empty:
        measured = ", ".join(str(e) for e in sorted(curves["epoch"].unique()))
        raise ValueError(f"no recovery curves for epoch {epoch}: choose from {measured}")
    facets = ["pretrained_sparsity", "rate"]
    frame, chosen = averaged(chosen, "test_acc", facets, hue, "recovery_epoch")
    before = chosen.groupby(facets)["acc_before"].mean()
    figure, parts = panels.grid_of_axes(frame, _row(frame), "rate")
    for axes, part in parts:
        panels.draw_lines(axes, part, "recovery_epoch", hue, panels.order(frame, hue))
        level = before[tuple(part[facets].iloc[0])]
        axes.axhline(level, color="0.25", linewidth=1, linestyle=":", label="before pruning")
    panels.finish(
        figure, parts, "Epochs after pruning", "Test accuracy (%)", f"Pruned after epoch {epoch}"
    )
    return figure, frame


def removal(weights: pd.DataFrame, table: pd.DataFrame) -> Drawn:
    """One criterion at one epoch: which weights it removes, from where, and what that costs.

    Left, how large the weights are that go; in the middle, the share of each layer; right, the
    test accuracy before pruning, just after it and after recovery (mean and 95% interval over
    seeds), with the other criteria of the table in grey.

    Args:
        weights: from ``Lab.weights``, of trials that differ in their seed alone.
        table: from ``Lab.measure``; its rows at the same epoch and rate are compared.

    Returns:
        The figure; the frame it draws, see ``removals.frame_of``.

    Raises:
        ValueError: settings are mixed, or the table does not have the criterion.
    """
    if weights.empty:
        raise ValueError("there are no weights to draw")
    for name in ("epoch", *SETTINGS):
        refuse_mixture(name, weights[name])
    one = weights.iloc[0]
    criterion = one["criterion"]
    same = table[(table["epoch"] == one["epoch"]) & (table["rate"] == one["rate"])]
    if criterion not in set(same["criterion"]):
        raise ValueError(
            f"the table has no {criterion!r} at epoch {one['epoch']} and rate {one['rate']:g}"
        )
    for name in SETTINGS:
        if name in same and name != "criterion":
            refuse_mixture(name, same[name])
            if name not in _AFTERWARDS and {*weights[name].dropna()} != {*same[name].dropna()}:
                raise ValueError(f"the weights and the table differ in {name}")
    frame = removals.frame_of(weights, same)
    figure = removals.draw(frame, criterion, int(same["recovery_epochs"].iloc[0]))
    share = removals.percent(one["rate"])
    title = (
        f"{criterion}, {one['scope']}: {share} of the weights removed after epoch {one['epoch']}"
    )
    figure.suptitle(title, fontsize=10)
    return figure, frame


def trunk(history: pd.DataFrame, hue: str = "pretrained_sparsity") -> Drawn:
    """Test accuracy of unpruned runs against the epoch, mean and 95% interval over seeds.

    The vertical axis leaves out the first twentieth of training.

    Args:
        history: from ``Lab.history``.
        hue: the column that the lines differ in.

    Returns:
        The figure; the frame it draws: ``hue``, ``epoch``, ``mean``, ``low``, ``high`` (percent),
        ``n``.

    Raises:
        ValueError: there is nothing to draw, or settings are mixed.
    """
    if history.empty:
        raise ValueError("no history to draw: train a run first")
    frame, history = averaged(history, "test_acc", [], hue, "epoch")
    figure, parts = panels.grid_of_axes(frame, None, None)
    figure.set_size_inches(5.2, 3.2)
    for axes, part in parts:
        panels.draw_lines(axes, part, "epoch", hue, panels.order(frame, hue))
        panels.mark_decays(axes, milestones(history))
        panels.focus(axes, part, "epoch", apart=range(part["epoch"].max() // 20 + 1), tell=False)
    panels.finish(figure, parts, "Epoch", "Test accuracy (%)")
    return figure, frame


def _against_epoch(table: pd.DataFrame, value: str, title: str, hue: str) -> Drawn:
    if value not in table:
        raise ValueError(f"this is no table of trials: it has no column {value}")
    if table[value].isna().all():
        raise ValueError(f"the table has no {value}: measure trials with the fitting lr first")
    facets = ["pretrained_sparsity", "rate"]
    # Under the remaining schedule the length follows from the epoch: it is no setting there.
    free = ["recovery_epochs"] if value == "final_gap" else []
    frame, table = averaged(table, value, facets, hue, "epoch", free)
    figure, parts = panels.grid_of_axes(frame, _row(frame), "rate")
    apart = {0, *table.loc[table["recovery_epochs"] == 0, "epoch"]}
    for axes, part in parts:
        axes.axhline(0, color="0.25", linewidth=0.8)
        panels.draw_lines(axes, part, "epoch", hue, panels.order(frame, hue), apart)
        panels.mark_decays(axes, milestones(table))
        panels.focus(axes, part, "epoch", apart)
    panels.finish(figure, parts, "Epoch of pruning", title)
    return figure, frame


def _row(frame: pd.DataFrame) -> str | None:
    return "pretrained_sparsity" if frame["pretrained_sparsity"].nunique() > 1 else None
