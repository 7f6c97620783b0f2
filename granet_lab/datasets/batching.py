"""The training batches of an epoch, a function of (seed, epoch) alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from granet_lab.datasets.augmentation import AUGMENTATIONS
from granet_lab.datasets.dataset import Dataset
from granet_lab.randomness import generator

# Images normalised and augmented at once: enough to hide the overhead, little memory.
_BLOCK = 4096


def batches(
    data: Dataset,
    batch_size: int,
    seed: int,
    epoch: int,
    augment: str | None = None,
    train_size: int | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The training batches of one epoch: a function of (seed, epoch) alone.

    Yields:
        Images, float32 of shape (batch_size, channels, height, width), and labels, int64 of
        shape (batch_size,). What does not fill a batch is left out.

    Raises:
        ValueError: there are fewer images than one batch takes.
    """
    split = data.train.first(train_size)
    if len(split) < batch_size:
        raise ValueError(f"batch_size must be at most {len(split)}, the images, not {batch_size}")
    order = torch.randperm(len(split), generator=generator("order", seed, epoch))
    order = order[: len(split) // batch_size * batch_size].to(split.images.device)
    noise = generator("augmentation", seed, epoch)
    for block in order.split(max(1, _BLOCK // batch_size) * batch_size):
        images, labels = split.images[block], split.labels[block]
        if augment is not None:
            images = AUGMENTATIONS[augment](images, noise)
        yield from zip(
            data.normalise(images).split(batch_size), labels.split(batch_size), strict=True
        )
