"""Methods: the ways of training sparse that have a name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from granet_lab.registry import Registry
from granet_lab.sparsity.rounds import Rounds
from granet_lab.sparsity.sparse_training import SparseTraining

METHODS: Registry = Registry("method")
method = METHODS.register

_ROUNDS = Rounds()


@method
def dense() -> SparseTraining:
    """No weight is ever masked."""
    return SparseTraining()


@method
def static(sparsity: float = 0.9, criterion: str = "random", scope: str = "erk") -> SparseTraining:
    """A mask fixed at initialisation; by default random with the densities of ERK.

    SNIP, GraSP and SynFlow are ``static(0.9, "snip", "global")`` and so on.
    """
    return SparseTraining(initial_sparsity=sparsity, criterion=criterion, scope=scope)


@method
def one_shot(sparsity: float = 0.9, epoch: int = 0, criterion: str = "magnitude") -> SparseTraining:
    """All at once after one epoch, over all layers; then training goes on."""
    if epoch == 0:
        return static(sparsity, criterion, "global")
    return SparseTraining(
        final_sparsity=sparsity, prune_criterion=criterion, start=epoch, stop=epoch
    )


@method
def gmp(sparsity: float = 0.9, **changes: Any) -> SparseTraining:
    """Gradual magnitude pruning (Zhu & Gupta 2017): GraNet that regrows nothing."""
    return SparseTraining(final_sparsity=sparsity, **changes)


@method
def granet(sparsity: float = 0.9, **changes: Any) -> SparseTraining:
    """Gradual magnitude pruning with regeneration by gradient (Liu et al. 2021)."""
    return gmp(sparsity, **{"regrow": "gradient", **changes})


@method
def granet_st(sparsity: float = 0.9, **changes: Any) -> SparseTraining:
    """GraNet from sparse to sparse: it starts at sparsity 0.5 with the densities of ERK."""
    return granet(sparsity, **{"initial_sparsity": 0.5, **changes})


@method
def rigl(sparsity: float = 0.9, **changes: Any) -> SparseTraining:
    """A constant sparsity, regrown by gradient (Evci et al. 2020): GraNet that prunes nothing."""
    return SparseTraining(initial_sparsity=sparsity, **{"regrow": "gradient", **changes})


@method
def set_(sparsity: float = 0.9, **changes: Any) -> SparseTraining:
    """A constant sparsity, regrown at random (Mocanu et al. 2018)."""
    return rigl(sparsity, **{"regrow": "random", **changes})


@method
def lottery(sparsity: float = 0.9, rounds: Rounds = _ROUNDS, **changes: Any) -> SparseTraining:
    """Iterative magnitude pruning with rewinding (Frankle et al. 2020): train, prune, go back to
    the weights of an early epoch, train again.

    The recipe has ``rounds.epochs`` epochs.
    """
    return SparseTraining(final_sparsity=sparsity, rounds=rounds, **changes)


@method
def lr_rewinding(sparsity: float = 0.9, rounds: Rounds = _ROUNDS, **changes: Any) -> SparseTraining:
    """Learning-rate rewinding (Renda et al. 2020): like the lottery, but the weights go on."""
    return lottery(sparsity, replace(rounds, rewind_weights=False), **changes)


@method
def gsm(sparsity: float = 0.9, **changes: Any) -> SparseTraining:
    """Global sparse momentum (Ding et al. 2019), pruned at the end; its momentum is 0.98."""
    return SparseTraining(final_sparsity=sparsity, salient=True, **changes)
