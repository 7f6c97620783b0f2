"""CIFAR-10 and CIFAR-100, downloaded by torchvision the first time."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from granet_lab.datasets import places
from granet_lab.datasets.dataset import Dataset, Split
from granet_lab.datasets.named import dataset

# Of the 50,000 training images.
_VALIDATION = 5_000


@dataset(downloads=True)
def cifar10() -> Dataset:
    """CIFAR-10: 32x32 colour images in ten classes (Krizhevsky 2009).

    45,000 images to train on, 5,000 for validation, 10,000 for testing. 170 MB are downloaded into
    ``data/datasets`` where they are missing.

    Raises:
        OSError: the download failed, or what was downloaded is not what it should be.
    """
    return _cifar("CIFAR10")


@dataset(downloads=True)
def cifar100() -> Dataset:
    """CIFAR-100: 32x32 colour images in a hundred classes (Krizhevsky 2009).

    As many images as :func:`cifar10`, found and downloaded in the same way.

    Raises:
        OSError: the download failed, or what was downloaded is not what it should be.
    """
    return _cifar("CIFAR100")


def _cifar(name: str, seed: int = 0) -> Dataset:
    train, test = (_part(name, train) for train in (True, False))
    order = np.random.default_rng(seed).permutation(len(train.targets))
    parts = np.split(order, [len(order) - _VALIDATION])
    splits = [_split(train.data[part], np.array(train.targets)[part]) for part in parts]
    splits.append(_split(test.data, np.array(test.targets)))
    return Dataset.of(*splits, classes=len(train.classes))


def _part(name: str, train: bool) -> Any:
    """Torchvision's data set; it compares the files with their checksums before it reads them."""
    from torchvision import datasets

    make = getattr(datasets, name)
    where = places.root()
    try:
        return make(where, train=train)
    except RuntimeError:  # not there, or not whole
        pass
    try:
        return make(where, train=train, download=True)
    except (OSError, RuntimeError) as error:
        raise OSError(
            f"{name} is not in {where} and could not be downloaded ({error}): put "
            f"{make.filename} there, from {make.url}, or name a tree of images as folder:PATH"
        ) from error


def _split(images: np.ndarray, labels: np.ndarray) -> Split:
    return Split(
        torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2),
        torch.from_numpy(labels.astype(np.int64)),
    )
