"""Image files, decoded once into arrays that are mapped into memory from then on."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import logging
import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from pathlib import Path

import loky
import numpy as np
from tqdm import tqdm

from granet_lab.datasets.pictures import NotAnImage, picture
from granet_lab.datasets.places import home
from granet_lab.datasets.tree import Tree

logger = logging.getLogger(__name__)

# Goes up when the same files begin to give other arrays.
_VERSION = 1
# Files that are decoded at a time, and how many broken ones a warning names.
_CHUNK = 256
_NAMED = 5
_SPLITS = ("train", "validation", "test")
# How folders that are not whole yet are called, and after how many seconds nobody is at work there.
_BEGUN = ".begun-"
_STALE = 24 * 3600
# Seconds of decoding after which it is worth starting processes.
_ALONE = 4.0

Task = Callable[[], tuple[int, list[str]]]


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
        shape = _Shape(tree, image_size)
        for split, files in zip(_SPLITS, tree.splits(), strict=True):
            _array(begun / f"{split}.npy", (len(files), *shape.known))
        skipped = _decode(tree, _tasks(tree, image_size, begun, shape))
        for split, files in zip(_SPLITS, tree.splits(), strict=True):
            good = np.array([name not in skipped for name in files.names], bool)
            if not good.all():
                _keep(begun / f"{split}.npy", good)
            np.save(begun / f"{split}-labels.npy", files.labels[good])
        if skipped:
            tree.without(skipped)  # which complains if nothing is left of a class
        (begun / "index.json").write_text(json.dumps({"skipped": sorted(skipped)}))
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


def _tasks(tree: Tree, image_size: int | None, folder: Path, shape: _Shape) -> deque[Task]:
    """Functions that decode a few files each; they know no others, so that they travel lightly."""
    return deque(
        functools.partial(
            _fill,
            tree.root,
            files.names[start : start + _CHUNK],
            image_size,
            folder / f"{split}.npy",
            start,
            shape,
        )
        for split, files in zip(_SPLITS, tree.splits(), strict=True)
        for start in range(0, len(files), _CHUNK)
    )


def _fill(
    root: Path, names: Sequence[str], image_size: int | None, path: Path, start: int, shape: _Shape
) -> tuple[int, list[str]]:
    """Decode files into an array, from one place on; how many, and those that are no images."""
    images, bad = np.load(path, mmap_mode="r+"), []
    for place, name in enumerate(names, start):
        try:
            image = picture(root / name, image_size)
        except NotAnImage:
            bad.append(name)
            continue
        shape.check(name, image)
        images[place] = image
    return len(names), bad


def _decode(tree: Tree, tasks: deque[Task]) -> set[str]:
    """Do all tasks, and return the names of files that are no images."""
    total, skipped = sum(len(files) for files in tree.splits()), set()
    with tqdm(total=total, desc=f"decoding {tree.root.name}", unit="image", delay=1) as bar:
        for n, bad in itertools.chain(_in_turn(tasks), _at_once(tasks)):
            bar.update(n)
            skipped.update(bad)
    return skipped


def _in_turn(tasks: deque[Task]) -> Iterator[tuple[int, list[str]]]:
    """Do tasks in this process for so long: a small tree is done before others have started."""
    end = time.monotonic() + _ALONE
    while tasks and time.monotonic() < end:
        yield tasks.popleft()()


def _at_once(tasks: deque[Task]) -> Iterator[tuple[int, list[str]]]:
    """Do the other tasks on all cores; threads would wait for one another if images are small."""
    if not tasks:
        return
    pool = loky.ProcessPoolExecutor(loky.cpu_count(only_physical_cores=True))
    try:
        for future in as_completed([pool.submit(task) for task in tasks]):
            yield future.result()
    finally:
        pool.shutdown(wait=True, kill_workers=True)


def _keep(path: Path, good: np.ndarray) -> None:
    """Write an array anew with the good images alone."""
    images, shorter = np.load(path, mmap_mode="r"), path.with_suffix(".shorter")
    kept = _array(shorter, (int(good.sum()), *images.shape[1:]))
    places = np.flatnonzero(good)
    for start in range(0, len(places), _CHUNK):
        kept[start : start + _CHUNK] = images[places[start : start + _CHUNK]]
    kept.flush()
    shorter.replace(path)
