"""Trees of small image files, each file drawn from its name."""

import zlib

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 7, 5


def pixels(name, width=WIDTH, height=HEIGHT):
    """What is in the image of that name: uint8 of shape (height, width, 3)."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    return random.integers(0, 256, (height, width, 3), dtype=np.uint8)


def plant(root, counts, kind="png", size=(WIDTH, HEIGHT)):
    """Make so many images in each folder; their names relative to the root come back."""
    names = [f"{folder}/{i}.{kind}" for folder, count in counts.items() for i in range(count)]
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(name, *size)).save(root / name)
    return names


def sow(root, counts):
    """Make so many empty files in each folder; their names relative to the root come back."""
    names = [f"{folder}/{i}.png" for folder, count in counts.items() for i in range(count)]
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return names
