"""The training batches of an epoch, a function of (seed, epoch) alone."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from granet_lab.datasets.augmentation import AUGMENTATIONS
from granet_lab.datasets.dataset import Dataset, Split
from granet_lab.datasets.streaming import StreamedSplit
from granet_lab.randomness import derive_seed, generator, moved

# Images normalised and augmented at once, and their bytes: enough to hide the overhead, little
# memory.
_IMAGES = 4096
_BYTES = _IMAGES * 3 * 32 * 32


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
    order = moved(order[: len(split) // batch_size * batch_size], split.device)
    for images, labels in _blocks(split, order, batch_size, augment, ("augmentation", seed, epoch)):
        yield from zip(
            data.normalise(images).split(batch_size), labels.split(batch_size), strict=True
        )


def _blocks(
    split: Split | StreamedSplit,
    order: Tensor,
    batch_size: int,
    augment: str | None,
    words: tuple[str, int, int],
) -> Iterator[tuple[Tensor, Tensor]]:
    """Whole batches of augmented images, as many at once as is good; ``words`` seed the draws."""
    if isinstance(split, StreamedSplit):
        yield from split.blocks(batch_size, order, None if augment is None else derive_seed(*words))
        return
    noise = generator(*words)
    at_once = min(_IMAGES, _BYTES // math.prod(split.shape))
    for images, labels in split.blocks(max(1, at_once // batch_size) * batch_size, order):
        if augment is not None:
            images = AUGMENTATIONS[augment](images, noise)
        yield images, labels
