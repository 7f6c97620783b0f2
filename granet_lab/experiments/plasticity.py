"""The measurement: prune a trained network at an epoch, train on, see how much comes back."""

from __future__ import annotations

import dataclasses
import itertools
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from granet_lab import checks
from granet_lab.experiments.environment import device_name
from granet_lab.experiments.store import Run
from granet_lab.sparsity import Masks, Pruning, prune, regenerate
from granet_lab.sparsity.pruning import EmptyLayerWarning, empty_note
from granet_lab.training import data, loop
from granet_lab.training.recipes import Recipe, learning_rate

CONTINUATIONS = ("frozen", "remaining")

# A tenth of the run, at least one epoch: 6 of 60 on digits.
_DEFAULT_RECOVERY = 10
# What a recovery curve says of an epoch.
_MEASURED = ("lr", "train_loss", "val_acc", "test_acc")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Prune the network that ``recipe`` trains after ``epoch`` epochs, and train on.

    Attributes:
        recipe: the run that is branched from.
        epoch: when: 0 is initialisation, ``recipe.epochs`` the end.
        pruning: what is removed, and what comes back.
        recovery_epochs: how long training goes on under the frozen learning rate; by default a
            tenth of the run. The remaining schedule always goes to the end of the run.
        lr: "frozen" keeps the learning rate that the next epoch would have had (at the end: the
            last one), and measures ``plasticity``; "remaining" follows the rest of the schedule,
            and measures ``final_gap``.

    Raises:
        ValueError: an epoch that the run does not have, or a value outside its range.
    """

    recipe: Recipe
    epoch: int
    pruning: Pruning
    recovery_epochs: int | None = None
    lr: str = "frozen"

    def __post_init__(self) -> None:
        for name, kind in (("recipe", Recipe), ("pruning", Pruning)):
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"{name} must be a {kind.__name__}, not {getattr(self, name)!r}")
        last = self.recipe.epochs
        epoch = checks.count("epoch", self.epoch)
        if epoch > last:
            raise ValueError(f"epoch {epoch} is not in this run: choose 0 to {last}")
        checks.choice("continuation", self.lr, CONTINUATIONS)
        natural = last - epoch if self.lr == "remaining" else max(1, last // _DEFAULT_RECOVERY)
        recovery = natural if self.recovery_epochs is None else self.recovery_epochs
        recovery = checks.count("recovery_epochs", recovery)
        if self.lr == "remaining" and recovery != natural:
            raise ValueError(
                f"the remaining schedule from epoch {epoch} has {natural} epochs, not {recovery}: "
                "leave recovery_epochs out"
            )
        object.__setattr__(self, "epoch", epoch)
        object.__setattr__(self, "recovery_epochs", recovery)

    @property
    def learning_rate(self) -> float:
        """What "frozen" means here: the rate of the epoch that would come next."""
        return learning_rate(self.recipe, min(self.epoch, self.recipe.epochs - 1))


def grid(recipe: Recipe, **values: Any) -> list[Trial]:
    """Trials for every combination of values.

    Args:
        recipe: what is not varied.
        values: any field of :class:`Recipe`, :class:`Pruning` or :class:`Trial` by its name, one
            value or several of them. ``epoch`` and ``rate`` must be given. A word for ``lr`` is
            the continuation, a number the recipe's learning rate. ``recovery_epochs`` applies to
            the frozen continuation alone.

    Raises:
        ValueError: an unknown field, or a value that the field refuses.
    """
    fields = {kind: {f.name for f in dataclasses.fields(kind)} for kind in (Recipe, Pruning, Trial)}
    known = set().union(*fields.values()) - {"recipe", "pruning"}
    for name in values:
        checks.choice("field", name, sorted(known))
    for name in ("epoch", "rate"):
        if name not in values:
            raise ValueError(f"grid needs {name}, one value or several")
    trials: dict[Trial, None] = {}
    choices = {name: _several(name, value) for name, value in values.items()}
    for name, found in choices.items():
        if not found:
            raise ValueError(f"{name} needs at least one value")
    order = sorted(choices, key=lambda name: name not in fields[Recipe] or name == "lr")
    for combination in itertools.product(*(choices[name] for name in order)):
        chosen = dict(zip(order, combination, strict=True))
        branch = {n: chosen.pop(n) for n in ("epoch", "recovery_epochs") if n in chosen}
        if isinstance(chosen.get("lr"), str):
            branch["lr"] = chosen.pop("lr")
        if branch.get("lr") == "remaining":
            branch.pop("recovery_epochs", None)
        pruning = Pruning(**{n: chosen.pop(n) for n in fields[Pruning] & chosen.keys()})
        trials[Trial(recipe=replace(recipe, **chosen), pruning=pruning, **branch)] = None
    return list(trials)


def _several(name: str, value: Any) -> list[Any]:
    """The values of one field; a single milestones tuple is one value."""
    if isinstance(value, str) or not isinstance(value, Iterable) or getattr(value, "ndim", 1) == 0:
        return [value]
    found = list(value)
    if name == "milestones" and all(not isinstance(item, Iterable) for item in found):
        return [tuple(found)]
    return found


def measure_trial(
    run: Run,
    trial: Trial,
    device: str = "cpu",
    report: Callable[[list[dict[str, Any]]], None] | None = None,
) -> dict[str, Any]:
    """Carry a trial out.

    Args:
        run: the finished run of ``trial.recipe``.
        trial: what to measure.
        device: a torch device.
        report: is called with the curve so far as each epoch ends.

    Returns:
        ``row``: the tidy table's row. ``curve``: a dict for each recovery epoch, 0 (just after
        pruning) to the last, with ``lr`` of that epoch, ``train_loss``, ``val_acc`` and
        ``test_acc``. ``layers``: a dict for each prunable parameter, in the network's order, with
        its name as ``layer``, its ``size`` and how many weights were active ``before`` pruning,
        ``after`` it, and once connections were ``regenerated``. A training that diverges gives a
        row whose status says so.

    Raises:
        ValueError: the run is not trained to its end, or its history is gone.
    """
    started = time.perf_counter()
    recipe, pruning = trial.recipe, trial.pruning
    trunk = run.rows()  # now: the folder may be taken away while this trial goes on
    if not run.finished:
        raise ValueError(f"{run!r} is not trained to its end: there is nothing to compare with")
    row: dict[str, Any] = trial_columns(trial) | {"device": device_name(device)}
    curve: list[dict[str, Any]] = []
    layers: list[dict[str, Any]] = []

    def add(recovery_epoch: int, found: dict[str, Any]) -> None:
        known = {name: found[name] for name in _MEASURED if name in found}
        curve.append({"recovery_epoch": recovery_epoch, **known})
        if report is not None:
            report(curve)

    try:
        state = run.load(trial.epoch, device)
        images = data.load(recipe.dataset, device)
        with loop.threads(recipe.threads), warnings.catch_warnings():
            warnings.simplefilter("ignore", EmptyLayerWarning)  # the row's note says it
            seen = loop.context(state, recipe, images)
            kept = prune(seen, pruning)
            state.masks = regenerate(seen, seen.masks, kept, pruning.regrow)
            kept.apply_(state.model, state.optimizer)
        layers = _layers(seen.masks, kept, state.masks)
        row |= {"sparsity": kept.sparsity, "sparsity_after": state.masks.sparsity}
        row["note"] = empty_note(kept.empty_layers())
        add(0, loop.evaluate(state, recipe, images))
        frozen = trial.learning_rate if trial.lr == "frozen" else None
        until = trial.epoch + trial.recovery_epochs
        for epoch in loop.fit(state, recipe, images, until, frozen):
            add(epoch["epoch"] - trial.epoch, epoch)
    except loop.Diverged as diverged:
        row |= {"status": "diverged", "note": str(diverged)}
    row |= _answer(trunk, trial, curve, whole=row["status"] == "ok")
    row["seconds"] = round(time.perf_counter() - started, 3)
    return {"row": row, "curve": curve, "layers": layers}


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


def trial_columns(trial: Trial) -> dict[str, Any]:
    """The columns that say what was asked."""
    recipe, pruning = trial.recipe, trial.pruning
    return {
        "dataset": recipe.dataset,
        "model": recipe.model,
        "seed": recipe.seed,
        "method": recipe.method.name,
        "pretrained_sparsity": recipe.method.sparsity(trial.epoch),
        "epoch": trial.epoch,
        "rate": pruning.rate,
        "criterion": pruning.criterion,
        "scope": pruning.scope,
        "granularity": pruning.granularity,
        "regrow": pruning.regrow,
        "lr_mode": trial.lr,
        "recovery_epochs": trial.recovery_epochs,
        "lr": trial.learning_rate,
        "epochs": recipe.epochs,
        "milestones": " ".join(str(epoch) for epoch in recipe.milestones),
        "status": "ok",
        "note": "",
    }


def _answer(
    trunk: list[dict[str, Any]], trial: Trial, curve: list[dict[str, Any]], whole: bool
) -> dict[str, Any]:
    """The columns that say what came out; None where there is nothing to say."""
    unpruned = {row["epoch"]: row.get("test_acc") for row in trunk}
    before, final = unpruned.get(trial.epoch), unpruned.get(trial.recipe.epochs)
    after = curve[-1]["test_acc"] if whole else None
    frozen = trial.lr == "frozen"
    return {
        "acc_before": before,
        "acc_pruned": curve[0]["test_acc"] if curve else None,
        "acc_after": after,
        "acc_trunk": unpruned.get(trial.epoch + trial.recovery_epochs),
        "acc_final_unpruned": final,
        "plasticity": _difference(after, before) if frozen else None,
        "final_gap": None if frozen else _difference(after, final),
    }


def _difference(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b
