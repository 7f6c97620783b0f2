"""A tree of images that does not fit in memory: ``"stream:NAME"``.

Files are decoded anew each time, by processes that work ahead of the training.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as Examples
from tqdm import tqdm

from granet_lab.datasets.dataset import Dataset
from granet_lab.datasets.decoding import warn_of
from granet_lab.datasets.pictures import NotAnImage, opened
from granet_lab.datasets.places import find, home
from granet_lab.datasets.tree import Files, Tree, scan
from granet_lab.randomness import derive_seed

# The one augmentation of a stream.
RESIZED_CROP = "resized_crop_flip"
_SIZE = 224
# Of ImageNet's training images, as every published network takes them; in units of 0 to 255.
_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
_STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)
# More processes than this only wait for the disk.
_WORKERS = 16
# How they start; said here, because the processes of a sweep have a way of their own.
_START = "fork" if sys.platform == "linux" else "spawn"


@dataclass(frozen=True)
class StreamedSplit:
    """Image files and their classes, decoded as they are read.

    Attributes:
        root: what their names start from.
        files: names and labels.
        image_size: side in pixels that they get.
        where: the device that tensors are put on.
    """

    root: Path
    files: Files
    image_size: int
    where: str = "cpu"

    def __len__(self) -> int:
        return len(self.files)

    @property
    def device(self) -> torch.device:
        """The device that tensors are put on."""
        return torch.device(self.where)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        return 3, self.image_size, self.image_size

    def to(self, device: torch.device | str) -> StreamedSplit:
        """The split, its tensors on a device."""
        return replace(self, where=str(device))

    def first(self, n: int | None) -> StreamedSplit:
        """The first ``n`` images; all of them for None."""
        if n is not None and n > len(self):
            raise ValueError(f"train_size must be at most {len(self)}, not {n}")
        return replace(self, files=self.files.at(np.arange(len(self))[:n]))

    def blocks(
        self, size: int, order: Tensor | None = None, crops: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Images, uint8 of shape (size, 3, height, width), and labels, block by block.

        Args:
            size: images at a time.
            order: which, by number; None: all.
            crops: a seed: a random part of each image, resized, half of them mirrored. None: the
                middle of the image.

        Raises:
            NotAnImage: a damaged file.
        """
        places = range(len(self)) if order is None else order.tolist()
        loader = DataLoader(
            _Pictures(self.root, self.files, self.image_size, crops),
            batch_size=size,
            sampler=places,
            num_workers=min(_WORKERS, os.cpu_count() or 1),
            multiprocessing_context=_START,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # so that torch's own stays as it is
        )
        for images, labels in _one_line(loader):
            images = images.to(self.device, non_blocking=True).permute(0, 3, 1, 2)
            yield images, labels.to(self.device, non_blocking=True)


def _one_line(loader: DataLoader) -> Iterator[list[Tensor]]:
    """What the loader yields; of the error of one of its processes the last line, its cause."""
    try:
        yield from loader
    except NotAnImage as error:
        raise NotAnImage(str(error).strip().rpartition("NotAnImage: ")[2]) from None


class _Pictures(Examples):
    """What a process of the loader decodes: one image at a time."""

    def __init__(self, root: Path, files: Files, image_size: int, crops: int | None) -> None:
        from torchvision import transforms

        self._root, self._files, self._crops = root, files, crops
        # 256 to 224, as everybody tests on ImageNet.
        middle = [
            transforms.Resize(round(image_size * 8 / 7)),
            transforms.CenterCrop(image_size),
        ]
        random = [transforms.RandomResizedCrop(image_size), transforms.RandomHorizontalFlip()]
        self._transform = transforms.Compose(middle if crops is None else random)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        image = opened(self._root / self._files.names[place])
        if self._crops is None:
            image = self._transform(image)
        else:
            image = self._drawn(image, derive_seed("picture", self._crops, place))
        return torch.from_numpy(np.array(image)), int(self._files.labels[place])

    def _drawn(self, image: Image.Image, seed: int) -> Image.Image:
        """Transformed by draws that depend on the seed alone; torchvision has but torch's own."""
        before = torch.get_rng_state()
        torch.default_generator.manual_seed(seed)
        try:
            return self._transform(image)
        finally:
            torch.set_rng_state(before)


def stream(path: str, image_size: int | None = None) -> Dataset:
    """The images of a tree, decoded anew each time: for what does not fit in memory.

    Training images are cropped at random (torchvision's RandomResizedCrop) if the recipe's
    ``augment`` is "resized_crop_flip"; otherwise, and for testing, the shorter side is resized to
    8/7 of the size and the middle taken. Pixels are normalised by ImageNet's mean and deviation.

    Args:
        path: the folder: in ``data/datasets``, or what GRANET_LAB_DATASETS names, or from here.
        image_size: side in pixels; by default 224.

    Raises:
        ValueError: no such folder, or an empty class.
        OSError: the list of what is no image cannot be written.
    """
    tree = _checked(scan(find(path)))
    train, validation, test = (
        StreamedSplit(tree.root, files, image_size or _SIZE)
        for files in (tree.train, tree.validation, tree.test)
    )
    return Dataset(train, validation, test, len(tree.classes), _MEAN, _STD)


def _checked(tree: Tree) -> Tree:
    """The tree without the files that are no images; which those are is kept beside it."""
    note = home(tree.root) / f"{tree.fingerprint()}-no-images.json"
    try:
        # Those that were bad are looked at again: they may have been mended.
        bad = _without_header(tree, json.loads(note.read_text()))
    except (FileNotFoundError, ValueError):
        bad = _without_header(tree, [name for files in tree.splits() for name in files.names])
        note.parent.mkdir(parents=True, exist_ok=True)
        begun = note.with_suffix(f".{os.getpid()}")
        begun.write_text(json.dumps(bad))
        begun.replace(note)
    warn_of(bad, tree)
    return tree.without(set(bad)) if bad else tree


def _without_header(tree: Tree, names: Sequence[str]) -> list[str]:
    """Those of the files whose beginning is not that of an image; the rest is not looked at."""

    def bad(name: str) -> bool:
        try:
            with Image.open(tree.root / name):
                return False
        except Exception:  # what Pillow raises depends on the format and the damage
            return True

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        found = threads.map(bad, names, chunksize=64)
        bar = tqdm(found, f"looking at {tree.root.name}", len(names), unit="image", delay=1)
        return [name for name, is_bad in zip(names, bar, strict=True) if is_bad]
