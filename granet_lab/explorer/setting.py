"""Setting: what a person may choose in the explorer, apart from the epoch and the seeds."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from granet_lab import checks
from granet_lab.experiments.results import Results
from granet_lab.experiments.trials import CONTINUATIONS, Trial, grid
from granet_lab.sparsity import Pruning, granularity, methods, naming
from granet_lab.sparsity.allocation import SCHEMES
from granet_lab.sparsity.criteria import CRITERIA
from granet_lab.sparsity.methods import SparseTraining
from granet_lab.sparsity.regrowths import REGROWTHS
from granet_lab.training.recipe import Recipe

RATES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
SPARSITIES = (0.5, 0.8, 0.9, 0.95)
_USUAL_SPARSITY = 0.9
_CHANGING = (methods.set_, methods.rigl, methods.gmp, methods.granet, methods.granet_st)
GRANULARITIES = (granularity.WEIGHT, granularity.FILTER, "2:4")

_PRUNING = tuple(field.name for field in dataclasses.fields(Pruning))
# What may be chosen, in the order of the controls.
FIELDS = (*_PRUNING, "lr", "recovery_epochs", "reestimate_batchnorm", "method")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A way of pruning and training on, for any epoch and seed of a recipe.

    Attributes:
        pruning: what is removed, and what comes back.
        lr: the continuation, "frozen" or "remaining".
        recovery_epochs: of the frozen continuation; None is the default of :class:`Trial`.
        method: how the network was trained before.
        reestimate_batchnorm: whether BatchNorm's statistics are measured anew after pruning.
    """

    pruning: Pruning
    lr: str
    recovery_epochs: int | None
    method: SparseTraining
    reestimate_batchnorm: bool = False

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Setting:
        """From a value for each of ``FIELDS``, made :func:`fitting`.

        Raises:
            ValueError: a value outside its range, or an unknown name.
        """
        values = fitting(values)
        checks.choice("continuation", values["lr"], CONTINUATIONS)
        return cls(
            pruning=Pruning(**{name: values[name] for name in _PRUNING}),
            lr=values["lr"],
            recovery_epochs=values["recovery_epochs"],
            reestimate_batchnorm=values["reestimate_batchnorm"],
            method=values["method"],
        )

    def recipe(self, recipe: Recipe, seed: int) -> Recipe:
        """The recipe that the setting branches from."""
        return dataclasses.replace(recipe, method=self.method, seed=seed)

    def trial(self, recipe: Recipe, epoch: int, seed: int) -> Trial:
        """The question that this setting asks at an epoch."""
        return Trial(
            recipe=self.recipe(recipe, seed),
            epoch=epoch,
            pruning=self.pruning,
            recovery_epochs=self.recovery_epochs if self.lr == "frozen" else None,
            lr=self.lr,
            reestimate_batchnorm=self.reestimate_batchnorm,
        )

    @property
    def measures(self) -> str:
        """The column that answers: "plasticity", or "final_gap" under the remaining schedule."""
        return "plasticity" if self.lr == "frozen" else "final_gap"

    @property
    def slug(self) -> str:
        """The setting as part of a file's name."""
        short = re.sub(r"learning rate for (\d+) epochs?", r"\1", str(self).lower())
        return re.sub(r"[^a-z0-9.]+", "-", short).strip("-")

    def __str__(self) -> str:
        training = "frozen learning rate" if self.lr == "frozen" else "remaining schedule"
        if self.lr == "frozen" and self.recovery_epochs is not None:
            training += f" for {self.recovery_epochs} epoch{'s' * (self.recovery_epochs != 1)}"
        if self.reestimate_batchnorm:
            training += ", BatchNorm re-estimated"
        return " · ".join([*_pruning_parts(self.pruning), training, str(self.method)])


def _pruning_parts(pruning: Pruning) -> list[str]:
    """A pruning in words; what is as usual is left out, but for what everybody asks."""
    where = "" if pruning.layers == naming.EVERY else f" of {pruning.layers}"
    spared = f" but {pruning.dense}" if pruning.dense else ""
    unit = "" if pruning.granularity == granularity.WEIGHT else f", {pruning.granularity}"
    across = " across layers" if pruning.regrow_scope == "global" else ""
    return [
        f"rate {pruning.rate}{where}{spared}",
        f"{pruning.criterion}, {pruning.scope}{unit}",
        f"{pruning.regrow or 'no'} regeneration{across}",
    ]


