"""Whether a process that has left word of itself is still there."""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path

import psutil


def here() -> str:
    """This machine as long as it runs, and where on it the numbers of processes mean the same."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):  # not on Linux
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def gone(pid: int) -> bool:
    """Whether a process of this machine has ended."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except (psutil.Error, ValueError, OverflowError):
        return True
