"""What a run or a trial is called on disk: a hash of all that determines its result."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
import typing
from collections.abc import Hashable
from typing import Any

from granet_lab.experiments.files import canonical

# Goes up when the same description begins to mean another result.
SCHEMA = 1


def describe(thing: Any) -> dict[str, Any]:
    """A dataclass as plain JSON values, fields at their default left out.

    A field added later does not change the description of what was made before it.
    """
    return {
        field.name: _plain(getattr(thing, field.name))
        for field in dataclasses.fields(thing)
        if getattr(thing, field.name) != _default(field)
    }


def restore(kind: type, description: dict[str, Any]) -> Any:
    """The dataclass that :func:`describe` described.

    Raises:
        ValueError: a field that ``kind`` does not have, or a value that it refuses.
    """
    if not isinstance(description, dict):
        raise ValueError(f"{description!r} describes no {kind.__name__}")
    hints = typing.get_type_hints(kind)
    unknown = description.keys() - {field.name for field in dataclasses.fields(kind)}
    if unknown:
        raise ValueError(f"{kind.__name__} has no field {', '.join(sorted(unknown))}")
    values = {
        name: restore(_dataclass(hints[name]), value) if isinstance(value, dict) else value
        for name, value in description.items()
    }
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"the description of a {kind.__name__} is not whole: {error}") from None


def identity(thing: Any) -> str:
    """16 hexadecimal digits of the SHA-256 over the description and the schema number."""
    return (_remembered if isinstance(thing, Hashable) else _identity)(thing, SCHEMA)


def identified(kind: str, description: Any, schema: int = SCHEMA) -> str:
    """The identity of what is described, whether its names are known here or not."""
    text = canonical({"schema": schema, kind: description})
    return hashlib.sha256(text).hexdigest()[:16]


def folder_name(recipe: dict[str, Any]) -> str:
    """What the folder of a run is called whose recipe is described.

    Raises:
        KeyError, TypeError, AttributeError: it describes none.
    """
    return run_folder(recipe["dataset"], recipe["model"], identified("Recipe", recipe))


def run_folder(dataset: str, model: str, name: str) -> str:
    """What the folder of a run is called.

    Args:
        dataset, model: those of its recipe.
        name: the recipe's identity.
    """
    return f"{_word(dataset)}-{_word(model)}-{name}"


def _word(name: str) -> str:
    """The end of a name such as "folder:birds/small", fit for a path."""
    return re.split(r"[:/\\]", name.rstrip("/"))[-1]


def _identity(thing: Any, schema: int) -> str:
    return identified(type(thing).__name__, describe(thing), schema)


# A trial is asked for its name a dozen times between question and answer.
_remembered = functools.lru_cache(maxsize=2**17)(_identity)


def _dataclass(hint: Any) -> type:
    """The dataclass that an annotation names, perhaps beside None."""
    kinds = [kind for kind in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(kind)]
    if not kinds:
        raise ValueError(f"a field of type {hint} does not hold several values by name")
    return kinds[0]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return describe(value)
    return list(value) if isinstance(value, tuple) else value


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default
