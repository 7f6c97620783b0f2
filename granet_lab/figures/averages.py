"""Means over seeds for a figure, and the refusal to average over anything else unseen."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from granet_lab.figures.statistics import summarise

# What a figure must not average over without being told.
SETTINGS = (
    "dataset",
    "model",
    "method",
    "pretrained_sparsity",
    "rate",
    "criterion",
    "scope",
    "granularity",
    "regrow",
    "regrow_scope",
    "layers",
    "dense",
    "reestimate_batchnorm",
    "lr_mode",
    "recovery_epochs",
    "epochs",
    "milestones",
    "precision",
)

_CURE = "select one"


def averaged(
    table: pd.DataFrame,
    value: str,
    facets: Sequence[str],
    hue: str,
    x: str,
    free: Sequence[str] = (),
    lines: bool = True,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The means that a figure draws, and the rows behind them with regrow in words.

    Args:
        table: tidy.
        value: the column to average over seeds.
        facets: columns that the panels differ in.
        hue: the column that the lines differ in.
        x: the column along the horizontal axis.
        free: columns that may vary all the same.
        lines: whether a user can choose what they differ in.

    Raises:
        ValueError: something varies that neither panels nor lines show, or a seed is there twice.
    """
    table = table[table[value].notna()]
    if table.empty:
        raise ValueError(f"there is no {value} to draw")
    if hue not in table or hue in (*facets, x):
        raise _no_hue(table, hue, facets)
    if "regrow" in table:
        table = table.assign(regrow=table["regrow"].astype(object).fillna("none"))
    shown = [*facets, hue]
    for name in SETTINGS:
        if name not in table or name in (*shown, *free):
            continue
        # A dense and a static run differ in their method, and in their sparsity just so.
        told = name == "method" and "pretrained_sparsity" in shown
        for _, part in table.groupby("pretrained_sparsity") if told else [(None, table)]:
            refuse_mixture(name, part[name], f"select one, or draw hue={name!r}" * lines or _CURE)
    for _, same in table.groupby([*shown, x]):
        if "lr" in same:
            refuse_mixture("lr", same["lr"].dropna())
        refuse_repeats(same)
    return summarise(table, value, [*shown, x]), table


def check_hue(table: pd.DataFrame, hue: str, free: Sequence[str] = ()) -> None:
    """Do nothing if every value of ``hue`` stands for one setting.

    Raises:
        ValueError: there is no such column, or something else varies for one of its values.
    """
    if hue not in table:
        raise _no_hue(table, hue)
    for _, part in table.groupby(hue):
        for name in SETTINGS:
            if name in table and name not in (hue, *free):
                refuse_mixture(name, part[name])


def _no_hue(table: pd.DataFrame, hue: str, facets: Sequence[str] = ()) -> ValueError:
    fit = [name for name in SETTINGS if name in table and name not in facets]
    return ValueError(f"lines cannot differ in {hue!r}: choose hue from {', '.join(fit)}")


def refuse_repeats(rows: pd.DataFrame, whose: str = "") -> None:
    """Do nothing if rows that are averaged have one for each seed.

    Raises:
        ValueError: a seed is there twice; the message begins with ``whose`` rows they are.
    """
    if rows["seed"].duplicated().any():
        raise ValueError(f"{whose}a seed is there twice: the table repeats trials or mixes recipes")


def refuse_mixture(name: str, values: pd.Series, cure: str = _CURE) -> None:
    """Do nothing if a column has one value.

    Raises:
        ValueError: it has several; the message ends with the ``cure``.
    """
    found = sorted({str(value) for value in values.astype(object).fillna("none")})
    if len(found) > 1:
        raise ValueError(f"the table mixes {name} ({', '.join(found)}): {cure}")


def milestones(table: pd.DataFrame) -> list[int]:
    """The epochs of the learning-rate decays; none if the runs differ in them."""
    found = table["milestones"].unique()
    return [int(epoch) for epoch in found[0].split()] if len(found) == 1 else []
