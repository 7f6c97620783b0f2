"""Things that are chosen by name: criteria, regrowths, models, datasets, recipes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T", bound=Callable[..., Any])

_PACKAGE = __name__.partition(".")[0]


class Registry(Generic[T]):
    """Functions of one kind, each found by its name.

    An unknown name raises a ``ValueError`` that lists the known ones. Registering a second
    function under a taken name is refused, except from the module that took it: a notebook cell
    may be run twice.

    Args:
        kind: what they are, for messages.
        attributes: what every function has as an attribute, at this value if it sets none.
    """

    def __init__(self, kind: str, **attributes: Any) -> None:
        self.kind = kind
        self._attributes = attributes
        self._entries: dict[str, T] = {}

    def register(self, entry: T | None = None, /, **attributes: Any) -> Any:
        """Add a function under its own name; a decorator, with or without attributes.

        An underscore at the end, which keeps the name off one of Python's, does not count.
        """
        if entry is None:
            return functools.partial(self.register, **attributes)
        name = entry.__name__.rstrip("_")
        taken = self._entries.get(name)
        if taken is not None and _home(taken) != _home(entry):
            raise ValueError(f"{self.kind} {name!r} is already defined in {taken.__module__}")
        for attribute, usual in self._attributes.items():
            own = getattr(entry, attribute, usual)
            setattr(entry, attribute, attributes.get(attribute, own))
        self._entries[name] = entry
        return entry

    def check(self, name: str) -> str:
        """Return ``name`` if it is known, raise ``ValueError`` otherwise."""
        if name not in self:
            raise ValueError(f"unknown {self.kind} {name!r}: choose from {', '.join(self)}")
        return name

    def __getitem__(self, name: str) -> T:
        return self._entries[self.check(name)]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def added(self) -> list[T]:
        """Entries defined outside this package, which another process has to be told about."""
        return [e for e in self._entries.values() if e.__module__.partition(".")[0] != _PACKAGE]


def _home(entry: Callable[..., Any]) -> str:
    """The module of a function. The script that was started has another name in a process that
    reads it again."""
    return "__main__" if entry.__module__ == "__mp_main__" else entry.__module__
