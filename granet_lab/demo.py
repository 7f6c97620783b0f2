"""The main job on the embedded data: measure, draw, and say what came out."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from granet_lab.experiments import Lab, Trial, grid, write_table
from granet_lab.figures import plots
from granet_lab.sparsity import methods
from granet_lab.training import Recipe, recipes

EPOCHS = tuple(range(0, 61, 10))
SEEDS = (0, 1, 2)


def trials(recipe: Recipe | None = None) -> list[Trial]:
    """Dense and sparse networks, pruned at seven epochs without and with regeneration.

    On a dense network every position comes back, whatever chooses: one kind of regeneration is
    enough there.
    """
    recipe = recipe or recipes.digits()
    dense = grid(
        recipe, epoch=EPOCHS, rate=[0.2, 0.5, 0.9, 0.98], regrow=[None, "gradient"], seed=SEEDS
    )
    sparse = grid(
        recipe,
        method=methods.static(0.9),
        epoch=EPOCHS,
        rate=[0.2, 0.5, 0.9],
        regrow=[None, "gradient", "random"],
        seed=SEEDS,
    )
    return dense + sparse


def run(lab: Lab, folder: Path) -> str:
    """Measure what is missing, write figures and table into ``folder``, return the summary."""
    asked = trials()
    table = lab.measure(asked)
    history = lab.history(dict.fromkeys(trial.recipe for trial in asked))
    dense = table[table["method"] == "dense"]
    curves = lab.curves(asked)
    drawn = {
        "plasticity": plots.plasticity(dense),
        "plasticity_sparse": plots.plasticity(table[table["method"] == "static"]),
        "recovery": plots.recovery(curves[curves["method"] == "dense"], epoch=30),
        "trunk": plots.trunk(history),
    }
    written = [write_table(table, folder / "plasticity.csv", lab.device)]
    for name, (figure, _) in drawn.items():
        written += plots.save(figure, folder / name)
    return "\n".join([summary(table, history), "", "Written:", *(f"  {p}" for p in written)])


def summary(table: pd.DataFrame, history: pd.DataFrame) -> str:
    """What the table says, in words and numbers; means over seeds and epochs after the first."""
    lines = []
    ends = history[history["epoch"] == history["epoch"].max()]
    for sparsity, runs in ends.groupby("pretrained_sparsity"):
        kind = "Dense networks" if sparsity == 0 else f"Networks trained at sparsity {sparsity:g}"
        accuracy = runs["test_acc"]
        lines.append(
            f"{kind} reach {accuracy.mean():.1f}% test accuracy "
            f"({accuracy.min():.1f} to {accuracy.max():.1f} over {len(runs)} seeds)."
        )
    recovery = table["recovery_epochs"].iloc[0]
    lines += [
        "",
        f"Plasticity: test accuracy {recovery} epochs after pruning minus that before, in "
        "percentage points,",
        "learning rate frozen; means over seeds and epochs of pruning (initialisation left out).",
        "",
        f"  {'network':<10}{'rate':>6}  {'regeneration':<14}{'before first decay':>18}{'after':>9}",
    ]
    trained = table[table["epoch"] > 0].assign(regrow=table["regrow"].fillna("none"))
    decay = int(table["milestones"].iloc[0].split()[0])
    order = {"none": 0, "gradient": 1, "random": 2}
    groups = trained.groupby(["pretrained_sparsity", "rate", "regrow"])
    for (sparsity, rate, regrow), rows in sorted(
        groups, key=lambda item: (*item[0][:2], order[item[0][2]])
    ):
        early = rows[rows["epoch"] < decay]["plasticity"].mean()
        late = rows[rows["epoch"] >= decay]["plasticity"].mean()
        network = "dense" if sparsity == 0 else f"{sparsity:g} sparse"
        lines.append(f"  {network:<10}{rate:>6g}  {regrow:<14}{early:>+18.1f}{late:>+9.1f}")
    return "\n".join(lines)
