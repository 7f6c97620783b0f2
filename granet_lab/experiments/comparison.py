"""Ways of training sparse beside one another."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from granet_lab import checks
from granet_lab.experiments.store import LAYER, Run
from granet_lab.experiments.tidy import versions
from granet_lab.sparsity import cost, methods
from granet_lab.sparsity.cost import LayerCost
from granet_lab.sparsity.methods import METHODS
from granet_lab.sparsity.sparse_training import SparseTraining
from granet_lab.training.recipe import Recipe, under

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
    "stacked",
    "version",
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
        ValueError: an unknown method, a stop beyond the recipe's end, or nothing to compare.
    """
    makers = _makers(chosen)
    asked = {"methods": makers, "sparsities": _each(sparsities), "seeds": _each(seeds)}
    for name, given in asked.items():
        if not given:
            raise ValueError(f"{name} needs at least one value to compare")
    ways = [("dense", 0.0, methods.dense())]
    ways += [
        (name, s, _made(name, make, s))
        for name, make in makers.items()
        for s in asked["sparsities"]
    ]
    return [
        Entry(name, sparsity, dataclasses.replace(under(recipe, method), seed=seed))
        for name, sparsity, method in ways
        for seed in asked["seeds"]
    ]


def _makers(
    chosen: Iterable[str] | Mapping[str, Callable[[float], SparseTraining]],
) -> dict[str, Callable[[float], SparseTraining]]:
    """Functions sparsity -> method by name, without the dense network, which is always there."""
    if isinstance(chosen, Mapping):
        if "dense" in chosen:
            raise ValueError("dense is always compared: give that method another name")
        return dict(chosen)
    names = checks.several(chosen)
    return {name: METHODS[name] for name in names if METHODS.check(name) != "dense"}


def _made(name: str, make: Callable[[float], SparseTraining], sparsity: float) -> SparseTraining:
    method = make(sparsity) if callable(make) else make
    if not isinstance(method, SparseTraining):
        raise ValueError(f"{name} must be a function sparsity -> method, not {make!r}")
    return method


def _each(values: Iterable[float] | float) -> list[float]:
    """One value or several, none twice."""
    return list(dict.fromkeys(checks.several(values)))


def compared(
    asked: Sequence[Entry], runs: Mapping[Recipe, Run], failed: Mapping[Any, str]
) -> pd.DataFrame:
    """The tidy table of a comparison, see ``Lab.compare``."""
    costs = _layer_costs(asked[0].recipe)
    rows = [_row(one, runs[one.recipe], failed.get(one.recipe, ""), costs) for one in asked]
    table = pd.DataFrame(rows, columns=_COLUMNS)
    dense = table[table["method"] == "dense"].set_index("seed")
    for name in ("inference_flops", "training_flops"):
        table[name] = table[name].astype(float) / table["seed"].map(dense[name].astype(float))
    return table


def _row(
    entry: Entry, run: Run, failure: str, costs: dict[str, LayerCost] | None
) -> dict[str, Any]:
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
        "stacked": any(row.get("stacked", False) for row in run.rows()),
        "version": versions(run.rows()),
    }
    if failure:
        return row | {"status": "failed", "note": failure}
    if run.diverged:
        return row | {"status": "diverged", "note": run.diverged}
    history = run.history
    last = history.iloc[-1]
    layers = last[[name for name in history if name.startswith(LAYER)]]
    layers.index = layers.index.str.removeprefix(LAYER)
    empty = layers.index[layers == 1]
    return row | {
        "sparsity": last["sparsity"],
        "test_acc": last["test_acc"],
        "training_flops": last["training_flops"],
        "exploration": last["exploration"],
        "seconds": history["seconds"].sum(),
        "inference_flops": _inference_flops(costs, layers),
        "note": f"no weight is left in {', '.join(empty)}" if len(empty) else "",
    }


def _layer_costs(recipe: Recipe) -> dict[str, LayerCost] | None:
    """Of the network that is compared; None if it has layers of unknown cost."""
    try:
        return cost.layer_costs(recipe.network(), recipe.images().input_shape)
    except ValueError:
        return None


def _inference_flops(costs: dict[str, LayerCost] | None, sparsities: pd.Series) -> float:
    """Operations of one image; NaN if they are not known."""
    if costs is None or sparsities.empty:
        return float("nan")
    active = {name: one.weights * (1 - sparsities[name]) for name, one in costs.items()}
    return cost.forward_flops(costs, active)
