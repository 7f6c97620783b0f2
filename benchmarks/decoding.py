"""What reading a tree of images costs: decoded once into a mapped array, or file by file.

    python -m benchmarks.decoding [TREE] [--repeats 3]

TREE is a folder of folders of images; without one, 10,000 JPEGs of 32x32 pixels are made. Beside
this package's decoding: torchvision's ImageFolder, read from its first image to its last in one
process, as every epoch of a plain training loop does. They take turns.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.datasets import ImageFolder

from benchmarks.timing import heading, in_turn, table
from granet_lab.datasets.decoding import decoded
from granet_lab.datasets.places import home
from granet_lab.datasets.tree import Tree, scan

_MADE = 10_000


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tree", type=Path, nargs="?")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    with tempfile.TemporaryDirectory() as folder:
        # A name of its own: what is decoded beside somebody's tree stays there.
        root = Path(folder) / "tree"
        if arguments.tree is None:
            make(root)
        else:
            root.symlink_to(arguments.tree.resolve())
        measure(root, arguments.repeats)


def make(root: Path) -> None:
    """Write JPEGs in ten classes."""
    random = np.random.default_rng(0)
    for i in range(_MADE):
        path = root / f"class{i % 10}" / f"{i:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((32, 32)).save(path, quality=90)


def measure(root: Path, repeats: int) -> None:
    """Print how long each takes."""
    tree = scan(root)
    images = sum(len(files) for files in tree.splits())
    ways: dict[str, Callable[[], None]] = {
        "ImageFolder, file by file": lambda: by_file(tree),
        "decoded once, all cores": lambda: anew(tree),
        "from then on": lambda: again(tree),
    }
    times = in_turn(ways, repeats, warm_up=False)
    print(f"{heading()}\n\n{images:,} images")
    print(table(times, "ImageFolder, file by file"))


def by_file(tree: Tree) -> None:
    """Every image of the tree, through torchvision's ImageFolder."""
    for folder in {Path(name).parts[0] for files in tree.splits() for name in files.names}:
        splits = any(child.is_dir() for child in (tree.root / folder).iterdir())
        for image, _ in ImageFolder(tree.root / folder if splits else tree.root):
            np.asarray(image)
        if not splits:
            return


def anew(tree: Tree) -> None:
    """Decode as if for the first time."""
    shutil.rmtree(home(tree.root), ignore_errors=True)
    decoded(tree)


def again(tree: Tree) -> None:
    """Find what was decoded, and read all of it."""
    for images, _ in decoded(scan(tree.root)):
        int(images.sum())


if __name__ == "__main__":
    main()
