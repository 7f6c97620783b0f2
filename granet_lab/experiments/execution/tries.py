"""How often something that ends in an error is tried."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable

from granet_lab.experiments.execution.tasks import Work
from granet_lab.experiments.identity import identity
from granet_lab.experiments.trials import Trial
from granet_lab.wording import counted

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
        self._seen: Counter[tuple[str, str]] = Counter()
        self._told: Counter[tuple[str, str]] = Counter()
        self._again: defaultdict[tuple[str, str], list[Work]] = defaultdict(list)

    def __contains__(self, work: Work) -> bool:
        return work in self._counts

    def once_more(self, work: Work, why: str, counts: bool = True) -> bool:
        """Whether something that has failed gets another try; :meth:`tell` says so.

        Args:
            work: what.
            why: it failed.
            counts: whether that was its own fault; if not, the next try by itself will show.
        """
        if counts and self.used_up(work):
            return False
        self._counts[work] += 0  # known from now on
        kind = "trial" if isinstance(work, Trial) else "run"
        self._again[kind, why].append(work)
        return True

    def tell(self) -> None:
        """Say what is tried again: in one line what failed for the same reason, and the same reason
        only once it has become twice as many."""
        for (kind, why), works in self._again.items():
            self._seen[kind, why] += len(works)
            seen, told = self._seen[kind, why], self._told[kind, why]
            if seen < 2 * told:
                continue
            self._told[kind, why] = seen
            one = f"{kind} {identity(works[0])} is"
            many = f"{counted(seen, kind)} are"
            self._warn(f"{one if seen == 1 else many} tried again: {why}")
        self._again.clear()

    def used_up(self, what: Hashable) -> bool:
        """Count a failure; whether it was the last try."""
        self._counts[what] += 1
        return self._counts[what] >= _TRIES
