"""One image file as an array."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image


class NotAnImage(ValueError):
    """A file that holds no image, or a damaged one."""


def opened(path: str | Path) -> Image.Image:
    """An image file, in red, green and blue.

    Raises:
        NotAnImage: a file that Pillow cannot make an image of.
        OSError: the file cannot be read.
    """
    content = io.BytesIO(Path(path).read_bytes())
    try:
        with Image.open(content) as found:
            if found.mode.startswith("I"):  # 16 bits, which Pillow would cut off at 255
                found = Image.fromarray((np.asarray(found) >> 8).clip(0, 255).astype(np.uint8))
            return found.convert("RGB")
    except MemoryError:
        raise
    except Exception as error:  # what Pillow raises depends on the format and the damage
        raise NotAnImage(f"{path} is no image: {error}") from error


def picture(path: str | Path, image_size: int | None = None) -> np.ndarray:
    """One image, uint8 of shape (height, width, 3); raises like :func:`opened`.

    The shorter side is resized to ``image_size``, and the middle taken.
    """
    image = opened(path)
    if image_size is not None and image.size != (image_size, image_size):
        scale = image_size / min(image.size)
        width, height = (max(image_size, round(side * scale)) for side in image.size)
        left, top = (width - image_size) // 2, (height - image_size) // 2
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        image = image.crop((left, top, left + image_size, top + image_size))
    return np.asarray(image)
