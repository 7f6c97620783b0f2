"""Checks of what a user typed: each returns the clean value or raises one clear line."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import Any


def fraction(name: str, value: Any) -> float:
    """A float in [0, 1]."""
    number = real(name, value)
    if not 0 <= number <= 1:
        raise ValueError(f"{name} must lie in [0, 1], not {value!r}")
    return number


def real(name: str, value: Any, minimum: float = -math.inf) -> float:
    """A finite float of at least ``minimum``."""
    if isinstance(value, bool):
        raise ValueError(f"{name} must be a number, not {value!r}")
    try:
        number = float(value) + 0.0  # -0.0 becomes 0.0, so that equal values have one hash
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name} must be a number, not {value!r}") from None
    if not math.isfinite(number) or number < minimum:
        bound = "finite" if minimum == -math.inf else f"finite and at least {minimum:g}"
        raise ValueError(f"{name} must be {bound}, not {value!r}")
    return number


def count(name: str, value: Any, minimum: int = 0) -> int:
    """An integer of at least ``minimum``; NumPy's integers become Python's."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be a whole number, not {value!r}") from None
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, not {value!r}")
    return number


def flag(name: str, value: Any) -> bool:
    """True or False; NumPy's become Python's."""
    if value not in (True, False) or isinstance(value, str):
        raise ValueError(f"{name} must be True or False, not {value!r}")
    return bool(value)


def several(value: Any) -> list[Any]:
    """One value, a word among them, or several, as a list."""
    alone = isinstance(value, str) or not isinstance(value, Iterable)
    return [value] if alone or getattr(value, "ndim", 1) == 0 else list(value)


def choice(name: str, value: Any, valid: Iterable[Any]) -> Any:
    """One of ``valid``."""
    options = list(valid)
    if value not in options:
        listed = ", ".join(str(option) for option in options)
        raise ValueError(f"unknown {name} {value!r}: choose from {listed}")
    return value
