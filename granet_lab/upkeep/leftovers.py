"""What nobody needs any more: of processes that ended before their time, and what was set aside."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from granet_lab.experiments.execution.progress import busy
from granet_lab.experiments.execution.telling import NOTES
from granet_lab.experiments.files import ASIDE

# What a process at work makes it touches or takes away again, unless it has ended; in seconds.
ABANDONED = 3600
_ASIDE = re.compile(rf".+{re.escape(ASIDE)}[0-9a-f]{{8}}")
_PASSING = {
    ".*.tmp": "whoever wrote it did not come to the end",
    ".*.stop": "it told a sweep to stop that is over",
    ".*.probe": "whoever tried to write there is gone",
    ".import-*": "the import did not come to the end",
}
_NOTED = {
    ".claim": "whoever trained the run is gone",
    "[!.]*.notes": "whoever worked there is gone",
    "[!.]*.json": "an earlier version left word of its work there",
}
# A sweep of days needs it all the time, and does not touch it.
_DEFINED = {"[!.]*.definitions": "the sweep that carried it is over"}


def leftovers(folder: Path) -> Iterator[tuple[Path, str]]:
    """What is left over in a folder, though not in those below it, and why."""
    passing = _PASSING
    if folder.name == NOTES:
        passing = passing | _NOTED | ({} if busy(folder.parent) else _DEFINED)
    for pattern, why in passing.items():
        for path in sorted(folder.glob(pattern)):
            if _abandoned(path):
                yield path, why
    for path in sorted(filter(is_aside, folder.glob(f"*{ASIDE}*"))):
        yield path, "it was set aside as damaged"


def is_aside(path: Path) -> bool:
    """Whether a file or folder was set aside."""
    return _ASIDE.fullmatch(path.name) is not None


def age(path: Path) -> float:
    """Seconds since a file or folder was changed; 0 if it is gone by now."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _abandoned(path: Path) -> bool:
    """Whether nobody has changed a file for long, or a folder and anything in it."""
    try:
        return all(age(one) > ABANDONED for one in (path, *path.rglob("*")))
    except FileNotFoundError:  # somebody is taking it away
        return False


def take_away(path: Path) -> bool:
    """Take away a file, or a folder with all that is in it; whether it was there.

    Raises:
        OSError: that cannot be done.
    """
    try:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    except FileNotFoundError:  # another process was faster
        return False
    return True
