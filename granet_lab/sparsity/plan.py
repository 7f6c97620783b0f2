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
        start: step from which the sparsity rises.
        stop: step from which the final sparsity holds.
        steps: of the whole run.
    """

    method: SparseTraining
    interval: int
    start: int
    stop: int
    steps: int

    def due(self, step: int) -> bool:
        """Whether the masks are updated after so many steps.

        At every whole interval, and when the final sparsity is due.
        """
        if step == 0 or not self.method.changes or self.method.rounds:
            return False
        regular = step % self.interval == 0
        if self.method.regrow is not None and regular:
            return True
        if self.method.final_sparsity is None or step > self.stop:
            return False
        return (regular and step >= self.start) or (step == self.stop and not self.method.official)

    def sparsity(self, step: int) -> float:
        """That of the update after so many steps."""
        method = self.method
        initial, final = method.initial_sparsity, method.final_sparsity
        if final is None or step < self.start:
            return initial
        if method.official:
            return self._official_sparsity(step)
        span = self.stop - self.start
        return cubic((step - self.start) / span if span else 1.0, initial, final)

    def _official_sparsity(self, step: int) -> float:
        first, now, last = (s // self.interval for s in (self.start, step, self.stop))
        now = min(now, max(first, last - 1))
        progress = (now - first) / (last - first) if last > first else 1.0
        return cubic(progress, self.method.initial_sparsity, self.method.final_sparsity)

    def regrow_fraction(self, step: int) -> float:
        """The fraction that the update after so many steps drops and regrows in each layer.

        None at the very end: nothing would train what comes back. None either where pruning
        ends between two regular updates.
        """
        if self.method.regrow is None or step >= self.steps or step % self.interval:
            return 0.0
        return cosine(step / self.steps, self.method.regrow_fraction, self.method.regrow_end)
