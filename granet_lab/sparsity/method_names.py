"""What people call a way of training sparse."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from granet_lab.sparsity.sparse_training import SparseTraining

_TOLD_BY_NAME = {
    "rigl": ("regrow",),
    "set": ("regrow",),
    "granet": ("regrow",),
    "granet_st": ("regrow",),
    "gsm": ("salient",),
}
# The first that fits.
_NAMES: dict[str, Callable[[SparseTraining], bool]] = {
    "dense": lambda m: not m.changes and not m.initial_sparsity,
    "static": lambda m: not m.changes,
    "lottery": lambda m: m.rounds and m.rounds.rewind_weights,
    "lr_rewinding": lambda m: m.rounds,
    "gsm": lambda m: m.salient and m.regrow is None,
    "one_shot": lambda m: m.regrow is None and m.start == m.stop and not m.initial_sparsity,
    "gmp": lambda m: m.regrow is None and not m.salient,
    "rigl": lambda m: m.final_sparsity is None and m.regrow == "gradient",
    "set": lambda m: m.final_sparsity is None and m.regrow == "random",
    "granet": lambda m: m.regrow == "gradient" and not m.salient and not m.initial_sparsity,
    "granet_st": lambda m: m.regrow == "gradient" and not m.salient,
}


def name(method: SparseTraining) -> str:
    """One word; "custom" if nobody has one."""
    return next((known for known, fits in _NAMES.items() if fits(method)), "custom")


def label(method: SparseTraining) -> str:
    """The name, the sparsities, and what is not as the name promises."""
    known = name(method)
    if known == "dense":
        return known
    first, last = method.initial_sparsity, method.end_sparsity
    span = f"{last}" if first in (0, last) else f"{first} to {last}"
    usual = {field.name: field.default for field in dataclasses.fields(method)}
    start = ("criterion", "scope")
    told = {"initial_sparsity", "final_sparsity", *start, *_TOLD_BY_NAME.get(known, ())}
    odd = [
        f"{field.replace('_', ' ')} {getattr(method, field)}"
        for field in usual
        if field not in told and getattr(method, field) != usual[field]
    ]
    if any(getattr(method, field) != usual[field] for field in start):
        odd = [method.criterion, method.scope, *odd]
    how = f" ({', '.join(odd)})" if odd else ""
    return f"{known.replace('_', '-')} {span}{how}"
