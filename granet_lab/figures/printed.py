"""Comparisons as people print them: methods by sparsity, the best in bold."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from granet_lab import checks
from granet_lab.figures.averages import refuse_mixture, refuse_repeats
from granet_lab.figures.statistics import summarise

_COSTS = ("training_flops", "inference_flops")
_MEANS = ["sparsity", *_COSTS, "exploration", "seconds"]
_PLACE = ["method", "asked_sparsity"]
SPREADS = ("deviation", "interval")


@dataclass(frozen=True)
class Style:
    """How a table is written."""

    bold: Callable[[str], str]
    plus_minus: str
    percent: str
    table: Callable[[list[str], list[list[str]]], str]


def method_summary(table: pd.DataFrame) -> pd.DataFrame:
    """A comparison's runs averaged over seeds.

    Args:
        table: from ``Lab.compare``; runs that failed or diverged are left out.

    Returns:
        A row for each ``method`` and ``asked_sparsity``, in the table's order: ``test_acc``
        (mean, percent), ``deviation`` (over seeds, NaN for one), ``low`` and ``high`` (95%
        interval of the mean), ``n`` (seeds), and the means of ``sparsity``, ``training_flops``,
        ``inference_flops``, ``exploration`` and ``seconds``.

    Raises:
        ValueError: no run is finished, or the table mixes recipes.
    """
    done = table[table["status"] == "ok"]
    if done.empty:
        raise ValueError("there is nothing to print: no run is finished")
    for name in ("dataset", "model"):
        refuse_mixture(name, done[name])
    groups = done.groupby(_PLACE, sort=False)
    for (name, _), runs in groups:
        refuse_repeats(runs, f"{name}: ")
    found = summarise(done, "test_acc", _PLACE).rename(columns={"mean": "test_acc"})
    means = groups[_MEANS].mean().assign(deviation=groups["test_acc"].std()).reset_index()
    columns = [*_PLACE, "test_acc", "deviation", "low", "high", "n", *_MEANS]
    return means.merge(found, on=_PLACE, sort=False)[columns]


def method_table(table: pd.DataFrame, style: str = "markdown", spread: str = "deviation") -> str:
    """Test accuracies of a comparison, with the cost of each method.

    Means over seeds in percent, and how they spread; the last columns are the training and
    inference operations at the highest sparsity, relative to the dense network. The best mean of
    each sparsity is bold, and so is every other that is the same as printed.

    Args:
        table: from ``Lab.compare``.
        style: "markdown" or "latex" (for booktabs).
        spread: "deviation" (standard, over seeds) or "interval" (95%, of the mean).

    Raises:
        ValueError: an unknown style or spread, or there is nothing to print.
    """
    write = _STYLES[checks.choice("style", style, _STYLES)]
    checks.choice("spread", spread, SPREADS)
    found = method_summary(table).set_index(_PLACE)
    names = [name for name in dict.fromkeys(found.index.get_level_values(0)) if name != "dense"]
    sparse = found.drop("dense", level=0, errors="ignore")
    sparsities = sorted(sparse.index.get_level_values(1).unique())
    best = sparse["test_acc"].map(_printed).groupby(level=1).max()
    heads = ["method", *(f"{100 * s:g}{write.percent}" for s in sparsities)]
    rows = []
    for name in names:
        cells = []
        for key in ((name, sparsity) for sparsity in sparsities):
            text = _cell(found.loc[key], write, spread) if key in found.index else "-"
            is_best = key in found.index and _printed(found.loc[key].test_acc) == best[key[1]]
            cells.append(write.bold(text) if is_best else text)
        rows.append([name.replace("_", "-"), *cells, *_costs(found, (name, max(sparsities)))])
    if ("dense", 0.0) in found.index:
        whole = _cell(found.loc[("dense", 0.0)], write, spread)
        costs = _costs(found, ("dense", 0.0))
        rows.insert(0, ["dense", *[whole] * len(sparsities), *costs])
    return write.table([*heads, "training FLOPs", "inference FLOPs"], rows)


def _printed(mean: float) -> float:
    """What a reader sees: round() and a format disagree about some halves."""
    return float(f"{mean:.2f}")


def _cell(row: pd.Series, write: Style, spread: str) -> str:
    mean = f"{row.test_acc:.2f}"
    if row.n == 1:
        return mean
    if spread == "interval":
        return f"{mean} [{row.low:.2f}, {row.high:.2f}]"
    return f"{mean} {write.plus_minus} {row.deviation:.2f}"


def _costs(found: pd.DataFrame, key: tuple[str, float]) -> list[str]:
    costs = [found.loc[key, kind] if key in found.index else math.nan for kind in _COSTS]
    return ["-" if math.isnan(cost) else f"{cost:.3f}" for cost in costs]


def _markdown(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _latex(heads: list[str], rows: list[list[str]]) -> str:
    body = [" & ".join(row) + r" \\" for row in rows]
    return "\n".join(
        [
            rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}",
            r"\toprule",
            " & ".join(heads) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )


_STYLES = {
    "markdown": Style(lambda text: f"**{text}**", "±", "%", _markdown),
    "latex": Style(lambda text: rf"\textbf{{{text}}}", r"$\pm$", r"\%", _latex),
}
