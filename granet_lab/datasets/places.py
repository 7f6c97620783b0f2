"""Where datasets lie on this machine."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "GRANET_LAB_DATASETS"


def root() -> Path:
    """The folder of all datasets: what GRANET_LAB_DATASETS names, else ``data/datasets``."""
    return Path(os.environ.get(VARIABLE) or "data/datasets").expanduser()


def home(folder: Path) -> Path:
    """Where what is made of a tree of files lies, beside it; it may be deleted at any time."""
    return folder.absolute().parent / f"{folder.name}.decoded"


def find(path: str) -> Path:
    """A dataset's folder; a relative path is looked for in :func:`root`, then from here.

    Raises:
        ValueError: there is no such folder.
    """
    given = Path(path).expanduser()
    for folder in (root() / given, given):
        if folder.is_dir():
            return folder
    raise ValueError(f"there is no folder {path}, neither in {root()} ({VARIABLE}) nor from here")
