"""How often something that ends in an error is tried."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable

from granet_lab.experiments.execution.tasks import Work
from granet_lab.experiments.identity import identity
from granet_lab.experiments.trials import Trial

# From the second time on by itself.
_TRIES = 3


class Tries:
    """What has failed, and how often.

    Args:
        warn: is told what is tried again, and why.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._counts: Counter[Hashable] = Counter()

    def __contains__(self, work: Work) -> bool:
        return work in self._counts

    def once_more(self, work: Work, why: str, counts: bool = True) -> bool:
        """Whether something that has failed gets another try.

        Args:
            work: what.
            why: it failed.
            counts: whether that was its own fault; if not, the next try by itself will show.
        """
        if counts and self.used_up(work):
            return False
        self._counts[work] += 0  # known from now on
        kind = "trial" if isinstance(work, Trial) else "run"
        self._warn(f"{kind} {identity(work)} is tried again: {why}")
        return True

    def used_up(self, what: Hashable) -> bool:
        """Count a failure; whether it was the last try."""
        self._counts[what] += 1
        return self._counts[what] >= _TRIES
