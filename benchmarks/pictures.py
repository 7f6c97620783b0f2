"""Images of CIFAR-10's size, so that nothing has to be downloaded: how long a step takes does not
depend on what is in them."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import torch

import granet_lab as gl
from granet_lab.datasets import DATASETS, Dataset, Split

NAME, FEW = "noise32", "noise32_few"
# As in CIFAR-10, where granet_lab keeps 5,000 of the 50,000 for validation; here none is kept from
# training, so that an epoch is that of everybody.
TRAIN, TEST = 50_000, 10_000


@functools.cache
def arrays() -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 of shape (60000, 32, 32, 3), and labels."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (TRAIN + TEST, 32, 32, 3), dtype=np.uint8)
    return images, random.integers(0, 10, TRAIN + TEST)


def noise32() -> Dataset:
    """The images as a data set; of the test images one is for validation, too."""
    images, labels = (torch.from_numpy(part) for part in arrays())
    images = images.permute(0, 3, 1, 2)
    train = Split(images[:TRAIN], labels[:TRAIN])
    test = Split(images[TRAIN:], labels[TRAIN:])
    return Dataset.of(train, test.first(1), test, classes=10)


def noise32_few() -> Dataset:
    """The same with 500 test images."""
    whole = noise32()
    return replace(whole, test=whole.test.first(500))


def recipe(**changes: object) -> gl.Recipe:
    """ResNet-20 on them, as on CIFAR-10."""
    for function in (noise32, noise32_few):
        if function.__name__ not in DATASETS:
            gl.dataset(function)
    return gl.recipes.resnet20_cifar10(**{"dataset": NAME, **changes})
