"""A network without values, whose operations are good ones for several networks at once."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def skeleton(network: nn.Module) -> nn.Module:
    """A copy to be called with values of many lanes, by ``functional_call`` inside ``vmap``.

    Activations are not changed in place: the gradient of a change in a view, which all lanes are,
    costs several copies. BatchNorm treats the channels of all lanes as those of one network.
    """
    found = copy.deepcopy(network).to("meta")
    for module in list(found.modules()):
        if getattr(module, "inplace", None) is True:
            module.inplace = False
        for name, child in module.named_children():
            if type(child) in _NORMS and child.momentum is not None:
                setattr(module, name, _Norm(child))
    return found


class _Norm(nn.Module):
    """A BatchNorm, with its parameters and buffers under the same names."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self._parameters, self._buffers = norm._parameters, norm._buffers
        self.momentum, self.eps = norm.momentum, norm.eps

    def forward(self, images: Tensor) -> Tensor:
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return _LanesNorm.apply(
            images,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or self.running_mean is None,
            self.momentum,
            self.eps,
        )


class _LanesNorm(torch.autograd.Function):
    """``F.batch_norm`` of lanes. Only :meth:`vmap` is ever called; what it does has a gradient."""

    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        """Without lanes there is nothing to do here."""
        raise NotImplementedError("this BatchNorm is one of a stack")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        """What autograd asks for."""

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        images: Tensor,
        *arguments: Any,
    ) -> tuple[Tensor, int]:
        """Lanes side by side among the channels: (images, lanes, channels, ...) as (images, all
        channels, ...)."""
        *of_lanes, training, momentum, eps = arguments
        lanes = info.batch_size
        if in_dims[0] is None:
            images = images.unsqueeze(1).expand(-1, lanes, *images.shape[1:])
        else:
            images = images.movedim(in_dims[0], 1)
        flat = [None if value is None else value.reshape(-1) for value in of_lanes]
        found = F.batch_norm(images.flatten(1, 2), *flat, training, momentum, eps)
        return found.unflatten(1, (lanes, -1)), 1
