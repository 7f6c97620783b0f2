"""Rounds: training over and over, pruned in between."""

from __future__ import annotations

from dataclasses import dataclass

from granet_lab import checks


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """Train, prune, go back, train again (Frankle et al. 2020; Renda et al. 2020).

    Attributes:
        count: how often the network is pruned and trained again.
        cycle: epochs of the first training.
        rewind: the epoch of the first training that the others start from.
        rewind_weights: whether the weights are those of that epoch again (lottery tickets), or
            only the learning rate is (learning-rate rewinding).

    Raises:
        ValueError: a value outside its range, or ``rewind`` not before the end of a cycle.
    """

    count: int = 3
    cycle: int = 60
    rewind: int = 2
    rewind_weights: bool = True

    def __post_init__(self) -> None:
        for name, least in (("count", 1), ("cycle", 1), ("rewind", 0)):
            object.__setattr__(self, name, checks.count(name, getattr(self, name), minimum=least))
        flag = checks.flag("rewind_weights", self.rewind_weights)
        object.__setattr__(self, "rewind_weights", flag)
        if self.rewind >= self.cycle:
            raise ValueError(f"rewind {self.rewind} must lie before the end of cycle {self.cycle}")

    def __str__(self) -> str:
        return f"{self.count} from epoch {self.rewind} of {self.cycle}"

    @property
    def epochs(self) -> int:
        """Of all trainings together."""
        return self.cycle + self.count * (self.cycle - self.rewind)

    def number(self, epoch: int) -> int:
        """The round that the epoch with index ``epoch`` belongs to; the first training is 0."""
        return 0 if epoch < self.cycle else 1 + self._since(epoch) // (self.cycle - self.rewind)

    def position(self, epoch: int) -> int:
        """The epoch of the first training that the epoch with index ``epoch`` repeats."""
        if epoch < self.cycle:
            return epoch
        return self.rewind + self._since(epoch) % (self.cycle - self.rewind)

    def begins(self, epoch: int) -> bool:
        """Whether a round begins, after the first training, with the epoch ``epoch``."""
        return epoch >= self.cycle and self.position(epoch) == self.rewind

    def sparsity(self, number: int, initial: float, final: float) -> float:
        """That of round ``number``: before each, the same fraction of what is left goes."""
        if number == self.count:
            return final
        left = (1 - final) / (1 - initial)
        return 1 - (1 - initial) * left ** (number / self.count)

    def _since(self, epoch: int) -> int:
        return epoch - self.cycle
