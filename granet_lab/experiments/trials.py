"""Trial: one question asked of a run; grids of them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from granet_lab import checks
from granet_lab.sparsity import Pruning, naming, prunable
from granet_lab.training.recipe import Recipe, learning_rate

CONTINUATIONS = ("frozen", "remaining")

# A tenth of the run, at least one epoch: 6 of 60 on digits.
_DEFAULT_RECOVERY = 10


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Prune the network that ``recipe`` trains after ``epoch`` epochs, and train on.

    Attributes:
        recipe: the run that is branched from.
        epoch: when: 0 is initialisation, ``recipe.epochs`` the end.
        pruning: what is removed, and what comes back.
        recovery_epochs: how long training goes on under the frozen learning rate; by default a
            tenth of the run. The remaining schedule always goes to the end of the run.
        lr: "frozen" keeps the learning rate that the next epoch would have had (at the end: the
            last one), and measures ``plasticity``; "remaining" follows the rest of the schedule,
            and measures ``final_gap``.
        reestimate_batchnorm: whether BatchNorm's statistics are measured anew on the training
            images right after pruning, before anything is trained or tested.

    Raises:
        ValueError: an epoch that the run does not have, or a value outside its range.
    """

    recipe: Recipe
    epoch: int
    pruning: Pruning
    recovery_epochs: int | None = None
    lr: str = "frozen"
    reestimate_batchnorm: bool = False

    def __post_init__(self) -> None:
        for name, kind in (("recipe", Recipe), ("pruning", Pruning)):
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"{name} must be a {kind.__name__}, not {getattr(self, name)!r}")
        last = self.recipe.epochs
        epoch = checks.count("epoch", self.epoch)
        if epoch > last:
            raise ValueError(f"epoch {epoch} is not in this run: choose 0 to {last}")
        checks.choice("continuation", self.lr, CONTINUATIONS)
        natural = last - epoch if self.lr == "remaining" else max(1, last // _DEFAULT_RECOVERY)
        recovery = natural if self.recovery_epochs is None else self.recovery_epochs
        recovery = checks.count("recovery_epochs", recovery)
        if self.lr == "remaining" and recovery != natural:
            raise ValueError(
                f"the remaining schedule from epoch {epoch} has {natural} epochs, not {recovery}: "
                "leave recovery_epochs out"
            )
        reestimate = checks.flag("reestimate_batchnorm", self.reestimate_batchnorm)
        object.__setattr__(self, "reestimate_batchnorm", reestimate)
        object.__setattr__(self, "epoch", epoch)
        object.__setattr__(self, "recovery_epochs", recovery)

    @property
    def learning_rate(self) -> float:
        """What "frozen" means here: the rate of the epoch that would come next."""
        return learning_rate(self.recipe, min(self.epoch, self.recipe.epochs - 1))


def grid(recipe: Recipe, **values: Any) -> list[Trial]:
    """Trials for every combination of values.

    Args:
        recipe: what is not varied.
        values: any field of :class:`Recipe`, :class:`Pruning` or :class:`Trial` by its name, one
            value or several of them. ``epoch`` and ``rate`` must be given. A word for ``lr`` is
            the continuation, a number the recipe's learning rate. ``recovery_epochs`` applies to
            the frozen continuation alone, ``regrow_scope`` where something comes back.

    Raises:
        ValueError: an unknown field, a value that the field refuses, or a layer that the network
            does not have.
    """
    fields = {kind: {f.name for f in dataclasses.fields(kind)} for kind in (Recipe, Pruning, Trial)}
    known = set().union(*fields.values()) - {"recipe", "pruning"}
    for name in values:
        checks.choice("field", name, sorted(known))
    for name in ("epoch", "rate"):
        if name not in values:
            raise ValueError(f"grid needs {name}, one value or several")
    trials: dict[Trial, None] = {}
    choices = {name: _several(name, value) for name, value in values.items()}
    for name, found in choices.items():
        if not found:
            raise ValueError(f"{name} needs at least one value")
    known: dict[tuple[str, str], list[str]] = {}
    regrowing = any(value is not None for value in choices.get("regrow", ()))
    order = sorted(choices, key=lambda name: name not in fields[Recipe] or name == "lr")
    for combination in itertools.product(*(choices[name] for name in order)):
        chosen = dict(zip(order, combination, strict=True))
        branch = {n: chosen.pop(n) for n in (fields[Trial] - {"lr"}) & chosen.keys()}
        if isinstance(chosen.get("lr"), str):
            branch["lr"] = chosen.pop("lr")
        if branch.get("lr") == "remaining":
            branch.pop("recovery_epochs", None)
        if chosen.get("regrow") is None and regrowing:
            chosen.pop("regrow_scope", None)
        pruning = Pruning(**{n: chosen.pop(n) for n in fields[Pruning] & chosen.keys()})
        trial = Trial(recipe=replace(recipe, **chosen), pruning=pruning, **branch)
        _check_layers(trial, known)
        trials[trial] = None
    return list(trials)


def _check_layers(trial: Trial, known: dict[tuple[str, str], list[str]]) -> None:
    """Refuse layers that the network does not have; ``known`` are those of networks seen before."""
    pruning, network = trial.pruning, (trial.recipe.dataset, trial.recipe.model)
    if (pruning.layers, pruning.dense) != (naming.EVERY, naming.NONE):
        if network not in known:
            known[network] = layer_names(trial.recipe)
        naming.choose(known[network], pruning.layers, pruning.dense)


def _several(name: str, value: Any) -> list[Any]:
    """The values of one field; a single milestones tuple is one value."""
    found = checks.several(value)
    if (
        name == "milestones"
        and isinstance(value, Iterable)
        and all(not isinstance(item, Iterable) for item in found)
    ):
        return [tuple(found)]
    return found


def layer_names(recipe: Recipe) -> list[str]:
    """The prunable parameters of a recipe's network, in its order: what ``layers`` can name."""
    return list(prunable(recipe.network()))
