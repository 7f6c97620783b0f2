"""What is typed in a shell, as recipes and methods."""

# Torch and the rest are imported inside the functions, so that --help answers at once.
from __future__ import annotations

import ast
import dataclasses
import functools
from collections.abc import Callable
from typing import Any


def recipes(
    name: str,
    settings: tuple[str, ...],
    seeds: tuple[int, ...] = (0,),
    sparsities: tuple[float, ...] = (0.0,),
    method_texts: tuple[str, ...] = ("static",),
) -> list[Any]:
    """A named recipe with ``name=value`` settings, for each method, sparsity and seed.

    Raises:
        ValueError: an unknown name, or a value that the recipe refuses.
    """
    from granet_lab import checks
    from granet_lab.sparsity import methods
    from granet_lab.training.recipes import RECIPES, Recipe

    changes = dict(setting(text) for text in settings)
    fields = {field.name for field in dataclasses.fields(Recipe)} - {"seed", "method"}
    for field in changes:
        if field in ("seed", "method"):
            raise ValueError(f"{field} is not for --set: use --{field}")
        checks.choice("field", field, sorted(fields))
    options = {"--seed": seeds, "--pretrained-sparsity": sparsities, "--method": method_texts}
    for option, found in options.items():
        if not found:
            raise ValueError(f"{option} needs at least one value")
    makers = [method(text)[1] for text in method_texts]
    ways = [
        make(sparsity) if sparsity else methods.dense()
        for make in makers
        for sparsity in sparsities
    ]
    return [
        RECIPES[name](**changes, seed=seed, method=way)
        for way in dict.fromkeys(ways)
        for seed in seeds
    ]


def method(text: str) -> tuple[str, Callable[[float], Any]]:
    """``method,field=value,...``, perhaps ``name:`` before it, as the name and a function
    sparsity -> method.

    Raises:
        ValueError: an unknown method or field.
    """
    from granet_lab import checks
    from granet_lab.sparsity.methods import METHODS
    from granet_lab.sparsity.sparse_training import SparseTraining

    name, _, spelled = text.rpartition(":")
    known, *settings = spelled.split(",")
    values = dict(setting(one, "--method") for one in settings)
    for field in values:
        fields = [one.name for one in dataclasses.fields(SparseTraining)]
        checks.choice("field", field, sorted({*fields, "epoch"}))
    METHODS.check(known)

    def make(sparsity: float) -> Any:
        try:
            return METHODS[known](sparsity, **values)
        except TypeError as error:
            raise ValueError(f"method {known} cannot be made so: {error}") from None

    return name or text, functools.wraps(METHODS[known])(make)


def setting(text: str, option: str = "--set") -> tuple[str, Any]:
    """``name=value`` as a pair; numbers, tuples (15,22), True and None are read as such."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{option} takes name=value, not {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value
