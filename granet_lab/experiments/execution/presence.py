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


def born(pid: int) -> str:
    """When a process of this machine began, by a clock that nobody can set: another one of the same
    number began later. Empty where nobody can tell."""
    with contextlib.suppress(OSError, IndexError):  # not on Linux, or gone
        # The name of its program, in brackets, may hold anything.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ""


def gone(pid: int, since: str = "") -> bool:
    """Whether a process of this machine has ended.

    Args:
        pid: its number.
        since: when it was born, where that is known.
    """
    try:
        ended = psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.AccessDenied:  # somebody else's
        return False
    except (psutil.Error, ValueError, OverflowError):
        return True
    return ended or (since != "" and born(pid) not in ("", since))
