"""Handwritten digits: the default, small enough to come with an installed package."""

from __future__ import annotations

import numpy as np

from granet_lab.datasets.dataset import Dataset, from_arrays
from granet_lab.datasets.named import dataset


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
