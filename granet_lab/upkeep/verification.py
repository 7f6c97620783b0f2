"""Whether everything in a lab's folder is what was written, and belongs where it lies."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from granet_lab.experiments import checkpoints, files
from granet_lab.experiments.execution import claims
from granet_lab.experiments.execution.progress import busy
from granet_lab.experiments.execution.telling import NOTES
from granet_lab.experiments.files import ASIDE, DamagedFile
from granet_lab.experiments.identity import folder_name, identified, identity, restore
from granet_lab.experiments.store import Run, complete, read_rows
from granet_lab.experiments.trials import Trial
from granet_lab.training.recipe import Recipe
from granet_lab.upkeep.leftovers import ABANDONED, age, is_aside, leftovers

# Not what was written; whole, but of nothing that is there; begun by somebody and not at its end;
# of no use to anybody; whole, but made by names that are not here, a notebook's criterion, say.
DAMAGED, ORPHANED, UNFINISHED, LEFTOVER = "damaged", "orphaned", "unfinished", "leftover"
UNKNOWN = "unknown"
KINDS = (DAMAGED, ORPHANED, UNFINISHED, LEFTOVER, UNKNOWN)
# What the folder of a run is called.
RUN = re.compile(r".+-[0-9a-f]{16}")
_ASKED = "who asks for the run again, or repairs the lab, finds it all the same"
# What reading a file comes to that describes no run or trial.
_UNLIKE = (ValueError, KeyError, TypeError, AttributeError)


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be.

    Attributes:
        path: of the file or folder.
        kind: one of :data:`KINDS`.
        why: in words.
    """

    path: Path
    kind: str
    why: str


def verify(root: Path, progress: bool = False) -> Iterator[Finding]:
    """Read a whole lab; nothing is changed.

    Args:
        root: its folder. Somebody may be at work in it.
        progress: whether to show a bar, on a terminal.

    Raises:
        ValueError: there is no such folder.
    """
    if not root.is_dir():
        raise ValueError(f"there is no lab {root}")
    yield from _leftovers(root)
    yield from _leftovers(root / NOTES)
    folders = [path for path in sorted(root.iterdir()) if path.is_dir() and _is_looked_into(path)]
    disable = None if progress else True  # None: where there is no terminal
    for folder in tqdm(folders, unit="run", leave=False, disable=disable):
        yield from verify_run(folder)


def _is_looked_into(folder: Path) -> bool:
    """Whether it is a run's folder, and not somebody's own."""
    named = RUN.fullmatch(folder.name) is not None or (folder / "recipe.json").exists()
    return named and not folder.name.startswith(".") and not is_aside(folder)


def verify_run(folder: Path) -> Iterator[Finding]:
    """Read a whole run; nothing is changed.

    Args:
        folder: of the run.
    """
    for part in ("", "checkpoints", "trials", "failures", NOTES):
        yield from _leftovers(folder / part)
    path = folder / "recipe.json"
    try:
        recipe, home, unknown = _recipe(files.read_json(path)["recipe"])
    except FileNotFoundError:
        yield from _without_recipe(folder)
        return
    except _UNLIKE as error:
        yield Finding(path, DAMAGED, _words(error, path))
        yield from _parts(folder, None)
        return
    if home != folder.name:
        yield Finding(folder, ORPHANED, f"its recipe belongs into {home}")
        return
    if recipe is None:
        yield Finding(path, UNKNOWN, unknown)
    yield from _parts(folder, recipe)


def _without_recipe(folder: Path) -> Iterator[Finding]:
    if under_way(folder) or _new(folder):
        yield Finding(folder, UNFINISHED, "it has no recipe.json yet")
    elif (folder / "recipe.json").exists():  # somebody has begun and ended it meanwhile
        yield from verify_run(folder)
    elif any(folder.glob("history.jsonl")):
        yield Finding(folder, UNFINISHED, f"it has no recipe.json: {_ASKED}")
        yield from _parts(folder, None)
    else:
        yield Finding(folder, ORPHANED, "it has no recipe.json: nobody will look into it")


