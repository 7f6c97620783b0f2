"""SparseTraining: how a network is sparse while it trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from granet_lab import checks
from granet_lab.sparsity import method_names
from granet_lab.sparsity.allocation import SCHEMES
from granet_lab.sparsity.context import Context
from granet_lab.sparsity.criteria import CRITERIA
from granet_lab.sparsity.masks import Masks
from granet_lab.sparsity.plan import Plan
from granet_lab.sparsity.pruning import prune_to
from granet_lab.sparsity.regrowths import REGROWTHS
from granet_lab.sparsity.rounds import Rounds
from granet_lab.sparsity.schedules import cubic

# The official CIFAR runs: 160 epochs of 390 steps, an update every 1000 steps, the last prune at
# epoch 110.
_UPDATES = 160 * 390 / 1000
_STOP = 110 / 160


@dataclass(frozen=True, kw_only=True)
class SparseTraining:
    """A way of training sparse; what a recipe's ``method`` holds.

    A network starts at the initial sparsity. If there is a final one, it is pruned to it step by
    step between the epochs ``start`` and ``stop``, along Zhu & Gupta's cubic. If something
    regrows, each update then drops a fraction of what is left in each layer and regrows as many
    connections there, to the end of training (GraNet, Liu et al. 2021, algorithm 1). Any place
    that is free then may be taken, one just dropped included; what comes back starts at zero, and
    so does its momentum.

    Attributes:
        initial_sparsity: fraction of the weights that is inactive from initialisation on.
        criterion: chooses the weights that are active at initialisation.
        scope: shares them out among the layers: "global", "uniform", "er" or "erk".
        final_sparsity: that of the network from ``stop`` on; None: it stays what it was.
        prune_criterion: chooses what is pruned and dropped on the way.
        prune_scope: over what what is pruned is ranked; what is dropped, always by layer.
        regrow: how connections are chosen to come back at each update; None: none do.
        regrow_fraction: of a layer's active weights, dropped and regrown at the first update; it
            falls along a cosine over the whole run.
        regrow_end: what it falls to; by default no more than it starts with.
        interval: optimizer steps between updates; None: as many updates as in the official CIFAR
            runs, every 1000 of 62,400 steps.
        start: epoch before which nothing changes, and from which the sparsity rises.
        stop: epoch from which the final sparsity holds at the latest: the last whole interval
            before it is the last that prunes; None: 11/16 of the run, as the official 110 of 160
            epochs.
        salient: until ``stop``, by default the end of the run, only the weights whose product
            with their gradient is largest, as many as finally stay, get their gradient; the
            others decay, and at ``stop`` they are pruned all at once (global sparse momentum,
            Ding et al. 2019).
        rounds: train several times, pruned in between: the same fraction of what is left goes
            all at once each time, and the final sparsity holds in the last training.
        official: prune as the official GraNet code does, whose last prune comes one update before
            the final sparsity.

    Raises:
        ValueError: a value outside its range, an unknown name, values that contradict one
            another, or one that has no effect beside the others.
    """

    initial_sparsity: float = 0.0
    criterion: str = "random"
    scope: str = "erk"
    final_sparsity: float | None = None
    prune_criterion: str = "magnitude"
    prune_scope: str = "global"
    regrow: str | None = None
    regrow_fraction: float = 0.5
    regrow_end: float = 0.005
    interval: int | None = None
    start: int = 0
    stop: int | None = None
    salient: bool = False
    rounds: Rounds | None = None
    official: bool = False

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        for name in ("initial_sparsity", "regrow_fraction", "regrow_end"):
            put(name, checks.fraction(name, getattr(self, name)))
        for name in ("criterion", "prune_criterion"):
            CRITERIA.check(getattr(self, name))
        for name in ("scope", "prune_scope"):
            checks.choice(name, getattr(self, name), ("global", *SCHEMES))
        checks.choice("regrowth", self.regrow, (None, *REGROWTHS))
        for name in ("salient", "official"):
            put(name, checks.flag(name, getattr(self, name)))
        for name, least in (("start", 0), ("interval", 1), ("stop", 1)):
            if name == "start" or getattr(self, name) is not None:
                put(name, checks.count(name, getattr(self, name), minimum=least))
        self._check_final()
        self._check_rounds()
        self._refuse_what_has_no_effect()
        self._simplify(put)

    def _check_final(self) -> None:
        if self.final_sparsity is None:
            if self.salient:
                raise ValueError("salient needs a final_sparsity: it says how many weights stay")
            return
        final = checks.fraction("final_sparsity", self.final_sparsity)
        object.__setattr__(self, "final_sparsity", final)
        if final < self.initial_sparsity:
            raise ValueError(
                f"final_sparsity {final:g} lies below initial_sparsity {self.initial_sparsity:g}"
            )
        if self.stop is not None and self.stop < self.start:
            raise ValueError(f"stop {self.stop} comes before start {self.start}")

    def _check_rounds(self) -> None:
        if self.rounds is None:
            return
        if not isinstance(self.rounds, Rounds):
            raise ValueError(f"rounds must be None or Rounds(...), not {self.rounds!r}")
        if self.final_sparsity is None:
            raise ValueError("rounds need a final_sparsity: it holds in the last of them")
        if self.final_sparsity == self.initial_sparsity:
            raise ValueError("rounds need a final_sparsity above the initial one")
        if self.salient or self.regrow is not None:
            raise ValueError("rounds go with neither salient nor regrow")

    def _refuse_what_has_no_effect(self) -> None:
        one_update = self.salient or (self.stop is not None and self.start == self.stop)
        idle = [
            (
                self.final_sparsity is None,
                ("prune_scope", "start", "stop", "official"),
                "there is no final_sparsity",
            ),
            (self.rounds is not None, ("start", "stop", "interval", "official"), "rounds say when"),
            (self.salient, ("start", "official"), "salient prunes once, at stop"),
            (self.regrow is None, ("regrow_fraction", "regrow_end"), "nothing regrows"),
            (self.regrow is None and one_update, ("interval",), "all is pruned at once"),
            (not self.changes, ("prune_criterion", "interval"), "the masks never change"),
        ]
        for holds, names, why in idle:
            for name in names if holds else ():
                if getattr(self, name) != _usual(name):
                    raise ValueError(f"{name} has no effect: {why}")

    def _simplify(self, put: Callable[[str, object], None]) -> None:
        """So that methods which come down to the same are one and the same."""
        if self.final_sparsity == self.initial_sparsity and not self.salient:
            for name in ("final_sparsity", "prune_scope", "start", "stop", "official"):
                put(name, _usual(name))
        if self.initial_sparsity == 0:
            for name in ("criterion", "scope"):
                put(name, _usual(name))
        if self.regrow_end == _usual("regrow_end"):
            put("regrow_end", min(self.regrow_end, self.regrow_fraction))
        if self.regrow_fraction == self.regrow_end == 0:
            for name in ("regrow", "regrow_fraction", "regrow_end"):
                put(name, _usual(name))
        if not self.changes:
            for name in ("prune_criterion", "interval"):
                put(name, _usual(name))

    @property
    def name(self) -> str:
        """What people call it; "custom" if nobody does."""
        return method_names.name(self)

    def __str__(self) -> str:
        return method_names.label(self)

    @property
    def changes(self) -> bool:
        """Whether the masks change while the network trains."""
        return self.final_sparsity is not None or self.regrow is not None

    @property
    def end_sparsity(self) -> float:
        """The sparsity at the end of training."""
        return self.initial_sparsity if self.final_sparsity is None else self.final_sparsity

    @property
    def batches(self) -> int:
        """How many batches the criterion looks at that chooses the weights at initialisation."""
        return CRITERIA[self.criterion].batches

    @property
    def update_batches(self) -> int:
        """How many batches an update looks at."""
        regrowth = 1 if self.regrow is None else REGROWTHS[self.regrow].batches
        return max(CRITERIA[self.prune_criterion].batches, regrowth)

    def sparsity(self, epoch: int, epochs: int) -> float:
        """The sparsity that the network is meant to have after ``epoch`` of ``epochs`` epochs."""
        if self.final_sparsity is None:
            return self.initial_sparsity
        if self.rounds:
            number = self.rounds.number(epoch - 1) if epoch else 0
            return self.rounds.sparsity(number, self.initial_sparsity, self.final_sparsity)
        stop = self.check(epochs)
        if epoch >= stop:
            return self.final_sparsity
        if epoch < self.start or self.salient:
            return self.initial_sparsity
        progress = (epoch - self.start) / (stop - self.start)
        return cubic(progress, self.initial_sparsity, self.final_sparsity)

    def check(self, epochs: int) -> int:
        """The epoch from which the final sparsity holds in a run of so many epochs.

        Raises:
            ValueError: the run is too short for the schedule.
        """
        if self.rounds and epochs != self.rounds.epochs:
            raise ValueError(
                f"a training of {self.rounds.cycle} epochs and rounds {self.rounds} take "
                f"epochs={self.rounds.epochs}, not {epochs}"
            )
        usual = epochs if self.salient else round(_STOP * epochs)
        stop = usual if self.stop is None else self.stop
        if self.final_sparsity is not None and stop > epochs:
            raise ValueError(f"stop {stop} lies beyond the run of {epochs} epochs")
        if self.final_sparsity is not None and stop < self.start:
            raise ValueError(f"start {self.start} lies beyond stop, epoch {stop} of the run")
        return stop

    def plan(self, epochs: int, steps_per_epoch: int) -> Plan:
        """When a run of that length updates its masks.

        Raises:
            ValueError: the run is too short.
        """
        steps = epochs * steps_per_epoch
        interval = max(1, round(steps / _UPDATES)) if self.interval is None else self.interval
        if self.changes and steps and interval > steps:
            raise ValueError(f"interval {interval} is longer than the run of {steps} steps")
        stop = self.check(epochs) * steps_per_epoch
        start = stop if self.salient else self.start * steps_per_epoch
        if self.official and stop // interval - start // interval < 2:
            raise ValueError(
                f"official needs two whole intervals of {interval} steps between start and stop"
            )
        return Plan(self, interval, start, stop, steps)

    def initial_masks(self, context: Context) -> Masks:
        """The masks at initialisation."""
        if not self.initial_sparsity:
            return context.masks
        return prune_to(context, self.initial_sparsity, self.criterion, self.scope)


def _usual(name: str) -> object:
    """The default of a field."""
    return SparseTraining.__dataclass_fields__[name].default
