"""Which layers an operation is about, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

# Names of parameters, with wildcards, separated by spaces; or a function of a name.
Layers = str | Callable[[str], bool]

EVERY, NONE = "*", ""

# Names that an error lists.
_FEW = 12


def choose(names: Sequence[str], layers: Layers = EVERY, dense: Layers = NONE) -> list[str]:
    """The layers that are pruned.

    Args:
        names: of the prunable parameters, in the network's order.
        layers: those that take part: names with wildcards ("*", "?"), separated by spaces, or
            a function that says so of a name. "first" and "last" are the first of ``names``, in
            most networks the first convolution, and the last, the classifier. A module's name means
            all its parameters.
        dense: those among them that are left as they are; written in the same way.

    Raises:
        ValueError: a name that no layer has, or no layer is left.
    """
    named = matching(names, layers)
    left_out = set(matching(names, dense))
    chosen = [name for name in named if name not in left_out]
    if not chosen:
        raise ValueError(f"no layer is left to prune: layers={layers!r}, dense={dense!r}")
    return chosen


def matching(names: Sequence[str], layers: Layers) -> list[str]:
    """Those of ``names`` that ``layers`` means.

    Raises:
        ValueError: a name or pattern that fits none.
    """
    if not isinstance(layers, str) and not callable(layers):
        raise ValueError(f"layers must be names in one string, or a function, not {layers!r}")
    if callable(layers):
        return [name for name in names if layers(name)]
    words = {"first": names[0], "last": names[-1]}
    found: set[str] = set()
    for word in layers.split():
        pattern = words.get(word, word)
        # A name may have brackets, which mean something in a pattern.
        fitting = {pattern} & set(names) or {n for n in names if fnmatchcase(n, pattern)}
        fitting = fitting or {n for n in names if fnmatchcase(n, f"{pattern}.*")}
        if not fitting:
            near = names if len(names) <= _FEW else get_close_matches(pattern, names, _FEW, 0)
            more = "" if len(names) <= _FEW else ", ..."
            raise ValueError(f"no layer is named {pattern!r}: choose from {', '.join(near)}{more}")
        found |= fitting
    return [name for name in names if name in found]
