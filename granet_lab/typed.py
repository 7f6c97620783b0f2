"""What is typed in a shell, as recipes and methods."""

# Torch and the rest are imported inside the functions, so that --help answers at once.
from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Callable
from typing import Any


def recipes(
    name: str,
    settings: tuple[str, ...],
    seeds: tuple[int, ...] = (0,),
    sparsities: tuple[float, ...] = (0.0,),
    method_texts: tuple[str, ...] | None = None,
) -> list[Any]:
    """A named recipe with ``name=value`` settings, for each method, sparsity and seed.

    Raises:
        ValueError: an unknown name, or a value that the recipe refuses.
    """
    from granet_lab.sparsity.methods import dense
    from granet_lab.training.recipe import under
    from granet_lab.training.recipes import RECIPES

    values = changes(settings)
    for option, found in (("--seed", seeds), ("--pretrained-sparsity", sparsities)):
        if not found:
            raise ValueError(f"{option} needs at least one value")
    if method_texts is None:
        method_texts = ("static",)
    elif not method_texts:
        raise ValueError("--method needs at least one value")
    elif not any(sparsities):
        raise ValueError("--method needs a --pretrained-sparsity above 0")
    makers = [method(text)[1] for text in method_texts]
    ways = [make(sparsity) if sparsity else dense() for make in makers for sparsity in sparsities]
    return [
        under(RECIPES[name](**values, seed=seed), way)
        for way in dict.fromkeys(ways)
        for seed in seeds
    ]


def changes(settings: tuple[str, ...]) -> dict[str, Any]:
    """``name=value`` settings of a recipe, as a dict.

    Raises:
        ValueError: a field that recipes do not have, or that another option is for.
    """
    from granet_lab import checks
    from granet_lab.training.recipe import Recipe

    found = dict(setting(text) for text in settings)
    fields = {field.name for field in dataclasses.fields(Recipe)} - {"seed", "method"}
    for field in found:
        if field in ("seed", "method"):
            raise ValueError(f"{field} is not for --set: use --{field}")
        checks.choice("field", field, sorted(fields))
    return found


def methods(texts: tuple[str, ...]) -> dict[str, Callable[[float], Any]]:
    """Several, by name; the dense network, which is compared anyway, left out.

    Raises:
        ValueError: an unknown method or field, or a name that is there twice.
    """
    found: dict[str, Callable[[float], Any]] = {}
    for text in texts:
        name, make = method(text)
        if name in found:
            raise ValueError(f"two methods are called {name}: write other:{text}")
        if text != "dense":
            found[name] = make
    return found


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

    return name or text, make


def setting(text: str, option: str = "--set") -> tuple[str, Any]:
    """``name=value`` as a pair; numbers, tuples (15,22), True and None are read as such."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{option} takes name=value, not {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def part(text: str) -> tuple[int, int]:
    """``2/8``: the second of eight parts.

    Raises:
        ValueError: it is none.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    which, of = map(int, found.groups()) if found else (0, 0)
    if not 1 <= which <= of:
        raise ValueError(f"a part is written like 2/8, the second of eight, not {text!r}")
    return which, of
