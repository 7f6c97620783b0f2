"""Images and classes as tensors, in three splits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from granet_lab import checks

if TYPE_CHECKING:
    from granet_lab.datasets.streaming import StreamedSplit

# Images of which sums are taken at once.
_BLOCK = 1024
# Of pixels that never vary, so that nothing is divided by zero.
_SMALLEST_STD = 1e-3


@dataclass(frozen=True)
class Split:
    """Images and their classes.

    Attributes:
        images: uint8, shape (n, channels, height, width).
        labels: int64, shape (n,).
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            found = f"{self.images.dtype} of shape {tuple(self.images.shape)}"
            raise ValueError(f"images must be uint8 of shape (n, channels, h, w), not {found}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            found = f"{self.labels.dtype} of shape {tuple(self.labels.shape)}"
            raise ValueError(f"labels must be int64, one for each image, not {found}")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.images.device

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        return tuple(self.images.shape[1:])

    def to(self, device: torch.device | str) -> Split:
        """The split on a device."""
        return Split(self.images.to(device), self.labels.to(device))

    def first(self, n: int | None) -> Split:
        """The first ``n`` images; all of them for None."""
        if n is not None and n > len(self):
            raise ValueError(f"train_size must be at most {len(self)}, not {n}")
        return Split(self.images[:n], self.labels[:n])

    def blocks(self, size: int, order: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels, block by block.

        Args:
            size: images at a time.
            order: which, by number, on the device; None: all.
        """
        if order is None:
            yield from zip(self.images.split(size), self.labels.split(size), strict=True)
        else:
            yield from ((self.images[block], self.labels[block]) for block in order.split(size))


@dataclass(frozen=True)
class Dataset:
    """Three fixed splits, and what normalises their pixels.

    Attributes:
        train: what networks learn from.
        validation: what choices are made on.
        test: what is reported, and never chosen on.
        classes: number of classes.
        mean: of the training pixels by channel, in units of 0 to 255.
        std: likewise.
    """

    train: Split | StreamedSplit
    validation: Split | StreamedSplit
    test: Split | StreamedSplit
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, train: Split, validation: Split, test: Split, classes: int) -> Dataset:
        """The three splits, normalised by the training pixels."""
        return cls(train, validation, test, classes, *_moments(train.images))

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return self.train.shape

    @property
    def device(self) -> torch.device:
        """Where the images are, or go as they are read."""
        return self.train.device

    def to(self, device: torch.device | str) -> Dataset:
        """The dataset on a device."""
        return replace(
            self,
            train=self.train.to(device),
            validation=self.validation.to(device),
            test=self.test.to(device),
        )

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 images to float32 of zero mean and unit variance, channels last in memory."""
        mean = images.new_tensor(self.mean, dtype=torch.float32)[:, None, None]
        std = images.new_tensor(self.std, dtype=torch.float32)[:, None, None]
        return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


def from_arrays(
    images: np.ndarray, labels: np.ndarray, validation_size: int, test_size: int, seed: int = 0
) -> Dataset:
    """A dataset from uint8 images and integer labels, split at random, the same way every time.

    Args:
        images: shape (n, channels, height, width), uint8.
        labels: shape (n,), classes counted from 0.
        validation_size: images of the validation split.
        test_size: images of the test split.
        seed: of the split.

    Raises:
        ValueError: not a label for each image, labels that are not whole numbers from 0, or a
            split without an image.
    """
    if len(labels) != len(images):
        raise ValueError(f"there are {len(labels)} labels for {len(images)} images")
    if not np.issubdtype(labels.dtype, np.integer) or labels.min(initial=0) < 0:
        raise ValueError("labels must be whole numbers, counted from 0")
    checks.count("validation_size", validation_size, minimum=1)
    checks.count("test_size", test_size, minimum=1)
    if validation_size + test_size >= len(images):
        raise ValueError(
            f"validation_size and test_size must leave some of the {len(images)} images, "
            f"not be {validation_size} and {test_size}"
        )
    order = np.random.default_rng(seed).permutation(len(labels))
    cuts = [len(labels) - validation_size - test_size, len(labels) - test_size]
    train, validation, test = (
        Split(torch.from_numpy(images[part]), torch.from_numpy(labels[part].astype(np.int64)))
        for part in np.split(order, cuts)
    )
    return Dataset.of(train, validation, test, classes=int(labels.max()) + 1)


def _moments(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation by channel, from sums in whole numbers: exact, in any order."""
    total = torch.zeros(2, images.shape[1], dtype=torch.int64)
    for block in images.split(_BLOCK):
        pixels = block.to(torch.int64)
        total += torch.stack([pixels.sum((0, 2, 3)), pixels.square().sum((0, 2, 3))]).cpu()
    n = images.numel() // images.shape[1]
    means, stds = [], []
    for first, second in zip(*total.tolist(), strict=True):
        means.append(first / n)
        variance = (second * n - first**2) / (n * max(1, n - 1))
        stds.append(max(math.sqrt(variance), _SMALLEST_STD))
    return tuple(means), tuple(stds)
