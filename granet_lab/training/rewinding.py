"""Rounds: a network that is trained, pruned, rewound and trained again."""

from __future__ import annotations

import torch
from torch import Tensor

from granet_lab.sparsity import Context, prune_to
from granet_lab.sparsity.pruning import emptying_allowed
from granet_lab.sparsity.sparse_training import SparseTraining
from granet_lab.sparsity.updates import Update
from granet_lab.training import distributed
from granet_lab.training.state import TrainState, check_finite


def snapshot(state: TrainState) -> dict[str, Tensor]:
    """Copies of weights, buffers and momentum, by name."""
    return {name: tensor.detach().clone() for name, tensor in state.tensors().items()}


def begin(state: TrainState, method: SparseTraining, context: Context) -> None:
    """Prune to the sparsity of the round that begins, and rewind, in place."""
    check_finite(state)
    before = state.masks
    sparsity = method.sparsity(state.epoch + 1, method.rounds.epochs)
    with emptying_allowed():
        masks = prune_to(context, sparsity, method.prune_criterion, method.prune_scope)
    update = distributed.agreed(Update(masks, masks, masks))
    masks = update.masks
    if method.rounds.rewind_weights:
        with torch.no_grad():
            for name, tensor in state.tensors().items():
                tensor.copy_(state.rewind[name])
    masks.apply_(state.model, state.optimizer)
    state.masks = masks
    state.tally.record(before, update)
