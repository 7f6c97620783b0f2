"""A folder of images as a dataset: ``"folder:NAME"``."""

from __future__ import annotations

import torch

from granet_lab.datasets.dataset import Dataset, Split
from granet_lab.datasets.decoding import decoded
from granet_lab.datasets.places import find
from granet_lab.datasets.tree import scan


def folder(path: str, image_size: int | None = None) -> Dataset:
    """The images of a tree, see :func:`granet_lab.datasets.tree.scan` for what it may look like.

    They are decoded at the first time, see :func:`granet_lab.datasets.decoding.decoded`; after
    that, processes on one machine share them in memory.

    Args:
        path: the folder: in ``data/datasets``, or what GRANET_LAB_DATASETS names, or from here.
        image_size: side in pixels to which images are resized; None: as they are.

    Raises:
        ValueError: no such folder, one without images, or images of different sizes and no size.
        OSError: what is decoded cannot be written.
    """
    tree = scan(find(path))
    splits = [
        Split(torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels))
        for images, labels in decoded(tree, image_size)
    ]
    return Dataset.of(*splits, classes=len(tree.classes))
