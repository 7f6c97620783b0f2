"""A lab's folder: listed, checked, thinned, passed on."""

# Torch and the rest are imported inside the commands, so that --help answers at once.
from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from granet_lab.cli.common import LAB
from granet_lab.wording import counted

if TYPE_CHECKING:
    from granet_lab import Lab


def runs(*, lab: Path = LAB) -> None:
    """List what a lab holds.

    Args:
        lab: Folder of the runs.
    """
    table = _there(lab).runs()
    print(table.round(2).to_string(index=False) if len(table) else f"{lab} holds no runs yet")


def verify(*, lab: Path = LAB, repair: bool = False, clean: bool = False) -> None:
    """Read a whole lab, and name what is damaged, orphaned, unfinished or left over.

    Exits with 1 if something is damaged or orphaned and stays so. A recipe that is lost is repaired
    from the run's trials, or written anew when the run is asked for.
    Example: granet-lab verify --repair

    Args:
        lab: Folder of the runs.
        repair: Set aside what is damaged or orphaned; it is computed anew when it is asked for.
        clean: Take away what is left over; what was set aside as damaged is gone then.
    """
    from collections import Counter

    from tqdm import tqdm

    from granet_lab.upkeep import leftovers, repairing, verification

    found: Counter[str] = Counter()
    unknown: Counter[tuple[Path, str]] = Counter()
    bad = 0
    for finding in verification.verify(lab, progress=True):
        found[finding.kind] += 1
        if finding.kind == verification.UNKNOWN:  # there may be thousands
            unknown[finding.path.parent, finding.why] += 1
            continue
        done = repairing.repair(finding) if repair else ""
        if clean and finding.kind == verification.LEFTOVER and leftovers.take_away(finding.path):
            done = "taken away"
        said = f"{finding.kind}: {finding.path}: {finding.why}"
        tqdm.write(f"{said}; {done}" if done else said)  # beside the bar
        bad += finding.kind in (verification.DAMAGED, verification.ORPHANED) and not done
    for (folder, why), n in unknown.items():
        print(f"{verification.UNKNOWN}: {folder}: {counted(n, 'file')}: {why}")
    print(", ".join(f"{found[kind]} {kind}" for kind in verification.KINDS))
    if bad:
        sys.exit(1)


def prune_store(
    *,
    every: int | None = None,
    unneeded: bool = False,
    yes: bool = False,
    lab: Path = LAB,
) -> None:
    """Thin checkpoints of finished runs, after saying what that frees.

    An epoch without one is reached again by training on from the nearest earlier one.
    Example: granet-lab prune-store --every 10

    Args:
        every: Keep only every so many-th epoch, the first and the last.
        unneeded: Keep only epochs that a measured trial branches from, the first and the last.
        yes: Do it; else it is only said.
        lab: Folder of the runs.
    """
    from granet_lab.upkeep.thinning import thin

    place = _there(lab)
    found = [one for one in thin(place, every, unneeded) if one.epochs]
    if not found:
        print("there is nothing to free")
        return
    for one in found:
        print(
            f"{one.run.path.name}: {counted(len(one.epochs), 'checkpoint')} less, "
            f"{len(one.kept)} left, {one.bytes / 1e6:.1f} MB"
        )
        if yes:
            one.take()
    freed = sum(one.bytes for one in found) / 1e6
    print(f"{freed:.1f} MB " + ("freed" if yes else "would be freed; do it with --yes"))


def export(
    out: tyro.conf.Positional[Path],
    *,
    run: tuple[str, ...] = (),
    checkpoints: bool = True,
    lab: Path = LAB,
) -> None:
    """Pack runs into one file for a colleague, or all that was measured into a table.

    What is there is not written over.
    Example: granet-lab export for_ada.tar --no-checkpoints

    Args:
        out: A .tar or .tar.gz of runs; or a .csv, the table of all measured trials.
        run: Names of runs, as granet-lab runs lists them; by default all.
        checkpoints: Whether they come along: most of the size.
        lab: Folder of the runs.
    """
    from granet_lab import write_table
    from granet_lab.upkeep import sharing

    place = _there(lab)
    if out.suffix != ".csv" and not out.name.endswith((".tar", ".tar.gz")):
        raise ValueError(f"{out} must end in .tar, .tar.gz or .csv")
    if out.exists():
        raise ValueError(f"{out} is there already: choose another name or take it away")
    if out.suffix == ".csv":
        table = sharing.measured(place, run)
        write_table(table, out, place.device)
        print(f"{out}: {counted(len(table), 'trial')}")
        return
    packed = sharing.pack(place, out, run, checkpoints)
    print(f"{out}: {counted(len(packed), 'run')}, {out.stat().st_size / 1e6:.1f} MB")


def import_(file: tyro.conf.Positional[Path], *, lab: Path = LAB) -> None:
    """Check what a colleague has packed, and add it to a lab.

    What the lab has stays. If anything in the file is not what was written, nothing is added.
    Trials of a criterion that a notebook defines come along, to be read where it is defined.
    Example: granet-lab import for_me.tar

    Args:
        file: What granet-lab export wrote.
        lab: Folder of the runs.
    """
    from granet_lab import Lab
    from granet_lab.upkeep import sharing

    sharing.check(file)  # before there is a lab for nothing
    found = sharing.merge(Lab(lab), file)
    for path, why in found.kept.items():
        print(f"left out: {path}: {why}")
    if found.unknown:
        why = ", ".join(sorted({why.partition(":")[0] for why in found.unknown.values()}))
        print(f"{counted(len(found.unknown), 'trial')} let in that cannot be read here: {why}")
    added = counted(len(found.added), "file")
    print(f"{added} added, {found.known} were there, {len(found.kept)} left out")


def _there(lab: Path) -> Lab:
    from granet_lab import Lab

    if not lab.is_dir():
        raise ValueError(f"there is no lab {lab}: make one with granet-lab train --lab {lab}")
    return Lab(lab)
