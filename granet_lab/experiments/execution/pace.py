"""How long a sweep will still take, from what it has done."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

# Seconds of work before anything is foretold.
_TOO_EARLY = 2.0


class Pace:
    """Epochs of several kinds of work as they pass: those of runs and those of trials take
    different times, and one kind often comes after the other.

    Starting processes and loading data come once, and are no measure of the epochs to come: the
    clock starts with the first work.

    Args:
        clock: of seconds; one that nobody can set.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: float | None = None
        self._seconds: dict[str, float] = {}
        self._epochs: dict[str, int] = {}

    def begin(self) -> None:
        """Somebody is at work now, if nobody was before."""
        if self._last is None:
            self._last = self._clock()

    def passed(self, epochs: Mapping[str, int]) -> None:
        """So many epochs of each kind have ended since the last time; the time since then is
        shared out among the kinds by their number."""
        everything = sum(epochs.values())
        if not everything:
            return
        if self._last is None:  # nobody saw when these began
            self.begin()
            return
        now = self._clock()
        for kind, n in epochs.items():
            share = (now - self._last) * n / everything
            self._seconds[kind] = self._seconds.get(kind, 0.0) + share
            self._epochs[kind] = self._epochs.get(kind, 0) + n
        self._last = now

    def left(self, epochs: Mapping[str, int]) -> float | None:
        """Seconds that so many epochs of each kind will take; None as long as nobody can know.

        A kind of which none has ended yet is taken to be as fast as the others.
        """
        if sum(self._seconds.values()) < _TOO_EARLY:
            return None
        overall = sum(self._seconds.values()) / sum(self._epochs.values())
        return sum(n * self._each(kind, overall) for kind, n in epochs.items())

    def _each(self, kind: str, overall: float) -> float:
        done = self._epochs.get(kind, 0)
        return self._seconds[kind] / done if done else overall
