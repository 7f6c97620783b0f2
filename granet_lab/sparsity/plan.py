"""Plan: when a run updates its masks, and how much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from granet_lab.sparsity.schedules import cosine, cubic

if TYPE_CHECKING:
    from granet_lab.sparsity.sparse_training import SparseTraining


@dataclass(frozen=True)
class Plan:
    """The updates of one run, by the number of optimizer steps done.

    Attributes:
        method: what is planned.
        interval: steps between updates.
        start: step before which nothing changes.
        stop: step from which the final sparsity holds.
        steps: of the whole run.
    """

    method: SparseTraining
    interval: int
    start: int
    stop: int
    steps: int

    @property
    def at_once(self) -> bool:
        """Whether no whole interval ends between start and stop: then stop is the one moment."""
        return self.stop // self.interval <= self.start // self.interval

    def due(self, step: int) -> bool:
        """Whether the masks are updated after so many steps: at every whole interval from the
        start on, or where all is pruned at once."""
        method = self.method
        if step == 0 or not method.changes or method.rounds:
            return False
        if method.final_sparsity is not None and self.at_once and step == self.stop:
            return True
        if step % self.interval or step < self.start:
            return False
        return method.regrow is not None or (step <= self.stop and not self.at_once)

    def sparsity(self, step: int) -> float:
        """That of the update after so many steps. Progress is counted in whole updates."""
        initial, final = self.method.initial_sparsity, self.method.final_sparsity
        if final is None or step < self.start:
            return initial
        if self.at_once:
            return final if step >= self.stop else initial
        first, now, last = (s // self.interval for s in (self.start, step, self.stop))
        now = min(now, last - self.method.official)
        return cubic((now - first) / (last - first), initial, final)

    def regrow_fraction(self, step: int) -> float:
        """The fraction that the update after so many steps drops and regrows in each layer.

        None at the very end: nothing would train what comes back. None either where all is pruned
        between two whole intervals.
        """
        if self.method.regrow is None or step >= self.steps or step % self.interval:
            return 0.0
        return cosine(step / self.steps, self.method.regrow_fraction, self.method.regrow_end)
