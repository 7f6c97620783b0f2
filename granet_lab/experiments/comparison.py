"""Ways of training sparse beside one another."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from granet_lab.experiments.store import Run
from granet_lab.sparsity import cost, methods
from granet_lab.sparsity.methods import METHODS
from granet_lab.sparsity.sparse_training import SparseTraining
from granet_lab.training import data, loop
from granet_lab.training.recipes import Recipe

# What the paper compares, and the dense network.
COMPARED = ("dense", "static", "set", "rigl", "gmp", "granet", "granet_st")

_COLUMNS = [
    "dataset",
    "model",
    "method",
    "asked_sparsity",
    "seed",
    "sparsity",
    "test_acc",
    "inference_flops",
    "training_flops",
    "exploration",
    "initial_sparsity",
    "regrow_fraction",
    "seconds",
    "epochs",
    "status",
    "note",
    "run",
]


@dataclass(frozen=True)
class Entry:
    """One run of a comparison: the method's name in it, the sparsity asked for, the recipe."""

    method: str
    sparsity: float
    recipe: Recipe


def comparison(
    recipe: Recipe,
    chosen: Iterable[str] | Mapping[str, Callable[[float], SparseTraining]],
    sparsities: Iterable[float],
    seeds: Iterable[int],
) -> list[Entry]:
    """The runs that are compared, those of the dense network first.

    Raises:
        ValueError: an unknown method, a schedule that does not fit the recipe, or nothing to
            compare.
    """
    if not isinstance(chosen, Mapping):
        names = [chosen] if isinstance(chosen, str) else list(chosen)
        chosen = {name: METHODS[name] for name in names if name != "dense"}
    sparsities, seeds = list(sparsities), list(seeds)
    for name, given in (("methods", chosen), ("sparsities", sparsities), ("seeds", seeds)):
        if not given:
            raise ValueError(f"{name} needs at least one value to compare")
    asked = [("dense", 0.0, methods.dense())]
    asked += [(name, s, make(s)) for name, make in chosen.items() for s in sparsities]
    entries = [
        Entry(name, sparsity, _with_method(recipe, method, seed))
        for name, sparsity, method in asked
        for seed in seeds
    ]
    for entry in entries:
        loop.plan(entry.recipe, data.load(recipe.dataset))
    return entries


def _with_method(recipe: Recipe, method: SparseTraining, seed: int) -> Recipe:
    """The recipe under a method; rounds take its epochs once for each."""
    if method.rounds is None:
        return dataclasses.replace(recipe, method=method, seed=seed)
    rounds = dataclasses.replace(method.rounds, cycle=recipe.epochs)
    method = dataclasses.replace(method, rounds=rounds)
    return dataclasses.replace(recipe, method=method, epochs=rounds.epochs, seed=seed)


def compared(
    asked: Sequence[Entry], runs: Mapping[Recipe, Run], failed: Mapping[Any, str]
) -> pd.DataFrame:
    """The tidy table of a comparison, see ``Lab.compare``."""
    rows = [_row(entry, runs[entry.recipe], failed.get(entry.recipe, "")) for entry in asked]
    table = pd.DataFrame(rows, columns=_COLUMNS)
    dense = table[table["method"] == "dense"].set_index("seed")
    for name in ("inference_flops", "training_flops"):
        table[name] = table[name].astype(float) / table["seed"].map(dense[name].astype(float))
    return table


def _row(entry: Entry, run: Run, failure: str) -> dict[str, Any]:
    recipe = entry.recipe
    row: dict[str, Any] = {
        "dataset": recipe.dataset,
        "model": recipe.model,
        "method": entry.method,
        "asked_sparsity": entry.sparsity,
        "seed": recipe.seed,
        "initial_sparsity": recipe.method.initial_sparsity,
        "regrow_fraction": recipe.method.regrow_fraction if recipe.method.regrow else 0.0,
        "epochs": recipe.method.rounds.cycle if recipe.method.rounds else recipe.epochs,
        "status": "ok",
        "note": "",
        "run": run.path.name,
    }
    if failure:
        return row | {"status": "failed", "note": failure}
    if run.diverged:
        return row | {"status": "diverged", "note": run.diverged}
    history = run.history
    last = history.iloc[-1]
    return row | {
        "sparsity": last["sparsity"],
        "test_acc": last["test_acc"],
        "training_flops": last["training_flops"],
        "exploration": last["exploration"],
        "seconds": history["seconds"].sum(),
        "inference_flops": _inference_flops(run),
    }


def _inference_flops(run: Run) -> float:
    """Operations of one image at the end; NaN for layers of unknown cost."""
    state, shape = run.load(run.recipe.epochs), data.load(run.recipe.dataset).input_shape
    try:
        return cost.inference_flops(state.model, shape, state.masks)
    except ValueError:
        return float("nan")
