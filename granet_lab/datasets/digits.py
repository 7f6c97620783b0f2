"""Handwritten digits: the default, small enough to come with an installed package."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from granet_lab.datasets.dataset import Dataset, from_arrays
from granet_lab.datasets.named import dataset

# Where scikit-learn keeps them.
_FILE = "datasets/data/digits.csv.gz"


@dataset
def digits() -> Dataset:
    """scikit-learn's digits: 1,797 handwritten digits of 8x8 pixels in 17 grey levels.

    900 images to train on, 297 for validation, 600 for testing (a sixth of a percentage point
    an image).
    """
    pixels, labels = _read()
    images = (pixels.reshape(-1, 1, 8, 8) * (255 / 16)).round().astype(np.uint8)
    return from_arrays(images, labels, validation_size=297, test_size=600)


def _read() -> tuple[np.ndarray, np.ndarray]:
    """Pixels [1797, 64] from 0 to 16, and labels [1797]."""
    try:
        path = Path(find_spec("sklearn").origin).parent / _FILE
        table = np.loadtxt(path, np.int64, delimiter=",")
    except (AttributeError, OSError, ValueError):  # not there, or another version
        from sklearn.datasets import load_digits  # 1.2 s in each process

        return load_digits(return_X_y=True)
    return table[:, :64], table[:, 64]
