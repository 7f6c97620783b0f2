"""What a worker does: train a run, measure a trial, measure many in stacks."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from granet_lab.experiments import files
from granet_lab.experiments.execution import failures
from granet_lab.experiments.execution.claims import Claims
from granet_lab.experiments.execution.definitions import Definitions, define
from granet_lab.experiments.execution.progress import named
from granet_lab.experiments.execution.telling import Stopped, Teller, is_set
from granet_lab.experiments.files import DamagedFile
from granet_lab.experiments.identity import SCHEMA, describe, identity
from granet_lab.experiments.loading import Loader
from granet_lab.experiments.plasticity import Measurement
from granet_lab.experiments.store import Run
from granet_lab.experiments.trained import train_alone, train_together
from granet_lab.experiments.trainings import Training
from granet_lab.experiments.trials import Trial
from granet_lab.training import stackable
from granet_lab.training.arithmetic import threads
from granet_lab.training.recipe import Recipe

# A run to train, or a trial to measure.
Work = Recipe | Trial
# Of the checkpoints that are kept; None: all.
Epochs = tuple[int, ...] | None

logger = logging.getLogger(__name__)

# Seconds between two looks whether somebody else has trained a run.
_WAIT = 0.3

# One task at a time in a process, however many threads an executor has there: how torch computes is
# said for the whole process.
_TURN = threading.Lock()
# What a process has trained again last is there for its next task, too.
LOADER = Loader()


@dataclass(frozen=True)
class Place:
    """Where and under what names a task works.

    Attributes:
        root: the lab's folder.
        device: a torch device.
        definitions: what is defined by name outside the package.
        stop: a file; once it is there, the task ends at its next steps.
    """

    root: Path
    device: str
    definitions: Definitions
    stop: Path | None = None

    @property
    def on_cpu(self) -> bool:
        """Whether that is where networks are trained."""
        return torch.device(self.device).type == "cpu"


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


def room(place: Place, recipe: Recipe) -> int:
    """How many networks of a recipe should be trained at once."""
    with _TURN:
        define(place.definitions)
        return stackable.room(recipe, place.device)


def carry_out(
    place: Place,
    pack: Sequence[Work],
    networks: int,
    keep: Mapping[Recipe, Epochs],
    heard: Callable[[], None] | None = None,
) -> dict[Work, str]:
    """Train runs, or measure trials, in stacks of so many networks.

    What another sweep has done meanwhile is not done again; a run that somebody else is training is
    waited for.

    Args:
        place: where.
        pack: of one kind.
        networks: an even number; 1: each alone.
        keep: of runs the epochs whose checkpoints are kept, if not all.
        heard: is called now and then, as things go on.

    Returns:
        What could not be done, and why.
    """
    task, left, claims = _Task(place, keep, heard), list(pack), Claims()
    with _TURN, contextlib.suppress(Stopped), threads(recipe_of(pack[0]).threads):
        define(place.definitions)
        while left := [work for work in left if not task.over(work)]:
            if is_set(place.stop):
                raise Stopped
            with _claimed(place, left, claims) as mine:
                if mine:
                    networks = task.work(mine, networks)
                else:
                    task.hear()
                    time.sleep(_WAIT)
    return task.failed


@contextlib.contextmanager
def _claimed(place: Place, works: Sequence[Work], claims: Claims) -> Iterator[list[Work]]:
    """Those that nobody else does; trials are anybody's, as they come whole or not at all."""
    if isinstance(works[0], Trial):
        yield list(works)
        return
    with contextlib.ExitStack() as held:
        mine = [w for w in works if held.enter_context(claims.claimed(Run(place.root, w)))]
        # Somebody may have come to its end just now.
        yield [w for w in mine if not done(place.root, w)]


def recipe_of(work: Work) -> Recipe:
    """The recipe of the run that is trained, or that a trial branches from."""
    return work.recipe if isinstance(work, Trial) else work


def done(root: Path, work: Work) -> bool:
    """Whether the store has it."""
    if isinstance(work, Trial):
        return result(root, work) is not None
    return Run(root, work).finished


