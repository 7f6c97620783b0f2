"""BatchNorm after pruning: its running statistics are those of a network that is gone."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from granet_lab.sparsity.modes import in_mode


@torch.no_grad()
def reestimate_(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Measure BatchNorm's running means and variances anew, in place; weights stay.

    Each becomes the mean over the batches of the batch's own. Everything but BatchNorm runs in
    evaluation mode, and every module is left in the mode it was found in. A layer that is not
    called, or has no such statistics, stays as it is; so do all if anything goes wrong.

    Args:
        model: the network.
        batches: pairs (inputs, targets) on the model's device; the targets are not looked at.

    Raises:
        ValueError: there are no batches.
    """
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    momenta = [layer.momentum for layer in layers]
    before = [{name: b.clone() for name, b in layer.named_buffers()} for layer in layers]
    seen = 0
    try:
        with in_mode(model, train=False):
            for layer in layers:
                layer.train()
                layer.reset_running_stats()
                layer.momentum = None  # torch's word for the mean over all batches
            for inputs, _ in batches if layers else ():
                model(inputs)
                seen += 1
        if layers and not seen:
            raise ValueError("BatchNorm's statistics cannot be measured without batches")
    except BaseException:
        for layer in layers:
            layer.num_batches_tracked.zero_()
        raise
    finally:
        for layer, momentum, buffers in zip(layers, momenta, before, strict=True):
            measured = int(layer.num_batches_tracked) > 0
            layer.momentum = momentum
            for name, buffer in buffers.items():
                if name == "num_batches_tracked" or not measured:
                    layer.get_buffer(name).copy_(buffer)
