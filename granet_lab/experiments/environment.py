"""Where and with what something was measured."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy
import torch

import granet_lab


def default_device() -> str:
    """ "cuda" where there is a GPU that torch can use, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def usable_device(device: str) -> str:
    """Return ``device`` if torch can put a tensor there.

    Raises:
        ValueError: it cannot.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        there = ", ".join(["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
        raise ValueError(f"cannot use device {device!r} here: choose from {there}") from None
    return device


def device_name(device: str) -> str:
    """The device as the table names it: "cpu", or the GPU's name."""
    return device if torch.device(device).type == "cpu" else torch.cuda.get_device_name(device)


def hardware(device: str) -> str:
    """The processor or GPU in words."""
    name = device_name(device)
    return f"{_processor()}, {os.cpu_count()} cores" if name == "cpu" else name


def commit() -> str | None:
    """The commit of the checkout that the package lies in, "+" behind it if there are changes."""
    folder = Path(__file__).parent
    try:
        found = _git(folder, "rev-parse", "HEAD")
        return found[:12] + ("+" if _git(folder, "status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


@functools.cache
def version() -> str:
    """With what something is computed, in a line: two that differ may give different numbers.

    It is that of the code which was loaded first, whatever becomes of the checkout.
    """
    found = commit()
    checkout = f" {found}" if found else ""
    return f"granet_lab {granet_lab.__version__}{checkout}, torch {torch.__version__}"


def environment(device: str) -> dict[str, Any]:
    """Versions, hardware, commit, command and date, as plain JSON values."""
    return {
        "granet_lab": granet_lab.__version__,
        "commit": commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "system": platform.platform(),
        "hardware": hardware(device),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _git(folder: Path, *words: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True
    ).stdout.strip()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
