"""Image files, decoded once into arrays that are mapped into memory from then on."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from granet_lab.datasets.places import home
from granet_lab.datasets.tree import Files, Tree

logger = logging.getLogger(__name__)

# Goes up when the same files begin to give other arrays.
_VERSION = 1
# Files that a thread decodes at a time, and how many broken ones a warning names.
_CHUNK = 256
_NAMED = 5
_SPLITS = ("train", "validation", "test")
# How folders that are not whole yet are called, and after how many seconds nobody is at work there.
_BEGUN = ".begun-"
_STALE = 24 * 3600


def decoded(tree: Tree, image_size: int | None = None) -> list[tuple[np.ndarray, np.ndarray]]:
    """The images and labels of a tree's three splits; decoded now if they never were.

    What is decoded lies beside the tree, in ``<tree>.decoded``, under a name that changes with the
    files (their names, sizes and times), and may be deleted at any time. It appears whole or not
    at all. Files that are no images are left out, and named in a warning.

    Args:
        tree: what to decode.
        image_size: side in pixels: the shorter side is resized to it, the middle is kept. None
            takes the images as they are, of one size.

    Returns:
        For each split the images, uint8 of shape (n, height, width, 3), read from the disk as
        they are used, and the labels, int64 of shape (n,).

    Raises:
        ValueError: images of different sizes and no ``image_size``, or a class of which nothing
            could be read.
        OSError: the arrays cannot be written.
    """
    folder = home(tree.root) / tree.fingerprint(_VERSION, image_size, contents=True)
    if not folder.is_dir():
        _write(tree, image_size, folder)
    warn_of(json.loads((folder / "index.json").read_text())["skipped"], tree)
    # Copy on write: torch wants memory that it may write to, the file stays as it is.
    return [
        (np.load(folder / f"{name}.npy", mmap_mode="c"), np.load(folder / f"{name}-labels.npy"))
        for name in _SPLITS
    ]


def warn_of(names: Sequence[str], tree: Tree) -> None:
    """Say how many files of a tree are left out, and name the first of them."""
    if names:
        named = ", ".join(names[:_NAMED]) + (" ..." if len(names) > _NAMED else "")
        logger.warning("%d files of %s are no images: %s", len(names), tree.root, named)


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


def _write(tree: Tree, image_size: int | None, folder: Path) -> None:
    """Decode into a folder that gets its name once it is whole."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder.parent)
        begun = Path(tempfile.mkdtemp(prefix=_BEGUN, dir=folder.parent))
    except OSError as error:
        why = error.strerror or error
        raise OSError(
            f"cannot write {folder.parent}, where {tree.root} is decoded: {why}"
        ) from error
    try:
        total = sum(len(getattr(tree, name)) for name in _SPLITS)
        with tqdm(total=total, desc=f"decoding {tree.root.name}", unit="image", delay=1) as bar:
            shape = _Shape(tree, image_size)
            skipped = [
                name
                for split in _SPLITS
                for name in _decode(tree, split, image_size, begun, shape, bar)
            ]
        if skipped:
            tree.without(set(skipped))  # which complains if nothing is left of a class
        (begun / "index.json").write_text(json.dumps({"skipped": skipped}))
        begun.chmod(0o755)  # what tempfile makes is for one's own eyes
        _to_disk(begun)
        try:
            begun.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was as far
                raise
    finally:
        shutil.rmtree(begun, ignore_errors=True)


def _to_disk(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb+") as file:
            os.fsync(file.fileno())


def _sweep(home: Path) -> None:
    """Take away what was begun by a process that was killed, long ago."""
    for begun in home.glob(f"{_BEGUN}*"):
        with contextlib.suppress(FileNotFoundError):  # another process has just finished it
            if time.time() - begun.stat().st_mtime > _STALE:
                shutil.rmtree(begun, ignore_errors=True)


def _array(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """A new array in a file, its place on the disk taken.

    Writing to memory that the full disk cannot back would kill the process.
    """
    array = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


class _Shape:
    """The shape that all images must have: that of the first."""

    def __init__(self, tree: Tree, image_size: int | None) -> None:
        self._root = tree.root
        self.known: tuple[int, ...] = ()
        self._first = ""
        for name in tree.train.names:
            try:
                self.known, self._first = picture(tree.root / name, image_size).shape, name
                return
            except NotAnImage:
                continue
        raise ValueError(f"none of the {len(tree.train)} files in {tree.root} is an image")

    def check(self, name: str, image: np.ndarray) -> None:
        """Refuse another shape."""
        if image.shape != self.known:
            (h, w), (height, width) = self.known[:2], image.shape[:2]
            raise ValueError(
                f"the images of {self._root} differ in size ({w}x{h}: {self._first}, "
                f"{width}x{height}: {name}): give the recipe an image_size"
            )


def _decode(
    tree: Tree, split: str, image_size: int | None, folder: Path, shape: _Shape, bar: tqdm
) -> list[str]:
    """Write one split, and return the names of the files that are no images."""
    files: Files = getattr(tree, split)
    images = _array(folder / f"{split}.npy", (len(files), *shape.known))
    good = np.ones(len(files), bool)
    stop = threading.Event()

    def work(chunk: range) -> None:
        for i in chunk:
            if stop.is_set():
                return
            try:
                image = picture(tree.root / files.names[i], image_size)
            except NotAnImage:
                good[i] = False
                continue
            shape.check(files.names[i], image)
            images[i] = image
        bar.update(len(chunk))

    # Pillow decodes without holding the interpreter: threads are enough to keep all cores busy.
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        try:
            list(threads.map(work, _chunks(len(files))))
        except BaseException:
            stop.set()
            raise
    if not good.all():
        _keep(folder / f"{split}.npy", images, good)
    images.flush()
    np.save(folder / f"{split}-labels.npy", files.labels[good])
    return [files.names[i] for i in np.flatnonzero(~good)]


def _keep(path: Path, images: np.memmap, good: np.ndarray) -> None:
    """Write the file anew with the good images alone."""
    shorter = path.with_suffix(".shorter")
    kept = _array(shorter, (int(good.sum()), *images.shape[1:]))
    places = np.flatnonzero(good)
    for chunk in _chunks(len(places)):
        kept[chunk.start : chunk.stop] = images[places[chunk.start : chunk.stop]]
    kept.flush()
    shorter.replace(path)


def _chunks(n: int) -> Iterator[range]:
    return (range(start, min(start + _CHUNK, n)) for start in range(0, n, _CHUNK))