def _parts(folder: Path, recipe: Recipe | None) -> Iterator[Finding]:
    """Everything in a run's folder but its recipe, which may not be known here."""
    yield from _environment(folder)
    # Listed before the history is read: somebody at work writes a row, then its checkpoint.
    listed = sorted(folder.glob("checkpoints/*.safetensors"))
    history = folder / "history.jsonl"
    rows: list[dict[str, Any]] | None = None
    try:
        rows = read_rows(folder)
    except DamagedFile as damaged:
        yield Finding(history, DAMAGED, _words(damaged, history))
    # Where the history is damaged, or was, the checkpoints are made anew together with it.
    lost = rows is None or any(folder.glob(f"{history.name}{ASIDE}*"))
    yield from _checkpoints(folder, listed, None if lost else len(rows))
    yield from _trials(folder / "trials")
    yield from _trials(folder / "failures")
    if rows is not None and recipe is not None and not complete(recipe, rows):
        done = max(0, len(rows) - 1)
        yield Finding(folder, UNFINISHED, f"{done} of {recipe.epochs} epochs are trained")


def _beyond(folder: Path, epoch: int) -> bool:
    """Whether the history, looked at again, does not come to an epoch, and nobody is on the way."""
    try:
        return not under_way(folder) and epoch >= len(read_rows(folder))
    except DamagedFile:  # which is a finding of its own
        return False


def under_way(folder: Path) -> bool:
    """Whether a process that may still be there works in a run's folder."""
    claimed = claims.held(folder) and age(claims.path_of(folder)) < ABANDONED
    return claimed or busy(folder)


def _new(folder: Path) -> bool:
    """Whether a run's folder was made a while ago at most, and nothing in it yet: its recipe comes
    first."""
    made = {path.name for path in folder.glob("*")} - {NOTES, "environment.json"}
    return age(folder) < ABANDONED and all(name.startswith(".") for name in made)


def _environment(folder: Path) -> Iterator[Finding]:
    path = folder / "environment.json"
    try:
        files.read_json(path)
    except FileNotFoundError:
        return
    except DamagedFile as damaged:
        yield Finding(path, DAMAGED, _words(damaged, path))


def _checkpoints(folder: Path, listed: list[Path], reached: int | None) -> Iterator[Finding]:
    """Damage, and epochs that a history of so many rows does not reach; None: nobody knows."""
    for path in listed:
        try:
            epoch = checkpoints.epoch_of(path)
        except DamagedFile as damaged:
            yield Finding(path, DAMAGED, _words(damaged, path))
            continue
        except FileNotFoundError:  # taken away meanwhile
            continue
        if path.stem != f"{epoch:04d}":
            yield Finding(path, DAMAGED, f"it holds epoch {epoch}")
        elif reached is not None and epoch >= reached and _beyond(folder, epoch):
            yield Finding(path, ORPHANED, "the history does not come so far")


def _trials(folder: Path) -> Iterator[Finding]:
    """What was measured, or why it could not be."""
    for path in sorted(folder.glob("[!.]*.json")):
        try:
            home, name, unknown = _trial(files.read_json(path)["trial"])
        except FileNotFoundError:
            continue
        except _UNLIKE as error:
            yield Finding(path, DAMAGED, _words(error, path))
            continue
        right = folder.parent.parent / home / folder.name / f"{name}.json"
        if path != right:
            yield Finding(path, DAMAGED, f"it holds the trial of {right}")
        elif unknown:
            yield Finding(path, UNKNOWN, unknown)


# A description of what is not known here says all the same where it belongs: its checksum is right,
# and it is refused for what it names.


def _recipe(described: Any) -> tuple[Recipe | None, str, str]:
    """A recipe, the name of its folder, and why it is not known here, if it is not."""
    try:
        recipe = restore(Recipe, described)
    except ValueError as error:
        return None, folder_name(described), _line(error)
    return recipe, Run(Path(), recipe).path.name, ""


def _trial(described: Any) -> tuple[str, str, str]:
    """The name of a trial's folder, its own, and why it is not known here, if it is not."""
    try:
        trial = restore(Trial, described)
    except ValueError as error:
        return folder_name(described["recipe"]), identified("Trial", described), _line(error)
    return Run(Path(), trial.recipe).path.name, identity(trial), ""


def _leftovers(folder: Path) -> Iterator[Finding]:
    for path, why in leftovers(folder):
        yield Finding(path, LEFTOVER, why)


def _words(error: Exception, path: Path) -> str:
    """Why, without the path, which stands beside it."""
    return _line(str(error).removeprefix(f"{path} is damaged: "))


def _line(words: object) -> str:
    return " ".join(str(words).split())