class _Task:
    """What one worker was asked to do at once.

    Attributes:
        failed: what could not be done, and why.
    """

    def __init__(
        self, place: Place, keep: Mapping[Recipe, Epochs], heard: Callable[[], None] | None
    ) -> None:
        self.failed: dict[Work, str] = {}
        self._place, self._keep = place, keep
        self._saved: set[Work] = set()
        self._teller = Teller(place.stop)
        self.hear = heard or (lambda: None)

    def over(self, work: Work) -> bool:
        """Whether nothing more is to be done about it, as somebody has done it or it failed."""
        return work in self.failed or work in self._saved or done(self._place.root, work)

    def work(self, works: list[Work], networks: int) -> int:
        """Do all of them; or find that so many networks are too many, and return how many are
        not."""
        # A lane without a network costs a GPU as much as one with; on a CPU a network alone would
        # be rounded differently.
        if networks < 2 or (len(works) == 1 and not self._place.on_cpu):
            for work in works:
                if not self.over(work):
                    self._alone(work)
            return networks
        try:
            self._together(works, networks)
        except Stopped:
            raise
        except Exception as error:
            full = isinstance(error, torch.OutOfMemoryError)
            # Two are rounded like any number of them; one alone is not.
            fewer = 2 if self._place.on_cpu and networks > 2 else 1
            networks = networks // 4 * 2 if full else fewer
            how = f"{networks} at a time" if networks > 1 else "one at a time"
            logger.warning("no stack (%s): trained %s", one_line(error), how)
        return networks

    def _alone(self, work: Work) -> None:
        try:
            with self._asked(work) as one:
                for _ in train_alone(one, self._place.device):
                    pass
                self._save(one, stacked=False)
        except Stopped:
            raise
        except Exception as error:
            self.failed[work] = one_line(error)

    def _together(self, works: Sequence[Work], networks: int) -> None:
        with contextlib.ExitStack() as told:
            asked: dict[Measurement | Training, Work] = {}
            for work in works:
                try:
                    asked[told.enter_context(self._asked(work))] = work
                except Exception as error:
                    self.failed[work] = one_line(error)

            def there(one: Measurement | Training) -> bool:
                return done(self._place.root, asked[one])

            for one, error in train_together(asked, networks, self._place.device, there):
                try:
                    if error is not None:
                        raise error
                    self._save(one, stacked=True)
                except (Stopped, torch.OutOfMemoryError):
                    raise
                except Exception as error:
                    self.failed[asked[one]] = one_line(error)
                self._end(asked[one])

    @contextlib.contextmanager
    def _asked(self, work: Work) -> Iterator[Measurement | Training]:
        """A run or a trial, not begun, that tells of itself; after the block it is over."""
        run, device = Run(self._place.root, recipe_of(work)), self._place.device
        of = work.recovery_epochs if isinstance(work, Trial) else work.epochs
        check = self._teller.check

        def tell(done: int, curve: Sequence[dict[str, Any]] = ()) -> None:
            self._teller.tell(run.path, named(work), done, of, curve)
            self.hear()

        try:
            if isinstance(work, Trial):
                yield Measurement(
                    run, work, device, lambda c: tell(len(c) - 1, c), check, LOADER.load
                )
            else:
                keep = self._keep.get(work)
                training = Training(run, device, keep, lambda row: tell(row["epoch"]), check)
                with contextlib.closing(training):
                    yield training
        finally:
            self._end(work)

    def _end(self, work: Work) -> None:
        self._teller.end(Run(self._place.root, recipe_of(work)).path, named(work))

    def _save(self, one: Measurement | Training, stacked: bool) -> None:
        """Write a trial down; a run writes itself as it goes on."""
        if isinstance(one, Training):
            return
        run, name = Run(self._place.root, one.recipe), identity(one.trial)
        found = one.found(stacked)
        run.describe(self._place.device)  # nobody would find a trial of a run without a recipe
        files.write_json(
            run.trial_path(name), {"schema": SCHEMA, "trial": describe(one.trial), **found}
        )
        failures.clear(run, one.trial)
        self._saved.add(one.trial)


def one_line(error: BaseException) -> str:
    """An error for a table."""
    return " ".join(f"{type(error).__name__}: {error}".split())
