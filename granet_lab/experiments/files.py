"""Files that appear whole or not at all, and say so when they were damaged."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

logger = logging.getLogger(__name__)

# The name of a checksum beside what it is of.
_SEAL = "sha256"
# What is behind the name of a file or folder that was set aside, and before a number.
ASIDE = ".damaged-"
# Nanoseconds, longer than between two ticks of a file system's clock.
_TICK = 100_000_000


class DamagedFile(ValueError):
    """A file is there but is not what was written; the message names it."""

    def __init__(self, path: Path, why: object) -> None:
        super().__init__(f"{path} is damaged: {why}")


@contextlib.contextmanager
def appearing(path: Path, durable: bool = True) -> Iterator[BinaryIO]:
    """A file that is open under a temporary name, and moved into place as the block ends.

    Args:
        path: of the file; its folder is made.
        durable: False leaves out the flush to the disk, for what may be lost with the machine.

    Raises:
        OSError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with _made(temporary) as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    if durable:
        _flush_folder(path.parent)


def _made(path: Path) -> BinaryIO:
    """A new file, in a new folder if need be."""
    try:
        return open(path, "wb")
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "wb")


def write(path: Path, content: bytes, durable: bool = True) -> None:
    """Write a file, see :func:`appearing`.

    Args:
        path: of the file; its folder is made.
        content: all of it.
        durable: False leaves out the flush, for what may be lost with the machine.

    Raises:
        OSError: the file cannot be written; the message names the folder.
    """
    try:
        with appearing(path, durable) as file:
            file.write(content)
    except OSError as error:
        raise OSError(f"cannot write to {path.parent}: {error.strerror or error}") from error


def _flush_folder(folder: Path) -> None:
    """Make the new name itself survive a power cut, where the system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    with contextlib.suppress(OSError):
        os.fsync(descriptor)
    os.close(descriptor)


def canonical(value: Any) -> bytes:
    """The one JSON text of a value: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a dict as readable JSON with its own SHA-256."""
    sealed = {**value, "sha256": hashlib.sha256(canonical(value)).hexdigest()}
    write(path, json.dumps(sealed, indent=1, allow_nan=False).encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read what :func:`write_json` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFile: it is not JSON, or not what was written.
    """
    try:
        value = json.loads(path.read_bytes())
        claimed = value.pop("sha256")
        found = hashlib.sha256(canonical(value)).hexdigest()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedFile(path, f"{type(error).__name__} {error}") from None
    if found != claimed:
        raise DamagedFile(path, "its contents do not match its checksum")
    return value


def sealed(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rows with a checksum each, over all that come before it, too: none can be changed, exchanged
    or left out unnoticed."""
    seal = hashlib.sha256()
    for row in rows:
        seal.update(canonical(row))
        yield row | {_SEAL: seal.hexdigest()[:16]}


def unsealed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without their checksums. Earlier versions wrote none.

    Raises:
        ValueError: one is not what was written.
    """
    bare = [{name: value for name, value in row.items() if name != _SEAL} for row in rows]
    if any(_SEAL in row for row in rows) and rows != list(sealed(bare)):
        raise ValueError("its contents do not match their checksums")
    return bare


def set_aside(damaged: DamagedFile, path: Path) -> None:
    """Rename a damaged file, so that it is kept to be looked at but not read again.

    Where that cannot be done, in a store that may only be read say, it stays and is passed over.
    """
    try:
        aside = put_aside(path)
    except OSError as error:
        _warn_once(f"{damaged}; it is passed over and not set aside: {error.strerror or error}")
        return
    if aside is not None:
        logger.warning("%s; it is kept as %s and computed anew", damaged, aside.name)


def put_aside(path: Path) -> Path | None:
    """Rename what nobody shall read again.

    Returns:
        Where it is now; None if another process was faster.

    Raises:
        OSError: that cannot be done.
    """
    aside = path.with_name(f"{path.name}{ASIDE}{secrets.token_hex(4)}")
    try:
        os.replace(path, aside)
    except FileNotFoundError:
        return None
    return aside


# It is there at every look.
@functools.lru_cache(maxsize=1024)
def _warn_once(words: str) -> None:
    logger.warning(words)


def stamp(path: Path) -> object:
    """Differs from an earlier one if a file was replaced or changed since, or a folder has gained
    or lost one; None if there is nothing."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    # What is this young may change within the same tick.
    if time.time_ns() - found.st_mtime_ns < _TICK:
        return object()
    return found.st_mtime_ns, found.st_ino, found.st_size


def check_writable(folder: Path) -> None:
    """Write a file into a folder and take it away again.

    Raises:
        OSError: it cannot be done; the message names the folder.
    """
    probe = folder / f".{secrets.token_hex(4)}.probe"
    write(probe, b"")
    probe.unlink(missing_ok=True)
