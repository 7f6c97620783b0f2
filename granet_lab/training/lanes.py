"""The values of several networks of one architecture in flat tensors, and their SGD."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from granet_lab.training.state import TrainState


class Lanes:
    """Room for the weights, momentum, masks and buffers of networks of one architecture.

    Whatever is of one kind lies in one flat tensor, parameter by parameter and in each lane by
    lane: a step of SGD is a handful of operations, however many layers there are.

    Args:
        network: any of that architecture.
        width: how many there is room for.
        device: where.
        momentum: of SGD.
        nesterov: whether the momentum is Nesterov's.

    Attributes:
        weights: all parameters.
        buffers: of shape (width, *shape), by name.
    """

    def __init__(
        self,
        network: nn.Module,
        width: int,
        device: torch.device,
        momentum: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        self.width, self._coefficient, self._nesterov = width, momentum, nesterov
        self._shapes = {name: p.shape for name, p in network.named_parameters()}
        self._sizes = [width * math.prod(shape) for shape in self._shapes.values()]
        zeros = torch.zeros(sum(self._sizes), device=device)
        self.weights = zeros.clone().requires_grad_()
        self._momentum, self._decay, self._rate = zeros.clone(), zeros.clone(), zeros.clone()
        self._factors = torch.ones_like(zeros)
        self._rates = [0.0] * width
        self.buffers = {
            name: torch.zeros(width, *buffer.shape, dtype=buffer.dtype, device=device)
            for name, buffer in network.named_buffers()
        }

    def blocks(self, flat: Tensor) -> dict[str, Tensor]:
        """A flat tensor as views of shape (width, *shape), by parameter."""
        parts = zip(self._shapes.items(), flat.split(self._sizes), strict=True)
        return {name: part.view(self.width, *shape) for (name, shape), part in parts}

    def adopt(self, place: int, state: TrainState, weight_decay: float) -> None:
        """Move a network in: from now on its values are in this memory, and change with it."""
        _rebind(state, self._memory(place))
        spared = state.optimizer.undecayed
        decay = self.blocks(self._decay)
        for name, parameter in state.model.named_parameters():
            decay[name][place] = 0.0 if parameter in spared else weight_decay
        self.mask(place, state.masks)

    def release(self, place: int, state: TrainState) -> None:
        """Let a network go, with values of its own; its place is empty."""
        _rebind(state, {})
        self.rate(place, 0.0)
        for flat in (self.weights.detach(), self._momentum, self._decay):
            for block in self.blocks(flat).values():
                block[place] = 0.0
        for buffer in self.buffers.values():
            buffer[place] = 0

    def mask(self, place: int, masks: Mapping[str, Tensor]) -> None:
        """Let the gradient of a lane through where its masks, by parameter, are one."""
        factors = self.blocks(self._factors)
        for name, mask in masks.items():
            factors[name][place] = mask

    def rate(self, place: int, lr: float) -> None:
        """Set the learning rate of a lane."""
        if lr == self._rates[place]:
            return
        self._rates[place] = lr
        for block in self.blocks(self._rate).values():
            block[place] = lr

    @torch.no_grad()
    def step(self, gradient: Tensor) -> None:
        """The step of :class:`granet_lab.training.sgd.SGD` in every lane, each at its own rate.

        Args:
            gradient: flat as the weights; it is overwritten.
        """
        # No operation multiplies and adds: whether that is rounded once or twice would depend on
        # the place in the tensor, and so on the other lanes.
        gradient.mul_(self._factors).add_(self._decay * self.weights)
        move = gradient
        if self._coefficient:
            move = self._momentum.mul_(self._coefficient).add_(gradient)
            if self._nesterov:
                move = gradient.add_(move * self._coefficient)
        self.weights.sub_(self._rate * move)

    def _memory(self, place: int) -> dict[str, Tensor]:
        """That of one lane, by the names of :meth:`TrainState.tensors`."""
        weights, momentum = self.blocks(self.weights.detach()), self.blocks(self._momentum)
        return {
            **{f"model/{name}": block[place] for name, block in weights.items()},
            **{f"model/{name}": block[place] for name, block in self.buffers.items()},
            **{f"optimizer/{name}/momentum_buffer": b[place] for name, b in momentum.items()},
        }


def _rebind(state: TrainState, memory: dict[str, Tensor]) -> None:
    """Put the tensors of a network into other memory: that given by name, else some of its own."""

    def moved(name: str, tensor: Tensor) -> Tensor:
        if name not in memory:
            return tensor.detach().clone()
        return memory[name].copy_(tensor.detach())

    for name, parameter in state.model.named_parameters():
        parameter.data = moved(f"model/{name}", parameter)
        held = state.optimizer.state.get(parameter, {})
        for key, value in held.items():
            held[key] = moved(f"optimizer/{name}/{key}", value)
    for owner_name, owner in state.model.named_modules():
        for key, buffer in owner.named_buffers(recurse=False):
            name = f"{owner_name}.{key}" if owner_name else key
            owner._buffers[key] = moved(f"model/{name}", buffer)
