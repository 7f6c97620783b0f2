"""The tidy table: its columns, what a trial asks and answers in them, the frame."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from granet_lab.experiments.tables import with_none
from granet_lab.experiments.trials import Trial

# The tidy table, a row per trial.
COLUMNS = [
    "dataset",
    "model",
    "seed",
    "method",
    "pretrained_sparsity",
    "epoch",
    "rate",
    "criterion",
    "scope",
    "granularity",
    "regrow",
    "lr_mode",
    "recovery_epochs",
    "lr",
    "sparsity",
    "sparsity_after",
    "acc_before",
    "acc_pruned",
    "acc_after",
    "acc_trunk",
    "acc_final_unpruned",
    "plasticity",
    "final_gap",
    "seconds",
    "device",
    "epochs",
    "milestones",
    "status",
    "note",
    "run",
    "trial",
    "regrow_scope",
    "layers",
    "dense",
    "reestimate_batchnorm",
    "regrown_survival",
    "stacked",
    "precision",
    "version",
    "trunk_version",
]


def trial_columns(trial: Trial) -> dict[str, Any]:
    """The columns that say what was asked."""
    recipe, pruning = trial.recipe, trial.pruning
    return {
        "dataset": recipe.dataset,
        "model": recipe.model,
        "seed": recipe.seed,
        "method": recipe.method.name,
        "pretrained_sparsity": recipe.method.end_sparsity,
        "epoch": trial.epoch,
        "rate": pruning.rate,
        "criterion": pruning.criterion,
        "scope": pruning.scope,
        "granularity": pruning.granularity,
        "regrow": pruning.regrow,
        "lr_mode": trial.lr,
        "recovery_epochs": trial.recovery_epochs,
        "lr": trial.learning_rate,
        "epochs": recipe.epochs,
        "milestones": " ".join(str(epoch) for epoch in recipe.milestones),
        "status": "ok",
        "note": "",
        "regrow_scope": pruning.regrow_scope,
        "layers": pruning.layers,
        "dense": pruning.dense,
        "reestimate_batchnorm": trial.reestimate_batchnorm,
        "precision": recipe.precision,
    }


def answer_columns(
    trunk: list[dict[str, Any]], trial: Trial, curve: list[dict[str, Any]], whole: bool
) -> dict[str, Any]:
    """The columns that say what came out; None where there is nothing to say."""
    unpruned = {row["epoch"]: row.get("test_acc") for row in trunk}
    before, final = unpruned.get(trial.epoch), unpruned.get(trial.recipe.epochs)
    after = curve[-1]["test_acc"] if whole else None
    frozen = trial.lr == "frozen"
    return {
        "acc_before": before,
        "acc_pruned": curve[0]["test_acc"] if curve else None,
        "acc_after": after,
        "acc_trunk": unpruned.get(trial.epoch + trial.recovery_epochs),
        "acc_final_unpruned": final,
        "trunk_version": versions(trunk),
        "plasticity": _difference(after, before) if frozen else None,
        "final_gap": None if frozen else _difference(after, final),
    }


def versions(history: Iterable[dict[str, Any]]) -> str:
    """With what the rows of a history were made, in their order; empty if they do not say."""
    return " + ".join(dict.fromkeys(row["version"] for row in history if row.get("version")))


def _difference(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def tidy(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows as the tidy table; None in ``regrow`` stays None, missing numbers become NaN."""
    table = pd.DataFrame(rows, columns=COLUMNS)
    numbers = ["sparsity", "sparsity_after", "plasticity", "final_gap", "seconds"]
    numbers += [name for name in COLUMNS if name.startswith(("acc_", "regrown_"))]
    table[numbers] = table[numbers].astype(float)
    # Earlier versions trained every network alone.
    table["stacked"] = table["stacked"].eq(True)
    for name in ("version", "trunk_version"):
        table[name] = table[name].astype(object).fillna("")
    return with_none(table)
