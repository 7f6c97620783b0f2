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
    """A dataset's folder; a relative path starts at :func:`root`.

    Raises:
        ValueError: there is no such folder.
    """
    folder = root() / Path(path).expanduser()
    if not folder.is_dir():
        raise ValueError(
            f"there is no folder {folder}: relative paths start at {VARIABLE}, or data/datasets"
        )
    return folder
