"""A network in the middle of its training."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from granet_lab.sparsity import Masks
from granet_lab.sparsity.tally import Tally
from granet_lab.training.sgd import SGD


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
