"""What a worker does: train a run, measure a trial, measure many in stacks."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import torch

from granet_lab.datasets import AUGMENTATIONS, DATASETS
from granet_lab.experiments import files
from granet_lab.experiments.files import DamagedFile
from granet_lab.experiments.identity import SCHEMA, describe, identity
from granet_lab.experiments.plasticity import Measurement, measure_trial
from granet_lab.experiments.progress import Stopped, Task, telling
from granet_lab.experiments.stacks import measure_together
from granet_lab.experiments.store import Run
from granet_lab.experiments.trials import Trial
from granet_lab.models import MODELS
from granet_lab.registry import Registry
from granet_lab.sparsity import allocation, criteria, regrowths
from granet_lab.training import stackable
from granet_lab.training.recipe import Recipe

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Where and under what names a task works.

    Attributes:
        root: the lab's folder.
        device: a torch device.
        definitions: see :func:`own_definitions`.
        stop: a file; once it is there, the task ends at its next epoch.
    """

    root: Path
    device: str
    definitions: bytes
    stop: Path | None = None


def result(root: Path, trial: Trial) -> dict | None:
    """What the store knows of a trial: its file's contents, None if it is not measured.

    A damaged file is set aside with a warning.
    """
    path = Run(root, trial.recipe).trial_path(identity(trial))
    try:
        return files.read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except DamagedFile as damaged:
        files.set_aside(damaged, path)
        return None


def train(place: Place, recipe: Recipe, keep: tuple[int, ...] | None) -> None:
    """Train what is left of a run."""
    _define(place.definitions)
    with contextlib.suppress(Stopped):
        run = Run(place.root, recipe)
        with telling(run, recipe, place.stop) as task:
            task.tell(max(0, len(run.rows()) - 1), recipe.epochs)
            for row in run.train(place.device, keep):
                task.tell(row["epoch"], recipe.epochs)


def room(place: Place, recipe: Recipe) -> int:
    """How many networks of a recipe should be trained at once."""
    _define(place.definitions)
    return stackable.room(recipe, place.device)


def measure(place: Place, trial: Trial) -> None:
    """Measure a trial by itself, unless another sweep of the same trials was faster."""
    _define(place.definitions)
    if result(place.root, trial) is not None:
        return
    run, of = Run(place.root, trial.recipe), trial.recovery_epochs
    with contextlib.suppress(Stopped), telling(run, trial, place.stop) as task:
        task.tell(0, of)
        found = measure_trial(
            run, trial, place.device, lambda curve: task.tell(len(curve) - 1, of, curve)
        )
        _save(run, trial, found)


def measure_pack(
    place: Place,
    trials: Sequence[Trial],
    networks: int,
    heard: Callable[[], None] | None = None,
) -> dict[Trial, str]:
    """Measure trials in stacks of so many networks.

    Args:
        place: where.
        trials: of one kind.
        networks: an even number.
        heard: is called now and then, as things go on.

    Returns:
        Those that could not be measured, and why.
    """
    _define(place.definitions)
    failed: dict[Trial, str] = {}
    left = list(trials)
    with contextlib.suppress(Stopped):
        while left := [t for t in left if t not in failed and result(place.root, t) is None]:
            if networks < 2:
                _measure_alone(place, left, failed)
                break
            try:
                _measure_stacked(place, left, networks, heard, failed)
            except Stopped:
                raise
            except Exception as error:
                full = isinstance(error, torch.OutOfMemoryError)
                networks = networks // 4 * 2 if full else 1
                how = f"{networks} at a time" if networks > 1 else "one at a time"
                logger.warning("no stack (%s): trained %s", one_line(error), how)
    return failed


def _measure_alone(place: Place, trials: Sequence[Trial], failed: dict[Trial, str]) -> None:
    for trial in trials:
        try:
            measure(place, trial)
        except Exception as error:
            failed[trial] = one_line(error)


def _measure_stacked(
    place: Place,
    trials: Sequence[Trial],
    networks: int,
    heard: Callable[[], None] | None,
    failed: dict[Trial, str],
) -> None:
    with contextlib.ExitStack() as told:
        asked = []
        for trial in trials:
            run = Run(place.root, trial.recipe)
            tell = told.enter_context(_telling(run, trial, place.stop, heard))
            try:
                asked.append(Measurement(run, trial, place.device, tell))
            except Exception as error:
                failed[trial] = one_line(error)
        for one, error in measure_together(asked, networks, place.device):
            if error is not None:
                failed[one.trial] = one_line(error)
            else:
                _save(Run(place.root, one.trial.recipe), one.trial, one.found(stacked=True))


@contextlib.contextmanager
def _telling(
    run: Run, trial: Trial, stop: Path | None, heard: Callable[[], None] | None
) -> Iterator[Callable[[list[dict[str, Any]]], None]]:
    """What is done with a trial's curve as it grows; its note is there from the first time to the
    last."""
    task = Task(run, trial, stop)

    def tell(curve: list[dict[str, Any]]) -> None:
        done = len(curve) - 1
        task.tell(done, trial.recovery_epochs, curve)
        if done == trial.recovery_epochs:
            task.end()
        if heard is not None:
            heard()

    try:
        yield tell
    finally:
        task.end()


def _save(run: Run, trial: Trial, found: dict[str, Any]) -> None:
    path = run.trial_path(identity(trial))
    files.write_json(path, {"schema": SCHEMA, "trial": describe(trial), **found})


_SHIPPED: dict[str, Registry] = {
    "criteria": criteria.CRITERIA,
    "regrowths": regrowths.REGROWTHS,
    "datasets": DATASETS,
    "models": MODELS,
    "allocations": allocation.SCHEMES,
    "augmentations": AUGMENTATIONS,
}


def own_definitions() -> bytes:
    """What was defined by name outside the package, in a notebook say: workers need it too."""
    return cloudpickle.dumps([(name, entries.added()) for name, entries in _SHIPPED.items()])


# Once in a worker and sweep: a dataset that were defined anew for each trial would be loaded anew.
@functools.lru_cache(maxsize=1)
def _define(definitions: bytes) -> None:
    for name, entries in cloudpickle.loads(definitions):
        for entry in entries:
            _SHIPPED[name].register(entry)


def one_line(error: BaseException) -> str:
    """An error for a table."""
    return " ".join(f"{type(error).__name__}: {error}".split())
