"""A tree of image files, a folder for each class."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Set
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

# What the folders of the splits may be called, as in the trees that are around.
_TRAIN = ("train",)
_VALIDATION = ("validation", "valid", "val")
_TEST = ("test",)
# The share of the images that a split is given where the tree has no folder for it.
_SHARE = 10


@dataclass(frozen=True)
class Files:
    """Image files and their classes.

    Attributes:
        names: paths relative to the tree.
        labels: int64, a class for each.
    """

    names: tuple[str, ...]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def at(self, places: np.ndarray) -> Files:
        """Some of them."""
        return Files(tuple(self.names[i] for i in places), self.labels[places])


@dataclass(frozen=True)
class Tree:
    """What lies in a tree of images.

    Attributes:
        root: the folder.
        classes: names, in the order of their labels.
        train: in an order drawn by seed, the same every time, so that the first n are a sample.
        validation: likewise.
        test: likewise.
    """

    root: Path
    classes: tuple[str, ...]
    train: Files
    validation: Files
    test: Files

    def splits(self) -> tuple[Files, Files, Files]:
        """Those of training, validation and testing."""
        return self.train, self.validation, self.test

    def without(self, names: Set[str]) -> Tree:
        """The tree with some files left out.

        Raises:
            ValueError: nothing is left of a class, or of a split.
        """
        kept = [
            files.at(np.array([i for i, name in enumerate(files.names) if name not in names], int))
            for files in self.splits()
        ]
        lost = self._class_folders(self.splits()) - self._class_folders(kept)
        if lost:
            raise ValueError(f"no file of the class {self.root / min(lost)} is an image")
        if not all(map(len, kept)):
            raise ValueError(f"too few files in {self.root} are images: a split is left empty")
        return replace(self, train=kept[0], validation=kept[1], test=kept[2])

    def _class_folders(self, splits: Iterable[Files]) -> set[str]:
        """The folders of the classes, relative to the tree; splits shared out have the same."""
        found = set()
        for files in splits:
            for name, label in zip(files.names, files.labels.tolist(), strict=True):
                start = f"{os.sep}{name}".index(f"{os.sep}{self.classes[label]}{os.sep}")
                found.add(name[: start + len(self.classes[label])])
        return found

    def fingerprint(self, *words: object, contents: bool = False) -> str:
        """16 hexadecimal digits that change with the names and classes of the files.

        Args:
            words: what else they shall depend on.
            contents: whether they change with the sizes and times of the files, too.
        """
        digest = hashlib.sha256(repr(words).encode())
        for files in self.splits():
            for name, label in zip(files.names, files.labels.tolist(), strict=True):
                found = os.stat(self.root / name) if contents else None
                seen = f"{found.st_size}\0{found.st_mtime_ns}" if found else ""
                digest.update(os.fsencode(f"{name}\0{label}\0{seen}\n"))
            digest.update(b"\n")
        return digest.hexdigest()[:16]


def scan(root: Path, seed: int = 0) -> Tree:
    """Find the images of a tree and share them out.

    The tree has a folder for each split with a folder for each class in it, or the folders of the
    classes alone. Of ``train`` and ``val`` alone, as ImageNet has them, ``val`` is the test split.
    Where there is no folder for validation, a tenth of the training images is taken; where there
    is none for testing either, a tenth each.

    Args:
        root: the folder.
        seed: of the order.

    Raises:
        ValueError: an empty tree or class, splits with other classes, or too few images to share.
    """
    folders = {folder.name: folder for folder in _folders(root)}
    train, validation, test = (
        next((folders[name] for name in names if name in folders), None)
        for names in (_TRAIN, _VALIDATION, _TEST)
    )
    if train is None:
        classes, files = _classes(root, root)
        return Tree(root, classes, *_share(root, _shuffled(files, seed), parts=3))
    if test is None and validation is None:
        raise ValueError(f"{root} has a folder train, but none of test, val, valid, validation")
    if test is None:
        validation, test = None, validation
    classes, files = _classes(root, train)
    found = [_shuffled(files, seed)]
    for folder in (validation, test):
        if folder is not None:
            others, files = _classes(root, folder)
            if others != classes:
                odd = sorted(set(classes) ^ set(others))
                raise ValueError(
                    f"{train} and {folder} must have the same classes: {odd[0]} is in one alone"
                )
            found.append(_shuffled(files, seed))
    if validation is None:
        found[:1] = _share(train, found[0], parts=2)
    return Tree(root, classes, *found)


def _share(folder: Path, files: Files, parts: int) -> list[Files]:
    """All but a tenth, and that tenth; or two of them."""
    small = len(files) // _SHARE
    if not small:
        raise ValueError(f"{folder} has {len(files)} images: {_SHARE} are the least to share out")
    cuts = np.cumsum([len(files) - (parts - 1) * small] + [small] * (parts - 2))
    return [files.at(part) for part in np.split(np.arange(len(files)), cuts)]


def _shuffled(files: Files, seed: int) -> Files:
    return files.at(np.random.default_rng(seed).permutation(len(files)))


def _classes(root: Path, folder: Path) -> tuple[tuple[str, ...], Files]:
    """The names of the classes in a folder, and their files in alphabetical order."""
    classes = _folders(folder)
    if not classes:
        raise ValueError(f"{folder} has no folders: each class needs one, with its images in it")
    names, labels = [], []
    for label, one in enumerate(classes):
        found = sorted(_files(one))
        if not found:
            raise ValueError(f"the class {one} is empty")
        names += [os.path.relpath(name, root) for name in found]
        labels += [label] * len(found)
    return tuple(one.name for one in classes), Files(tuple(names), np.array(labels, np.int64))


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _files(folder: Path) -> list[str]:
    """All files below a folder; what is hidden is the system's, not the user's."""
    found = []
    for where, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [os.path.join(where, name) for name in names if not name.startswith(".")]
    return found
