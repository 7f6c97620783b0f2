"""What was found in a lab's folder, mended as far as that can be."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from granet_lab.experiments import files
from granet_lab.experiments.identity import SCHEMA, folder_name
from granet_lab.upkeep.verification import DAMAGED, ORPHANED, RUN, UNFINISHED, Finding, under_way

_RECIPE = "recipe.json"


def repair(finding: Finding) -> str:
    """Set aside what is damaged or orphaned, so that it is computed anew when somebody asks for it.

    A run that has lost its recipe gets it again from a trial that tells it. Where none does, and
    nothing was trained, its folder is set aside as a whole, unless somebody works there. A folder
    that was renamed has its name again; a copy beside the run itself stays.

    Returns:
        What was done, in words; "" if nothing was.

    Raises:
        OSError: a name cannot be changed, or the recipe not be written.
    """
    path = finding.path
    if path.is_dir() and finding.kind in (ORPHANED, UNFINISHED):
        return _bring_home(path) or _find_recipe(path)
    if finding.kind not in (DAMAGED, ORPHANED) or files.put_aside(path) is None:
        return ""
    mended = _find_recipe(path.parent) if path.name == _RECIPE else ""
    return mended or "set aside"


def _bring_home(folder: Path) -> str:
    """Give a folder that was renamed the name that its recipe says, if nothing is there."""
    try:
        home = folder.with_name(folder_name(files.read_json(folder / _RECIPE)["recipe"]))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return ""
    if home.exists() or under_way(folder):
        return ""
    folder.rename(home)
    return f"it is {home.name} again"


def _find_recipe(folder: Path) -> str:
    """Give a run its recipe again, or give the run up; what was done."""
    if (folder / _RECIPE).exists() or not RUN.fullmatch(folder.name):
        return ""
    recipe = _told(folder)
    if recipe is not None:
        files.write_json(folder / _RECIPE, {"schema": SCHEMA, "recipe": recipe})
        return "its recipe is there again, as a trial tells it"
    if any(folder.glob("history.jsonl")) or under_way(folder) or files.put_aside(folder) is None:
        return ""
    return "the folder is set aside, as nothing tells its recipe"


def _told(folder: Path) -> dict[str, Any] | None:
    """A run's recipe as one of its trials describes it, if the folder's name says the same."""
    for path in sorted(folder.glob("*/[!.]*.json")):
        # A file may be damaged, or of something else.
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
            recipe = files.read_json(path)["trial"]["recipe"]
            if folder_name(recipe) == folder.name:
                return recipe
    return None
