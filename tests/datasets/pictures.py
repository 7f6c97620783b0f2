"""Pictures that tests can tell apart."""

import numpy as np

from granet_lab.datasets import from_arrays


def numbered(n=120, channels=3):
    """Random images, each of a class of its own, so that a label tells which image it is."""
    random = np.random.default_rng(5)
    images = random.integers(0, 256, (n, channels, 4, 6), dtype=np.uint8)
    return images, np.arange(n)


NUMBERED = from_arrays(*numbered(), validation_size=10, test_size=10)
