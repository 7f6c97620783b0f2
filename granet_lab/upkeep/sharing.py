"""Runs in one file, for a colleague: packed, checked, merged."""

from __future__ import annotations

import contextlib
import gzip
import lzma
import re
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from granet_lab.experiments import files
from granet_lab.experiments.files import DamagedFile
from granet_lab.experiments.identity import restore
from granet_lab.experiments.lab import Lab
from granet_lab.experiments.store import Run
from granet_lab.experiments.tidy import tidy, trial_columns
from granet_lab.experiments.trials import Trial
from granet_lab.upkeep.verification import DAMAGED, ORPHANED, UNKNOWN, verify, verify_run

# What a run consists of, below its folder; nothing else is packed, and nothing else let in.
_PARTS = re.compile(
    r"recipe\.json|environment\.json|history\.jsonl"
    r"|trials/[0-9a-f]{16}\.json|checkpoints/\d{4,}\.safetensors"
)
_FOLDER = re.compile(r"[^/\\.][^/\\]*")


@dataclass
class Merged:
    """What an import did.

    Attributes:
        added: files that are new in the lab.
        known: how many were there already, and the same.
        kept: files of which the lab has another version, which stays, and why.
        unknown: trials among the new files that name what is not known here, and what.
    """

    added: list[Path] = field(default_factory=list)
    known: int = 0
    kept: dict[Path, str] = field(default_factory=dict)
    unknown: dict[Path, str] = field(default_factory=dict)


def pack(lab: Lab, path: Path, runs: Iterable[str] = (), checkpoints: bool = True) -> list[Run]:
    """Write runs of a lab into a tar file, compressed if its name ends in ``.gz``.

    Args:
        lab: whose.
        path: of the file, which appears whole or not at all.
        runs: names of their folders; by default all.
        checkpoints: whether they come along: most of the size.

    Returns:
        The runs in it.

    Raises:
        ValueError: a run that the lab does not have, or that is damaged, or there is none.
        OSError: the file cannot be written.
    """
    packed = chosen(lab, runs)
    if not packed:
        raise ValueError(f"{lab.path} holds no runs")
    for run in packed:
        _check_whole(run, checkpoints)
    mode = "w:gz" if path.suffix == ".gz" else "w"
    try:
        with files.appearing(path) as file, tarfile.open(fileobj=file, mode=mode) as archive:
            for run in packed:
                for part in _parts(run.path, checkpoints):
                    with contextlib.suppress(FileNotFoundError):  # taken away meanwhile
                        archive.add(part, f"{run.path.name}/{part.relative_to(run.path)}", False)
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error
    return packed


def _check_whole(run: Run, checkpoints: bool) -> None:
    """Refuse a run whose reader would refuse it."""
    for found in verify_run(run.path):
        passed_on = checkpoints or found.path.parent.name != "checkpoints"
        if found.kind in (DAMAGED, ORPHANED) and passed_on:
            how = "granet-lab verify --repair sets it aside"
            raise ValueError(f"{found.path} is {found.kind}: {found.why}; {how}")


def chosen(lab: Lab, names: Iterable[str] = ()) -> list[Run]:
    """The runs whose folders have those names; by default all.

    Raises:
        ValueError: a run that the lab does not have.
    """
    there = {run.path.name: run for run in map(lab.run, lab.recipes())}
    for name in (wanted := list(names)):
        if name not in there:
            raise ValueError(f"there is no run {name!r} in {lab.path}: granet-lab runs lists them")
    return [there[name] for name in wanted or there]


def measured(lab: Lab, runs: Iterable[str] = ()) -> pd.DataFrame:
    """The tidy table of all that is measured, by criteria that are not known here, too.

    Args:
        lab: where.
        runs: names of their folders; by default all.

    Raises:
        ValueError: a run that the lab does not have.
    """
    rows = []
    for run in chosen(lab, runs):
        for path in sorted(run.path.glob("trials/[!.]*.json")):
            try:
                found = files.read_json(path)
                names = {"run": run.path.name, "trial": path.stem}
                rows.append(_asked(found["trial"]) | found["row"] | names)
            except FileNotFoundError:  # taken away meanwhile
                continue
            except DamagedFile as damaged:
                files.set_aside(damaged, path)
    return tidy(rows)


def _asked(described: dict[str, Any]) -> dict[str, Any]:
    """The columns that say what was asked; what is not known here has them in its row alone."""
    try:
        return trial_columns(restore(Trial, described))
    except ValueError:
        return {}


