"""What has become of the weights in the course of a training."""

from __future__ import annotations

import math
from dataclasses import dataclass

from granet_lab.sparsity import analysis
from granet_lab.sparsity.masks import Masks
from granet_lab.sparsity.updates import Update


@dataclass
class Tally:
    """What has to be remembered from update to update, and counts over one epoch.

    Attributes:
        ever: the weights that have been active at any time.
        born: those that came back at the last update that exchanged any.
        pruned: connections that the schedule has removed in this epoch.
        regrown: connections that have come back in this epoch.
        survival: the fraction of what one update brought back that the next one left in place,
            at the last exchange of this epoch; NaN if there was none.
    """

    ever: Masks
    born: Masks
    pruned: int = 0
    regrown: int = 0
    survival: float = math.nan

    @classmethod
    def begin(cls, masks: Masks) -> Tally:
        """Before the first update."""
        return cls(masks, Masks({name: mask & False for name, mask in masks.items()}))

    def record(self, before: Masks, update: Update) -> None:
        """Count an update."""
        self.pruned += before.active - update.pruned.active
        if update.kept == update.pruned:  # nothing was exchanged
            return
        self.survival = analysis.survival(self.born, update.kept)
        self.born = analysis.regrown(update.kept, update.masks)
        self.regrown += self.born.active
        self.ever = Masks({name: mask | update.masks[name] for name, mask in self.ever.items()})

    def row(self) -> dict[str, float]:
        """This epoch's counts, and the share of the weights explored; another epoch begins."""
        found = {
            "pruned": self.pruned,
            "regrown": self.regrown,
            "survival": self.survival,
            "exploration": self.ever.active / self.ever.total,
        }
        self.pruned, self.regrown, self.survival = 0, 0, math.nan
        return found
