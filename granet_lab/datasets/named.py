"""Datasets by name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from granet_lab.datasets import places
from granet_lab.datasets.dataset import Dataset
from granet_lab.datasets.folder import folder
from granet_lab.registry import Registry

DATASETS: Registry = Registry("dataset")
dataset = DATASETS.register

# What a name may begin with, to name a place.
SOURCES: dict[str, Callable[[str, int | None], Dataset]] = {"folder": folder}


def check(name: str, image_size: int | None = None) -> None:
    """Do nothing if there may be a dataset of that name, with images of that size.

    Raises:
        ValueError: an unknown name, or a size for images that are not resized.
    """
    kind, colon, path = name.partition(":") if isinstance(name, str) else (name, "", "")
    if colon and kind in SOURCES and path:
        return
    if name not in DATASETS:
        known = ", ".join([*DATASETS, *(f"{source}:PATH" for source in SOURCES)])
        raise ValueError(f"unknown dataset {name!r}: choose from {known}")
    if image_size is not None:
        raise ValueError(f"image_size is for folders of images: {name} has one size, leave it out")


def load(name: str, device: str = "cpu", image_size: int | None = None) -> Dataset:
    """The dataset of that name on a device; kept for the next time.

    Args:
        name: a registered dataset, or ``"folder:PATH"``, a tree of images.
        device: a torch device.
        image_size: side in pixels to which the images of a folder are resized; None: as they are.

    Raises:
        ValueError: an unknown name.
    """
    check(name, image_size)
    if name in DATASETS:
        return _load(DATASETS[name], device)
    kind, _, path = name.partition(":")
    return _load(SOURCES[kind], device, str(places.root().absolute()), path, image_size)


# Keyed by the function, so that a notebook may define its dataset anew, and by where names lead.
@functools.lru_cache(maxsize=4)
def _load(make: Callable[..., Dataset], device: str, root: str = "", *values: Any) -> Dataset:
    return make(*values).to(device)
