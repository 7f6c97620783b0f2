"""A report in Markdown: what was measured beside what was published, and what it took."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from granet_lab.experiments import Lab, write_table
from granet_lab.experiments.environment import environment
from granet_lab.experiments.estimate import in_words
from granet_lab.experiments.files import write as write_file
from granet_lab.experiments.spelling import recipe_code
from granet_lab.experiments.store import Run
from granet_lab.figures import plots
from granet_lab.figures.panels import Drawn
from granet_lab.reproduction.plan import Plan
from granet_lab.reproduction.published import FINDINGS, published
from granet_lab.training.recipes import RECIPES
from granet_lab.wording import counted

_SOURCE = "[Liu et al. 2021](https://arxiv.org/abs/2106.10404)"


def write(lab: Lab, plan: Plan, tables: dict[str, pd.DataFrame], folder: Path) -> Path:
    """Write the report of what is measured so far, with its figures and tables.

    Args:
        lab: holds the histories.
        plan: what was asked.
        tables: what came out, by stage.
        folder: where all of it goes.

    Returns:
        The path of ``report.md``.

    Raises:
        OSError: the folder cannot be written.
    """
    parts = [_head(plan), _dense(lab, plan, folder)]
    for stage, table in tables.items():
        write_table(table, folder / f"{stage}.csv", lab.device)
        parts.append(_SECTIONS[stage](lab, plan, table, folder))
    parts.append(_measured_with(lab, plan, tables))
    finished = [recipe for recipe in plan.runs if lab.run(recipe).finished]
    if finished:
        write_table(lab.history(finished), folder / "history.csv", lab.device)
    path = folder / "report.md"
    write_file(path, ("\n\n".join(parts) + "\n").encode())
    return path


def _head(plan: Plan) -> str:
    recipe, images = plan.recipe, plan.recipe.images()
    seeds = len({one.seed for one in plan.runs})
    trained = len(images.train.first(recipe.train_size))
    lines = [f"# {plan.title}", ""]
    if recipe.epochs != plan.whole.epochs:
        lines += [
            f"**A shortened schedule**: {recipe.epochs} epochs in place of {plan.whole.epochs}, "
            "the learning rate falling in proportion. Its accuracies are not those of the whole "
            "recipe; published numbers stand beside them for orientation.",
            "",
        ]
    lines += [
        f"`{recipe.model}` on `{recipe.dataset}`: {trained:,} images to train on"
        + (f" of {len(images.train):,}" if trained < len(images.train) else "")
        + f", {len(images.test):,} for testing, {images.classes} classes; "
        f"{counted(seeds, 'seed')}. Accuracies are test accuracies in percent, at the end of "
        "training.",
        "",
        "```python",
        recipe_code(recipe),
        "```",
    ]
    return "\n".join(lines)


def _dense(lab: Lab, plan: Plan, folder: Path) -> str:
    runs = [lab.run(recipe) for recipe in plan.runs if not recipe.method.end_sparsity]
    recipes = [run.recipe for run in runs if _trained(run)]
    if not recipes:
        why = next((run.diverged for run in runs if run.diverged), "not trained yet")
        return f"## The dense network\n\n{why[0].upper()}{why[1:]}."
    history = lab.history(recipes)
    last = history.loc[history["epoch"] == plan.recipe.epochs, "test_acc"]
    numbers = published(plan.name)
    dense = numbers.loc[numbers["method"] == "dense", "published_acc"]
    reached = f"It reaches {last.mean():.2f}"
    if len(last) > 1:
        reached += f" ({last.min():.2f} to {last.max():.2f})"
    reached += f" after {plan.recipe.epochs} epochs."
    if len(dense):
        reached += f" Published for the whole recipe: {dense.iloc[0]:.2f} ({_SOURCE})."
    drawn = _figure(plots.trunk(history), folder, "trunk", "Test accuracy of the dense network")
    return _paragraphs("## The dense network", reached, drawn)


def _plasticity(lab: Lab, plan: Plan, table: pd.DataFrame, folder: Path) -> str:
    alone = table[table["regrow"].isna()]
    if alone["plasticity"].isna().all():
        return _paragraphs("## Pruning plasticity", _missing(table))
    return _paragraphs(
        "## Pruning plasticity",
        _definition(table),
        _figure(plots.plasticity(alone), folder, "plasticity", "Plasticity by epoch and rate"),
        _by_epoch(alone, "plasticity", unpruned=_unpruned(alone)),
        _findings("plasticity"),
        _missing(table),
    )


def _regeneration(lab: Lab, plan: Plan, table: pd.DataFrame, folder: Path) -> str:
    if table["plasticity"].isna().all():
        return _paragraphs("## Neuroregeneration", _missing(table))
    pair = table.assign(regrow=table["regrow"].fillna("none")).pivot_table(
        index=["epoch", "rate", "seed"], columns="regrow", values="plasticity", dropna=False
    )
    gain = (pair["gradient"] - pair["none"]).rename("gain").reset_index()
    return _paragraphs(
        "## Neuroregeneration",
        "As many connections come back as were pruned, in the layers that lost them. The networks "
        "were dense, so every position comes back, from zero.",
        _figure(plots.plasticity(table), folder, "regeneration", "With and without regeneration"),
        "Gain by regeneration: plasticity with it minus without it, in percentage points.",
        _by_epoch(gain, "gain"),
        _findings("regeneration"),
        _missing(table),
    )


def _methods(lab: Lab, plan: Plan, table: pd.DataFrame, folder: Path) -> str:
    done = table[table["status"] == "ok"]
    if done.empty:
        return _paragraphs("## Training sparse", _missing(table))
    summary = plots.method_summary(table)
    both = summary.merge(published(plan.name), on=["method", "asked_sparsity"], how="left")
    rows = [
        [
            row.method.replace("_", "-"),
            f"{100 * row.asked_sparsity:g}%",
            _accuracy(row.test_acc, row.deviation),
            _accuracy(row.published_acc, row.published_deviation),
            _relative(row.training_flops),
            _relative(row.inference_flops),
        ]
        for row in both.itertuples()
    ]
    heads = ["method", "sparsity", "measured", "published", "training FLOPs", "inference FLOPs"]
    asked = done.loc[done["method"] != "dense", "asked_sparsity"]
    most = asked.max()
    histories = [
        lab.history([entry.recipe]).assign(method=entry.method)
        for entry in plan.entries
        if entry.sparsity == most and _trained(lab.run(entry.recipe))
    ]
    mean = "mean ± standard deviation over seeds" if (both["n"] > 1).any() else "one seed"
    return _paragraphs(
        "## Training sparse",
        _markdown(heads, rows),
        f"Test accuracy, {mean}; operations relative to the dense network, counted over the masks "
        "as they change.",
        _whose(plan),
        _figure(plots.methods(table), folder, "methods", "Accuracy by sparsity")
        if asked.nunique() > 1
        else "",
        f"In the course of training, at {100 * most:g}%:\n\n"
        + _figure(plots.dynamics(pd.concat(histories)), folder, "dynamics", "Masks that change")
        if histories
        else "",
        _missing(table),
    )


_SECTIONS = {"plasticity": _plasticity, "regeneration": _regeneration, "methods": _methods}


def _measured_with(lab: Lab, plan: Plan, tables: dict[str, pd.DataFrame]) -> str:
    """The machine, the versions, and what it took."""
    told = environment(lab.device)
    trials = [table for stage, table in tables.items() if stage != "methods"]
    spent = sum(lab.run(recipe).history["seconds"].sum() for recipe in plan.runs)
    if trials:
        spent += pd.concat(trials).drop_duplicates("trial")["seconds"].sum()
    lines = [
        f"hardware: {told['hardware']}",
        f"time: {in_words(spent)} of training and testing, summed over processes",
        f"granet_lab {told['granet_lab']}, commit {told['commit']}; torch {told['torch']}, "
        f"Python {told['python']}",
        f"date: {told['date']}",
        f"command: `{told['command']}`",
    ]
    return "## Measured with\n\n" + "\n".join(f"- {line}" for line in lines)


def _trained(run: Run) -> bool:
    """Whether a run came to its end."""
    return run.finished and not run.diverged


def _whose(plan: Plan) -> str:
    """What the published numbers are of: the recipe may have been changed."""
    if published(plan.name).empty:
        return f"The tables of {_SOURCE} do not have this recipe."
    named = RECIPES[plan.name]()
    return (
        f"Published by {_SOURCE}: `{named.model}` on `{named.dataset}`, {named.epochs} epochs, "
        "trained on all training images."
    )


def _definition(table: pd.DataFrame) -> str:
    k = int(table["recovery_epochs"].iloc[0])
    return (
        f"Test accuracy {counted(k, 'epoch')} after pruning minus that just before, in percentage "
        "points, with the learning rate frozen. The rate is the fraction of the weights removed, "
        "by magnitude over all layers. Unpruned: what the network gains in as many epochs of its "
        "own schedule if it is left alone. Dashed: the learning rate falls."
    )


def _unpruned(table: pd.DataFrame) -> pd.Series:
    """What the unpruned run gains in as many epochs, on its own schedule."""
    return (table["acc_trunk"] - table["acc_before"]).groupby(table["epoch"]).mean()


def _findings(stage: str) -> str:
    return f"What {_SOURCE} found:\n\n" + "\n".join(f"- {line}" for line in FINDINGS[stage])


def _figure(drawn: Drawn, folder: Path, name: str, what: str) -> str:
    figure, _ = drawn
    plots.save(figure, folder / name)
    return f"![{what}]({name}.png)"


def _by_epoch(table: pd.DataFrame, value: str, **more: pd.Series) -> str:
    """Means over seeds: a row for each rate and for each of ``more``, a column for each epoch."""
    found = table.pivot_table(value, "rate", "epoch", dropna=False)
    rows = [[f"{rate:g}", *map(_points, row)] for rate, row in found.T.items()]
    rows += [[name, *map(_points, row.reindex(found.columns))] for name, row in more.items()]
    return _markdown(["rate", *(f"epoch {epoch}" for epoch in found)], rows)


def _missing(table: pd.DataFrame) -> str:
    """What did not come out, if anything."""
    bad = table[table["status"] != "ok"]
    if bad.empty:
        return ""
    return f"{len(bad)} of {len(table)} did not come out; the first: {bad['note'].iloc[0]}"


def _points(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:+.1f}"


def _relative(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _accuracy(mean: float, deviation: float) -> str:
    if math.isnan(mean):
        return "-"
    return f"{mean:.2f}" + ("" if math.isnan(deviation) else f" ± {deviation:.2f}")


def _paragraphs(*parts: str) -> str:
    """Those that say something."""
    return "\n\n".join(part for part in parts if part)


def _markdown(heads: list[str], rows: list[list[object]]) -> str:
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)
