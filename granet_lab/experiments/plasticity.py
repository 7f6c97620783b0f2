"""The measurement: prune a trained network at an epoch, train on, see how much comes back."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from granet_lab.datasets import Dataset
from granet_lab.experiments.environment import device_name, version
from granet_lab.experiments.loading import Load
from granet_lab.experiments.store import Run, complete
from granet_lab.experiments.tidy import answer_columns, trial_columns
from granet_lab.experiments.trained import train_alone
from granet_lab.experiments.trials import Trial
from granet_lab.sparsity import Masks, analysis, prune, regenerate
from granet_lab.sparsity.criteria import CRITERIA
from granet_lab.sparsity.pruning import empty_note, emptying_allowed
from granet_lab.sparsity.regrowths import REGROWTHS
from granet_lab.training import loop
from granet_lab.training.arithmetic import arithmetic
from granet_lab.training.evaluation import evaluate
from granet_lab.training.state import TrainState

# What a recovery curve says of an epoch.
_MEASURED = ("lr", "train_loss", "val_acc", "test_acc")


def measure_trial(
    run: Run,
    trial: Trial,
    device: str = "cpu",
    report: Callable[[list[dict[str, Any]]], None] | None = None,
) -> dict[str, Any]:
    """Carry a trial out, its network alone.

    Args:
        run: the finished run of ``trial.recipe``.
        trial: what to measure.
        device: a torch device.
        report: is called with the curve so far as each epoch ends.

    Returns:
        See :meth:`Measurement.found`.

    Raises:
        ValueError: the run is not trained to its end, or its history is gone.
    """
    one = Measurement(run, trial, device, report)
    for _ in train_alone(one, device):
        pass
    return one.found(stacked=False)


class Measurement:
    """A trial on its way: pruned, then told of every epoch that somebody trains its network.

    Args:
        run: the finished run of ``trial.recipe``.
        trial: what to measure.
        device: a torch device.
        report: is called with the curve so far as each epoch ends.
        pulse: is called after every step; what it raises ends the training.
        load: how the run's network is had; see :class:`granet_lab.experiments.loading.Loader`.

    Attributes:
        trial: as given.
        recipe: the trial's.
        lr: the fixed learning rate; None follows the recipe's schedule.
        until: the epoch at which training ends.
        follow: the masks stay as pruning and regeneration leave them.

    Raises:
        ValueError: the run is not trained to its end, or its history is gone.
    """

    follow = False

    def __init__(
        self,
        run: Run,
        trial: Trial,
        device: str = "cpu",
        report: Callable[[list[dict[str, Any]]], None] | None = None,
        pulse: Callable[[], None] | None = None,
        load: Load = Run.load,
    ) -> None:
        self.recipe = trial.recipe
        self._run, self.trial, self._device, self._report = run, trial, device, report
        self._load = load
        self.lr = trial.learning_rate if trial.lr == "frozen" else None
        self.until = trial.epoch + trial.recovery_epochs
        self._trunk = run.rows()  # now: the folder may be taken away while this goes on
        if not complete(self.recipe, self._trunk):
            raise ValueError(f"{run!r} is not trained to its end: there is nothing to compare with")
        self.pulse = pulse or (lambda: None)
        made = {"device": device_name(device), "version": version()}
        self._row: dict[str, Any] = trial_columns(trial) | made
        self._curve: list[dict[str, Any]] = []
        self._layers: list[dict[str, Any]] = []
        self._state: TrainState | None = None
        self._born: Masks | None = None
        self._seconds = 0.0

    def begin(self) -> TrainState:
        """The network of the trial's epoch, pruned, and regenerated if it is to be.

        Raises:
            Diverged: its weights cannot be ranked.
        """
        started = time.perf_counter()
        images = self.trial.recipe.images(self._device)
        state = self._state = self._load(self._run, self.trial.epoch, self._device, self.pulse)
        before, kept = operate_(state, self.trial, images)
        self._born = analysis.regrown(kept, state.masks)
        self._layers = _layers(before, kept, state.masks)
        self._row |= {"sparsity": kept.sparsity, "sparsity_after": state.masks.sparsity}
        self._row["note"] = empty_note(kept.empty_layers())
        found = evaluate(state, self.trial.recipe, images, self.pulse)
        self._seconds += time.perf_counter() - started
        self._tell(0, found)
        return state

    def add(self, row: dict[str, Any]) -> None:
        """Take note of an epoch, a row of :func:`granet_lab.training.loop.fit`."""
        self._seconds += row["seconds"]
        self._tell(row["epoch"] - self.trial.epoch, row)

    def diverge(self, diverged: loop.Diverged) -> None:
        """Take note that there is nothing more to come."""
        self._row |= {"status": "diverged", "note": str(diverged)}

    def found(self, stacked: bool) -> dict[str, Any]:
        """What came out.

        Args:
            stacked: whether the network was trained in a stack.

        Returns:
            ``row``: the tidy table's row. ``curve``: a dict for each recovery epoch, 0 (just after
            pruning) to the last, with ``lr`` of that epoch, ``train_loss``, ``val_acc`` and
            ``test_acc``. ``layers``: a dict for each prunable parameter, in the network's order,
            with its name as ``layer``, its ``size`` and how many weights were active ``before``
            pruning, ``after`` it, and once connections were ``regenerated``. A training that
            diverges gives a row whose status says so.
        """
        started, row = time.perf_counter(), self._row
        whole = row["status"] == "ok"
        if whole and self._born.active:
            images = self.trial.recipe.images(self._device)
            row["regrown_survival"] = _survival(self._state, self.trial, images, self._born)
        row |= answer_columns(self._trunk, self.trial, self._curve, whole)
        row["stacked"] = stacked
        row["seconds"] = round(self._seconds + time.perf_counter() - started, 3)
        self._state = self._born = None  # hundreds may be kept until the last is done
        return {"row": row, "curve": self._curve, "layers": self._layers}

    def _tell(self, recovery_epoch: int, found: dict[str, Any]) -> None:
        known = {name: found[name] for name in _MEASURED if name in found}
        self._curve.append({"recovery_epoch": recovery_epoch, **known})
        if self._report is not None:
            self._report(self._curve)


def _survival(state: TrainState, trial: Trial, images: Dataset, born: Masks) -> float | None:
    """The share of what came back that the same pruning would keep now."""
    try:
        return analysis.survival(born, prune_once(state, trial, images))
    except ValueError:  # the last step has left weights that cannot be ranked
        return None


def prune_once(state: TrainState, trial: Trial, images: Dataset) -> Masks:
    """The masks of a network after the trial's pruning; the network stays as it is."""
    with arithmetic(trial.recipe, images.device), emptying_allowed():
        batches = CRITERIA[trial.pruning.criterion].batches
        return prune(loop.context(state, trial.recipe, images, batches), trial.pruning)


