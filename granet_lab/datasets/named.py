"""Datasets by name."""

from __future__ import annotations

import functools
from collections.abc import Callable

from granet_lab.datasets.dataset import Dataset
from granet_lab.registry import Registry

DATASETS: Registry = Registry("dataset")
dataset = DATASETS.register


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
