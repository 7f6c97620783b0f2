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
from granet_lab.training import data, loop, models
from granet_lab.training.recipes import Recipe, under

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
    sparsities: Iterable[float] | float,
    seeds: Iterable[int] | int,
) -> list[Entry]:
    """The runs that are compared, those of the dense network first.

    Raises:
        ValueError: an unknown method, a schedule that does not fit the recipe, or nothing to
            compare.
    """
    makers = _makers(chosen)
    asked = {"methods": makers, "sparsities": _several(sparsities), "seeds": _several(seeds)}
    for name, given in asked.items():
        if not given:
            raise ValueError(f"{name} needs at least one value to compare")
    ways = [("dense", 0.0, methods.dense())]
    ways += [
        (name, s, _made(name, make, s))
        for name, make in makers.items()
        for s in asked["sparsities"]
    ]
    entries = [
        Entry(name, sparsity, dataclasses.replace(under(recipe, method), seed=seed))
        for name, sparsity, method in ways
        for seed in asked["seeds"]
    ]
    for entry in entries:
        loop.plan(entry.recipe, data.load(recipe.dataset))
    return entries


def _makers(
    chosen: Iterable[str] | Mapping[str, Callable[[float], SparseTraining]],
) -> dict[str, Callable[[float], SparseTraining]]:
    """Functions sparsity -> method by name, without the dense network, which is always there."""
    if isinstance(chosen, Mapping):
        if "dense" in chosen:
            raise ValueError("dense is always compared: give that method another name")
        return dict(chosen)
    names = [chosen] if isinstance(chosen, str) else list(chosen)
    return {name: METHODS[name] for name in names if METHODS.check(name) != "dense"}


def _made(name: str, make: Callable[[float], SparseTraining], sparsity: float) -> SparseTraining:
    method = make(sparsity) if callable(make) else make
    if not isinstance(method, SparseTraining):
        raise ValueError(f"{name} must be a function sparsity -> method, not {make!r}")
    return method


def _several(values: Iterable[float] | float) -> list[float]:
    """One value or several, each once."""
    return list(dict.fromkeys(values if isinstance(values, Iterable) else [values]))


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
    layers = run.rows()[-1].get("layers", {})
    empty = [name for name, sparsity in layers.items() if sparsity == 1]
    return row | {
        "sparsity": last["sparsity"],
        "test_acc": last["test_acc"],
        "training_flops": last["training_flops"],
        "exploration": last["exploration"],
        "seconds": history["seconds"].sum(),
        "inference_flops": _inference_flops(recipe.model, recipe.dataset, layers),
        "note": f"no weight is left in {', '.join(empty)}" if empty else "",
    }


def _inference_flops(model: str, dataset: str, sparsities: dict[str, float]) -> float:
    """Operations of one image at the end; NaN for layers of unknown cost."""
    images = data.load(dataset)
    network = models.build(model, images.input_shape, images.classes, seed=0)
    try:
        return cost.inference_flops(network, images.input_shape, sparsity=sparsities)
    except ValueError:
        return float("nan")