def operate_(state: TrainState, trial: Trial, images: Dataset) -> tuple[Masks, Masks]:
    """Prune a network as a trial says, and regenerate what it says, in place.

    Args:
        state: the network of the trial's epoch.
        trial: what to do.
        images: its dataset.

    Returns:
        The masks before pruning and after it; ``state.masks`` are those after regeneration.
    """
    recipe, pruning = trial.recipe, trial.pruning
    before, kept = state.masks, prune_once(state, trial, images)
    if pruning.regrow is not None:
        with arithmetic(recipe, images.device):
            seen = loop.context(state, recipe, images, REGROWTHS[pruning.regrow].batches)
            state.masks = regenerate(seen, before, kept, pruning)
    else:
        state.masks = kept
    kept.apply_(state.model, state.optimizer)
    if trial.reestimate_batchnorm:
        loop.reestimate_batchnorm(state, recipe, images)
    return before, kept


def _layers(before: Masks, after: Masks, regenerated: Masks) -> list[dict[str, Any]]:
    kept, grown = after.counts(), regenerated.counts()
    return [
        {
            "layer": name,
            "size": mask.numel(),
            "before": int(mask.count_nonzero()),
            "after": kept[name],
            "regenerated": grown[name],
        }
        for name, mask in before.items()
    ]


def sparsities(layer: dict[str, Any]) -> dict[str, Any]:
    """One of a trial's ``layers`` as fractions that are zero."""
    size = layer["size"]
    return {
        "layer": layer["layer"],
        "size": size,
        "sparsity_before": 1 - layer["before"] / size,
        "sparsity_pruned": 1 - layer["after"] / size,
        "sparsity_regenerated": 1 - layer["regenerated"] / size,
    }
