"""Recipes and trials as the Python that makes them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from granet_lab.experiments.trials import Trial
from granet_lab.sparsity import methods
from granet_lab.sparsity.rounds import Rounds
from granet_lab.sparsity.sparse_training import SparseTraining
from granet_lab.training.recipe import Recipe
from granet_lab.training.recipes import RECIPES


def trials_code(trials: Sequence[Trial]) -> str:
    """One line that gives ``gl.Trial(...)``, or a list of them for trials that differ in the seed.

    Raises:
        ValueError: there is none, or they differ in more.
    """
    first = trials[0] if trials else None
    seeds = [trial.recipe.seed for trial in trials]
    if first is None or any(
        dataclasses.replace(t, recipe=dataclasses.replace(t.recipe, seed=first.recipe.seed))
        != first
        for t in trials
    ):
        raise ValueError("one line spells trials that differ in their seed alone")
    if len(trials) == 1:
        return _trial(first, recipe_code(first.recipe))
    recipe = recipe_code(first.recipe, seed="seed")
    return f"[{_trial(first, recipe)} for seed in {seeds}]"


def recipe_code(recipe: Recipe, **texts: str) -> str:
    """A recipe, from the named recipe that is nearest to it, or from nothing if that is shorter.

    Args:
        recipe: what to spell.
        texts: an expression for a field, in place of its value.
    """
    spelled = [_call("gl.Recipe", _differences(recipe, {}), texts)]
    for name in RECIPES:
        base = RECIPES[name]()
        known = {field.name: getattr(base, field.name) for field in dataclasses.fields(base)}
        spelled.append(_call(f"gl.recipes.{name}", _differences(recipe, known), texts))
    return min(spelled, key=len)


def _trial(trial: Trial, recipe: str) -> str:
    pruning = _call("gl.Pruning", _differences(trial.pruning, {}))
    texts = {"recipe": recipe, "epoch": str(trial.epoch), "pruning": pruning}
    if trial.lr == "frozen":
        texts["recovery_epochs"] = str(trial.recovery_epochs)
    else:
        texts["lr"] = repr(trial.lr)
    if trial.reestimate_batchnorm:
        texts["reestimate_batchnorm"] = "True"
    return _call("gl.Trial", {}, texts)


def _differences(thing: Any, known: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a dataclass that differ from those known, or else from their defaults."""
    found = {}
    for field in dataclasses.fields(thing):
        value = getattr(thing, field.name)
        factory = field.default_factory
        default = factory() if factory is not dataclasses.MISSING else field.default
        if value != known.get(field.name, default):
            found[field.name] = value
    return found


def _call(name: str, values: Mapping[str, Any], texts: Mapping[str, str] | None = None) -> str:
    words = {key: _value(value) for key, value in values.items()} | dict(texts or {})
    return f"{name}({', '.join(f'{key}={text}' for key, text in words.items())})"


def _value(value: Any) -> str:
    if isinstance(value, Rounds):
        return _call("gl.methods.Rounds", _differences(value, {}))
    return _method(value) if isinstance(value, SparseTraining) else repr(value)


def _method(value: SparseTraining) -> str:
    """From the method of its name, else from nothing."""
    if value == methods.dense():
        return "gl.methods.dense()"
    aim = value.end_sparsity
    for name in methods.METHODS:
        with contextlib.suppress(TypeError, ValueError):  # it does not take what differs
            usual = methods.METHODS[name](aim)
            odd = _differences(value, vars(usual))
            if usual.name == value.name and methods.METHODS[name](aim, **odd) == value:
                words = [repr(aim), *(f"{key}={_value(one)}" for key, one in odd.items())]
                return f"gl.methods.{methods.METHODS[name].__name__}({', '.join(words)})"
    return _call("gl.methods.SparseTraining", _differences(value, {}))
