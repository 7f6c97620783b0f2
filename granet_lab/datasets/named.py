"""Datasets by name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from granet_lab import checks
from granet_lab.datasets import places
from granet_lab.datasets.augmentation import AUGMENTATIONS
from granet_lab.datasets.dataset import Dataset
from granet_lab.datasets.folder import folder
from granet_lab.datasets.streaming import RESIZED_CROP, stream
from granet_lab.registry import Registry

DATASETS: Registry = Registry("dataset", downloads=False)
dataset = DATASETS.register

# What a name may begin with, to name a place.
_SOURCES: dict[str, Callable[[str, int | None], Dataset]] = {"folder": folder, "stream": stream}


def add_dataset(name: str, data: Dataset) -> str:
    """Give a dataset that is in memory a name, and return it: what a recipe's ``dataset`` takes.

    It travels to every process that trains on it. One of hundreds of megabytes is better a function
    that loads it, under ``@granet_lab.dataset``, or a tree of images.

    Raises:
        ValueError: a name that the package has taken.
    """

    def make() -> Dataset:
        return data

    # As if a notebook had defined it: other processes are told, and it may be defined anew.
    make.__name__, make.__module__ = name, "__main__"
    DATASETS.register(make)
    return name.rstrip("_")  # as registries have it


def check(name: str, image_size: int | None = None, augment: str | None = None) -> None:
    """Do nothing if there may be a dataset of that name, read in that way.

    Raises:
        ValueError: an unknown name, a size for images that are not resized, or an augmentation
            that the dataset does not have.
    """
    kind, _, path = name.partition(":") if isinstance(name, str) else ("", "", "")
    placed = bool(path) and kind in _SOURCES
    if not placed and name not in DATASETS:
        known = ", ".join([*DATASETS, *(f"{source}:PATH" for source in _SOURCES)])
        raise ValueError(f"unknown dataset {name!r}: choose from {known}")
    if image_size is not None and not placed:
        raise ValueError(f"image_size is for folders of images: {name} has one size, leave it out")
    streamed = placed and kind == "stream"
    known = (RESIZED_CROP,) if streamed else AUGMENTATIONS
    checks.choice(f"augmentation of {name}", augment, (None, *known))


def load(name: str, device: str = "cpu", image_size: int | None = None) -> Dataset:
    """The dataset of that name on a device; kept for the next time.

    Args:
        name: a registered dataset; ``"folder:PATH"``, a tree of images; or ``"stream:PATH"``, one
            that does not fit in memory.
        device: a torch device.
        image_size: side in pixels to which the images of a folder are resized; None: as they are.

    Raises:
        ValueError: an unknown name.
    """
    check(name, image_size)
    if name in DATASETS:
        return _load(DATASETS[name], device)
    kind, _, path = name.partition(":")
    return _load(_SOURCES[kind], device, str(places.find(path).absolute()), image_size)


# Keyed by the function, so that a notebook may define its dataset anew, and by the whole path.
@functools.lru_cache(maxsize=4)
def _load(make: Callable[..., Dataset], device: str, *values: Any) -> Dataset:
    return make(*values).to(device)
