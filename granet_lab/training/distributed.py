"""Several processes train one network: each on its share of every batch, with one gradient."""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn

from granet_lab.sparsity import Masks
from granet_lab.sparsity.updates import Update


def ranks() -> tuple[int, int]:
    """This process's number and how many there are; (0, 1) outside a process group."""
    if not distributed.is_available() or not distributed.is_initialized():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def share(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The examples of a batch that are this process's.

    Raises:
        ValueError: the batch does not divide evenly: the mean of the shares' gradients would not
            be the batch's.
    """
    rank, world = ranks()
    if world == 1:
        return images, targets
    if len(targets) % world:
        raise ValueError(f"batch_size must be a multiple of {world}, the processes")
    return images[rank::world], targets[rank::world]


def average_gradients_(model: nn.Module) -> None:
    """Give every process the mean of all gradients, in place: the batch's own.

    Whatever is decided from them, masks among it, is then decided alike everywhere.
    """
    _, world = ranks()
    if world == 1:
        return
    for parameter in model.parameters():
        if parameter.grad is not None:
            distributed.all_reduce(parameter.grad)
            parameter.grad /= world


def agreed(update: Update) -> Update:
    """The update of the first process, for all: what a criterion reads of buffers that differ from
    one to the other, BatchNorm's statistics say, must not lead to other masks."""
    _, world = ranks()
    if world == 1:
        return update
    return Update(_shared(update.pruned), _shared(update.kept), _shared(update.masks))


def total(numbers: Tensor) -> Tensor:
    """The sum over all processes."""
    _, world = ranks()
    if world > 1:
        distributed.all_reduce(numbers)
    return numbers


def _shared(masks: Masks) -> Masks:
    found = {}
    for name, mask in masks.items():
        bits = mask.to(torch.uint8)
        distributed.broadcast(bits, src=0)
        found[name] = bits.bool()
    return Masks(found)
