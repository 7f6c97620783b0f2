"""Methods: how a network is sparse while it trains."""

from __future__ import annotations

from dataclasses import dataclass

from granet_lab import checks
from granet_lab.registry import Registry
from granet_lab.sparsity.allocation import SCHEMES
from granet_lab.sparsity.context import Context
from granet_lab.sparsity.criteria import CRITERIA
from granet_lab.sparsity.masks import Masks
from granet_lab.sparsity.pruning import prune_to

METHODS: Registry = Registry("method")
method = METHODS.register


@dataclass(frozen=True, kw_only=True)
class SparseTraining:
    """A way of training sparse; what a recipe's ``method`` holds.

    Attributes:
        initial_sparsity: fraction of the weights that is inactive from initialisation on.
        criterion: chooses the weights that are active at initialisation.
        scope: shares them out among the layers: "global", "uniform", "er" or "erk".
    """

    initial_sparsity: float = 0.0
    criterion: str = "random"
    scope: str = "erk"

    def __post_init__(self) -> None:
        sparsity = checks.fraction("initial_sparsity", self.initial_sparsity)
        object.__setattr__(self, "initial_sparsity", sparsity)
        CRITERIA.check(self.criterion)
        checks.choice("scope", self.scope, ("global", *SCHEMES))
        if sparsity == 0:  # nothing is chosen: all such networks are one and the same
            object.__setattr__(self, "criterion", SparseTraining.criterion)
            object.__setattr__(self, "scope", SparseTraining.scope)

    @property
    def name(self) -> str:
        """What people call it: "dense" or "static"."""
        return "static" if self.initial_sparsity else "dense"

    @property
    def batches(self) -> int:
        """How many batches its criterion looks at."""
        return CRITERIA[self.criterion].batches

    def sparsity(self, epoch: int) -> float:
        """The sparsity that the network is meant to have after ``epoch`` epochs."""
        return self.initial_sparsity

    def initial_masks(self, context: Context) -> Masks:
        """The masks at initialisation."""
        if not self.initial_sparsity:
            return context.masks
        return prune_to(context, self.initial_sparsity, self.criterion, self.scope)


@method
def dense() -> SparseTraining:
    """No weight is ever masked."""
    return SparseTraining()


@method
def static(sparsity: float = 0.9, criterion: str = "random", scope: str = "erk") -> SparseTraining:
    """A mask fixed at initialisation; by default random with the densities of ERK."""
    return SparseTraining(initial_sparsity=sparsity, criterion=criterion, scope=scope)
