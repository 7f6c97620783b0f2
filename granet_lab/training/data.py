"""Datasets as tensors on the device, and the batches of an epoch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from granet_lab import checks
from granet_lab.randomness import generator
from granet_lab.registry import Registry
from granet_lab.training.augmentation import AUGMENTATIONS

DATASETS: Registry = Registry("dataset")
dataset = DATASETS.register

# Images normalised and augmented at once: enough to hide the overhead, little memory.
_BLOCK = 4096


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

    def to(self, device: torch.device | str) -> Split:
        """The split on a device."""
        return Split(self.images.to(device), self.labels.to(device))

    def first(self, n: int | None) -> Split:
        """The first ``n`` images; all of them for None."""
        if n is not None and n > len(self):
            raise ValueError(f"train_size must be at most {len(self)}, not {n}")
        return Split(self.images[:n], self.labels[:n])


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

    train: Split
    validation: Split
    test: Split
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return tuple(self.train.images.shape[1:])

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
    pixels = train.images.double()
    return Dataset(
        train,
        validation,
        test,
        classes=int(labels.max()) + 1,
        mean=tuple(pixels.mean((0, 2, 3)).tolist()),
        std=tuple(pixels.std((0, 2, 3)).clamp(min=1e-3).tolist()),
    )


@dataset
def digits() -> Dataset:
    """scikit-learn's digits: 1,797 handwritten digits of 8x8 pixels in 17 grey levels.

    900 images to train on, 297 for validation, 600 for testing (a sixth of a percentage point
    an image).
    """
    from sklearn.datasets import load_digits

    found = load_digits()
    images = (found.images * (255 / 16)).round().astype(np.uint8)[:, None]
    return from_arrays(images, found.target, validation_size=297, test_size=600)


def load(name: str, device: str = "cpu") -> Dataset:
    """The dataset of that name on a device; kept for the next time.

    Raises:
        ValueError: an unknown name.
    """
    return _load(DATASETS[name], device)


# Keyed by the function, so that a notebook may define its dataset anew.
@functools.lru_cache(maxsize=4)
def _load(make: Callable[[], Dataset], device: str) -> Dataset:
    return make().to(device)


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
