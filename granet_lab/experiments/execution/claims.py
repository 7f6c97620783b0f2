"""Who trains a run: one process, and the others wait for it.

On a CPU two that train the same run write the same files. On a GPU they would not, and a run would
be made of both. A claim is a file that its owner touches; one that nobody touches any more belongs
to nobody, so a process that dies holds up nobody for long.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from granet_lab.experiments.execution import presence
from granet_lab.experiments.execution.telling import NOTES
from granet_lab.experiments.store import Run

# Seconds between two touches, and without one until a claim on another machine is over.
_BEAT, _SILENCE = 5.0, 60.0
# Seconds between two looks at a claim.
_PAUSE = 0.3


class Claims:
    """What this process may train, and what it has seen of the claims of others.

    Args:
        clock: of seconds; one that nobody can set. Clocks of other machines are not asked.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[Path, tuple[object, float]] = {}

    def free(self, run: Run) -> bool:
        """Whether nobody else is training a run, as far as one can know."""
        found = _look(path_of(run.path))
        return found is None or self._over(path_of(run.path), found)

    @contextlib.contextmanager
    def claimed(self, run: Run) -> Iterator[bool]:
        """Claim a run for the length of a block; whether that was possible.

        A folder where nothing can be written keeps nobody from trying.
        """
        path = path_of(run.path)
        mine = self._claim(path)
        if not mine:
            yield mine is not None
            return
        ended = threading.Event()
        try:
            threading.Thread(target=_touch, args=(path, ended), daemon=True).start()
            yield True
        finally:
            ended.set()
            _remove(path, mine)

    @contextlib.contextmanager
    def once_free(self, run: Run) -> Iterator[None]:
        """Wait until nobody else trains a run, and claim it for the length of a block."""
        while True:
            with self.claimed(run) as mine:
                if mine:
                    yield
                    return
            time.sleep(_PAUSE)

    def _over(self, path: Path, found: _Claim) -> bool:
        """Whether who made a claim is not there any more."""
        if _dead(found):
            return True
        sign, since = self._seen.get(path, (None, 0.0))
        if sign != found:
            self._seen[path] = (found, self._clock())
            return False
        return self._clock() - since > _SILENCE

    def _claim(self, path: Path) -> str | None:
        """A claim's token; None: somebody else has the run; "": nothing can be written."""
        found = _look(path)
        if found is not None:
            if not self._over(path, found):
                return None
            _remove(path, found.token)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError:
            return ""
        try:
            token = _make(path)
        except FileExistsError:  # somebody was faster
            return None
        except OSError:  # writing the run will say why
            return ""
        if found is not None:  # another may have taken the same one for dead, and this for that
            time.sleep(_PAUSE)
        now = _look(path)
        return token if now is not None and now.token == token else None


@dataclass(frozen=True)
class _Claim:
    """What a claim says; empty where it cannot be read. It changes when it is touched."""

    where: str = ""
    pid: int = 0
    token: str = ""
    touched: int = 0


def tidy(run: Run) -> None:
    """Take away the claim of a process of this machine that is not there any more."""
    found = _look(path_of(run.path))
    if found is not None and _dead(found):
        _remove(path_of(run.path), found.token)


def _dead(claim: _Claim) -> bool:
    """Whether its process was on this machine and is not there any more."""
    return claim.where == presence.here() and presence.gone(claim.pid)


def path_of(folder: Path) -> Path:
    """Where the claim on the run in a folder is, or would be."""
    return folder / NOTES / ".claim"


def held(folder: Path) -> bool:
    """Whether there is a claim on the run in a folder, of a process that may still be there."""
    found = _look(path_of(folder))
    return found is not None and not _dead(found)


def _make(path: Path) -> str:
    """Make a claim; its token.

    Raises:
        FileExistsError: there is one.
        OSError: it cannot be written.
    """
    token = secrets.token_hex(8)
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    try:
        with open(descriptor, "w") as file:
            json.dump({"where": presence.here(), "pid": os.getpid(), "token": token}, file)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return token


def _look(path: Path) -> _Claim | None:
    """A claim; None if there is none."""
    try:
        touched = path.stat().st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return _Claim()
    try:
        said = json.loads(path.read_bytes())
        return _Claim(str(said["where"]), int(said["pid"]), str(said["token"]), touched)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError):  # half written, or not for us
        return _Claim(touched=touched)


def _remove(path: Path, token: str) -> None:
    """Take a claim away, if it is still the one that is meant."""
    found = _look(path)
    if found is not None and found.token == token:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _touch(path: Path, ended: threading.Event) -> None:
    while not ended.wait(_BEAT):
        try:
            os.utime(path)
        except FileNotFoundError:
            return
        except OSError:  # the next time, perhaps
            continue
