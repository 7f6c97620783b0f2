"""BatchNorm after pruning: its running statistics are those of a network that is gone."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def reestimate_(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Measure BatchNorm's running means and variances anew, in place; weights stay.

    Each becomes the mean over the batches of the batch's own. Everything but BatchNorm runs in
    evaluation mode, and every module is left in the mode it was found in. A network without such
    statistics stays as it is.

    Args:
        model: the network.
        batches: pairs (inputs, targets) on the model's device; the targets are not looked at.

    Raises:
        ValueError: there are no batches. The statistics are untouched then.
    """
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not layers:
        return
    batches = iter(batches)
    first = next(batches, None)
    if first is None:
        raise ValueError("BatchNorm's statistics cannot be measured without batches")
    modes = {module: module.training for module in model.modules()}
    found = [(layer, layer.momentum, layer.num_batches_tracked.clone()) for layer in layers]
    model.eval()
    try:
        for layer in layers:
            layer.train()
            layer.reset_running_stats()
            layer.momentum = None  # torch's word for the mean over all batches
        for inputs, _ in chain([first], batches):
            model(inputs)
    finally:
        for layer, momentum, tracked in found:
            layer.momentum = momentum
            layer.num_batches_tracked.copy_(tracked)
        for module, training in modes.items():
            module.training = training