def _parts(folder: Path, checkpoints: bool) -> list[Path]:
    found = [p for p in folder.rglob("*") if p.is_file() and _is_part(p.relative_to(folder))]
    # As a run is written: who looks on sees one that goes on.
    order = {"recipe.json": 0, "environment.json": 1, "history.jsonl": 2}
    return sorted(
        (p for p in found if checkpoints or p.parent.name != "checkpoints"),
        key=lambda path: (order.get(path.name, len(order)), path),
    )


def _is_part(path: Path) -> bool:
    return _PARTS.fullmatch(path.as_posix()) is not None


def merge(lab: Lab, path: Path) -> Merged:
    """Add what a file of :func:`pack` holds to a lab.

    Everything is checked before anything is added. A trial that names what is not known here, a
    criterion of a notebook, say, is let in if its name and its run's fit it. What the lab has
    stays: a finished trial is not replaced, and where a run's history is another one (trained
    elsewhere), its checkpoints are left out: they would not fit.

    Args:
        lab: is added to.
        path: of the file.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: it is not such a file, or what is in it is not what was written. The lab is as
            before then.
    """
    files.check_writable(lab.path)
    with tempfile.TemporaryDirectory(prefix=".import-", dir=lab.path) as name:
        folder = Path(name)
        for part, content in _members(path):
            place = folder / part
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        for run in folder.iterdir():
            if not (run / "recipe.json").exists():
                raise ValueError(f"{path} is not imported: {run.name} has no recipe.json")
        found = Merged()
        for finding in verify(folder):
            where = finding.path.relative_to(folder)
            if finding.kind in (DAMAGED, ORPHANED):
                raise ValueError(
                    f"{path} is not imported: {where} is {finding.kind}: {finding.why}"
                )
            if finding.kind == UNKNOWN and where.name == "recipe.json":
                raise ValueError(
                    f"{path} is not imported: {where}: {finding.why}; "
                    "granet_lab.upkeep.sharing.merge does it in a notebook where it is defined"
                )
            if finding.kind == UNKNOWN:
                found.unknown[lab.path / where] = finding.why
        theirs = Lab(folder, "cpu")
        for run in map(theirs.run, theirs.recipes()):
            _merge_run(run, lab.run(run.recipe), found)
    found.unknown = {one: found.unknown[one] for one in found.added if one in found.unknown}
    return found


def check(path: Path) -> None:
    """Read a file of :func:`pack` from its beginning to its end; nothing is written.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not such a file, or not whole.
    """
    for _ in _members(path):
        pass


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    """The parts of runs by their names, and what they hold; anything else is refused."""
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                run, _, part = member.name.partition("/")
                if not (member.isreg() and _FOLDER.fullmatch(run) and _PARTS.fullmatch(part)):
                    raise ValueError(f"{path} is not imported: {member.name!r} is no part of a run")
                yield member.name, archive.extractfile(member).read()
            _check_end(archive)
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile):
        raise ValueError(f"{path} is not a whole tar file") from None


def _check_end(archive: tarfile.TarFile) -> None:
    """Refuse an archive that ends without two blocks of zeros, or within a record: it was cut off,
    perhaps between two members, which tarfile takes for the end."""
    archive.fileobj.seek(archive.offset)
    rest = archive.fileobj.read()
    closed = len(rest) >= 2 * tarfile.BLOCKSIZE and not any(rest)
    if not closed or (archive.offset + len(rest)) % tarfile.RECORDSIZE:
        raise tarfile.ReadError


def _merge_run(new: Run, own: Run, found: Merged) -> None:
    theirs, ours = new.rows(), own.rows()
    shared = min(len(theirs), len(ours))
    alike = [_numbers(row) for row in theirs[:shared]] == [_numbers(r) for r in ours[:shared]]
    history = own.path / "history.jsonl"
    for part in _parts(new.path, checkpoints=True):
        place = own.path / part.relative_to(new.path)
        if part.name == history.name and alike and len(theirs) > len(ours):
            files.write(place, part.read_bytes())
            found.added.append(place)
        elif part.parent.name == "checkpoints" and not alike:
            found.kept[place] = "the run's history is another one here"
        elif not place.exists():
            files.write(place, part.read_bytes())
            found.added.append(place)
        elif (
            (part.name == history.name and alike)
            or part.parent.name == "checkpoints"  # of the same history; written in another order
            or place.read_bytes() == part.read_bytes()
            or part.name == "environment.json"
        ):
            found.known += 1
        else:
            found.kept[place] = "it is another one here"


def _numbers(row: dict[str, Any]) -> dict[str, Any]:
    """Without how long it took, and with which version."""
    return {name: value for name, value in row.items() if name not in ("seconds", "version")}
