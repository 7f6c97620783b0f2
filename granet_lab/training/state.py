"""A network in the middle of its training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from granet_lab.sparsity import Masks
from granet_lab.sparsity.tally import Tally
from granet_lab.training.sgd import SGD

# Called after every step, and every block of images that a network is tested on; what it raises
# ends the training.
Pulse = Callable[[], None] | None


class Diverged(ArithmeticError):
    """The training loss became infinite or NaN.

    Attributes:
        epoch: in which, counted from 1.
    """

    def __init__(self, epoch: int, loss: float) -> None:
        self.epoch = epoch
        super().__init__(f"training diverged: the loss of epoch {epoch} is {loss}")


@dataclass
class TrainState:
    """A network in the middle of its training.

    Attributes:
        model: the network.
        optimizer: holds the momentum.
        masks: which weights may be other than zero.
        tally: what has become of the weights so far.
        epoch: epochs done.
        step: optimizer steps done.
        changing: whether the masks change in the course of training.
        rewind: weights, buffers and momentum of the epoch that rounds start from; else empty.
    """

    model: nn.Module
    optimizer: SGD
    masks: Masks
    tally: Tally
    epoch: int = 0
    step: int = 0
    changing: bool = False
    rewind: dict[str, Tensor] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """Weights, buffers and momentum, by a name that tells what each is."""
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        return {
            **{f"model/{name}": tensor for name, tensor in self.model.state_dict().items()},
            **{
                f"optimizer/{names[parameter]}/{key}": value
                for parameter, values in self.optimizer.state.items()
                for key, value in values.items()
            },
        }


def check_finite(state: TrainState, gradients: Mapping[str, Tensor] | None = None) -> None:
    """Do nothing if weights, and gradients if given, can be ranked.

    Raises:
        Diverged: one is infinite or NaN, and with it the loss.
    """
    tensors = [*state.model.parameters(), *(gradients or {}).values()]
    if not torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all():
        raise Diverged(state.epoch + 1, math.nan)