def fitting(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of ``FIELDS`` that go together."""
    return {**values, **_implied(values)}


def settled(values: Mapping[str, Any]) -> set[str]:
    """The fields that are no choice beside the others."""
    return {*_implied(values)} | ({"recovery_epochs"} if values["lr"] != "frozen" else set())


def _implied(values: Mapping[str, Any]) -> dict[str, Any]:
    """What some values say of others.

    A pattern N:M settles the rate and the scope and leaves no room to regrow; without regrowth
    there is nothing to share out among the layers.
    """
    share = granularity.removed(values["granularity"])
    found = {} if share is None else {"rate": share, "scope": "uniform", "regrow": None}
    if found.get("regrow", values["regrow"]) is None:
        found["regrow_scope"] = "layer"
    return found


def family(recipe: Recipe, recipes: Iterable[Recipe]) -> list[Recipe]:
    """Those that differ from ``recipe`` in nothing but method and seed; itself among them."""

    def plain(one: Recipe) -> Recipe:
        return dataclasses.replace(one, method=methods.dense(), seed=0)

    kin = [other for other in recipes if plain(other) == plain(recipe)]
    return list(dict.fromkeys([recipe, *kin]))


def asked(recipe: Recipe, values: Mapping[str, Any]) -> dict[str, list[Any]]:
    """What a user gave, a list for each name, its values as a trial keeps them.

    Args:
        recipe: whose trials.
        values: by the name of a field in ``FIELDS``, ``seed`` or ``epoch``: one or several.

    Raises:
        ValueError: an unknown name, no value, or one that a trial refuses.
    """
    plain = first(recipe, {}) | {"rate": 0, "epoch": 0}
    found = {}
    for name, value in values.items():
        checks.choice("field", name, [*FIELDS, "seed", "epoch"])
        # A place for what comes back is a question only where something does.
        usual = plain | ({"regrow": "gradient"} if name == "regrow_scope" else {})
        kept = []
        for word in checks.several(value):
            if name == "lr":
                checks.choice("continuation", word, CONTINUATIONS)
            kept += [_kept(trial, name) for trial in grid(recipe, **fitting(usual | {name: word}))]
        if not kept:
            raise ValueError(f"{name} needs at least one value")
        found[name] = list(dict.fromkeys(kept))
    return found


def choices(
    recipe: Recipe, kin: Iterable[Recipe], results: Results, given: Mapping[str, list[Any]]
) -> dict[str, list[Any]]:
    """What each control offers: usual values, those in the lab, and those ``given``.

    Args:
        recipe: whose trials.
        kin: its :func:`family`.
        results: what the lab holds of them.
        given: see :func:`asked`.
    """
    rows = [found["row"] for found in results.all_trials()]
    frozen = [row["recovery_epochs"] for row in rows if row["lr_mode"] == "frozen"]
    usual: dict[str, list[Any]] = {
        "rate": [*RATES, *(row["rate"] for row in rows)],
        "criterion": list(CRITERIA),
        "scope": ["global", *SCHEMES],
        "granularity": [*GRANULARITIES, *(row["granularity"] for row in rows)],
        "regrow": [None, *REGROWTHS],
        "regrow_scope": ["layer", *(row.get("regrow_scope", "layer") for row in rows)],
        "layers": [naming.EVERY, *(row.get("layers", naming.EVERY) for row in rows)],
        "dense": [naming.NONE, *(row.get("dense", naming.NONE) for row in rows)],
        "lr": list(CONTINUATIONS),
        "recovery_epochs": [first(recipe, {})["recovery_epochs"], *frozen],
        "reestimate_batchnorm": [
            False,
            *(row.get("reestimate_batchnorm", False) for row in rows),
        ],
        "method": [
            recipe.method,
            methods.dense(),
            *(methods.static(sparsity) for sparsity in SPARSITIES),
            *(make(_USUAL_SPARSITY) for make in _CHANGING),
            *(other.method for other in kin),
        ],
        "seed": [*range(3), *(other.seed for other in kin)],
    }
    offered = {name: [*values, *given.get(name, [])] for name, values in usual.items()}
    shares = [granularity.removed(name) for name in offered["granularity"]]
    offered["rate"] += [share for share in shares if share is not None]
    for name in ("rate", "recovery_epochs", "seed"):
        offered[name] = sorted(set(offered[name]))
    offered["method"].sort(key=lambda method: (method.end_sparsity, str(method)))
    return {name: list(dict.fromkeys(values)) for name, values in offered.items()}


def first(recipe: Recipe, given: Mapping[str, list[Any]]) -> dict[str, Any]:
    """The values that the controls start with: the first of those given, else the usual."""
    usual = {
        "rate": 0.9,
        "criterion": "magnitude",
        "scope": "global",
        "granularity": granularity.WEIGHT,
        "regrow": None,
        "regrow_scope": "layer",
        "layers": naming.EVERY,
        "dense": naming.NONE,
        "lr": "frozen",
        "recovery_epochs": grid(recipe, epoch=0, rate=0)[0].recovery_epochs,
        "reestimate_batchnorm": False,
        "method": recipe.method,
    }
    return fitting({name: given[name][0] if name in given else usual[name] for name in FIELDS})


def first_seeds(recipe: Recipe, results: Results, given: Mapping[str, list[Any]]) -> list[int]:
    """The seeds to start with: those given, else up to five that were measured."""
    if "seed" in given:
        return given["seed"]
    known = {found["row"]["seed"] for found in results.all_trials()}
    return sorted(known)[:5] or [recipe.seed]


def _kept(trial: Trial, name: str) -> Any:
    """A field of the pruning, the trial or its recipe: the first that has it."""
    return next(
        getattr(kind, name) for kind in (trial.pruning, trial, trial.recipe) if hasattr(kind, name)
    )
