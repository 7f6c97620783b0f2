"""What is defined by name outside the package, in a notebook say: how workers get to know it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle

from granet_lab.datasets import AUGMENTATIONS, DATASETS
from granet_lab.experiments import files
from granet_lab.experiments.execution import presence
from granet_lab.experiments.execution.telling import NOTES
from granet_lab.models import MODELS
from granet_lab.registry import Registry
from granet_lab.sparsity import allocation, criteria, regrowths

_SHIPPED: dict[str, Registry] = {
    "criteria": criteria.CRITERIA,
    "regrowths": regrowths.REGROWTHS,
    "datasets": DATASETS,
    "models": MODELS,
    "allocations": allocation.SCHEMES,
    "augmentations": AUGMENTATIONS,
}
# Bytes that may travel with every task: a function or two. A dataset lies in the store meanwhile.
_LIGHT = 2**16


class _Entry(NamedTuple):
    """One of them: its function as a pickle, or why there is none."""

    registry: str
    name: str
    module: str
    content: bytes
    why: str = ""


@dataclass(frozen=True)
class Definitions:
    """What was defined by name outside the package, on its way to a worker.

    Attributes:
        digest: of what was packed, SHA-256: nothing else is unpacked, wherever it comes from.
        maker: the process in which it is defined.
        content: what was packed; None: it lies in a file.
        path: the file.
    """

    digest: str
    maker: str = field(compare=False)
    content: bytes | None = field(compare=False)
    path: Path | None = field(default=None, compare=False)

    @contextlib.contextmanager
    def carried(self, root: Path) -> Iterator[Definitions]:
        """The same, light enough to travel with every task; heavy ones lie in the lab's folder for
        the length of the block.

        Raises:
            OSError: the folder cannot be written.
        """
        if self.content is None or len(self.content) <= _LIGHT:
            yield self
            return
        path = root / NOTES / f"{secrets.token_hex(8)}.definitions"
        files.write(path, self.content, durable=False)
        try:
            yield replace(self, content=None, path=path)
        finally:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def unpacked(self) -> list[_Entry]:
        """What was packed.

        Raises:
            OSError: the file is not there.
            DamagedFile: it is another one.
        """
        content = self.path.read_bytes() if self.content is None else self.content
        if hashlib.sha256(content).hexdigest() != self.digest:
            raise files.DamagedFile(self.path, "it is not what this sweep has defined")
        return cloudpickle.loads(content)


def own() -> Definitions:
    """What this process has defined; what cannot be pickled stays behind, and says so there."""
    entries = [
        _pack(registry, function)
        for registry, known in _SHIPPED.items()
        for function in known.added()
    ]
    content = cloudpickle.dumps(entries)
    return Definitions(hashlib.sha256(content).hexdigest(), _me(), content)


def define(definitions: Definitions) -> None:
    """Register what :func:`own` has packed elsewhere.

    What cannot be unpacked fails where it is used, and says why.
    """
    if definitions.maker != _me():  # where it is defined already, as itself and not as a copy
        _define(definitions)


# Once in a worker and sweep: a dataset that were defined anew for each trial would be loaded anew.
@functools.lru_cache(maxsize=1)
def _define(definitions: Definitions) -> None:
    for entry in definitions.unpacked():
        _SHIPPED[entry.registry].register(_unpack(entry))


def _pack(registry: str, function: Callable[..., Any]) -> _Entry:
    name, module = function.__name__, function.__module__
    try:
        return _Entry(registry, name, module, cloudpickle.dumps(function))
    except Exception as error:
        return _Entry(registry, name, module, b"", f"{type(error).__name__}: {error}")


def _unpack(entry: _Entry) -> Callable[..., Any]:
    if entry.why:
        return _missing(entry, entry.why)
    try:
        return cloudpickle.loads(entry.content)
    except Exception as error:
        return _missing(entry, f"{type(error).__name__}: {error}")


def _missing(entry: _Entry, why: str) -> Callable[..., Any]:
    """In place of a function that did not come."""
    kind = _SHIPPED[entry.registry].kind

    def missing(*_: Any, **__: Any) -> Any:
        raise RuntimeError(f"{kind} {entry.name!r} cannot be brought to another process: {why}")

    missing.__name__, missing.__module__ = entry.name, entry.module
    return missing


def _me() -> str:
    return f"{presence.here()} {os.getpid()}"
