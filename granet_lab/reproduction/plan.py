"""What is to be measured, and what it will take."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from granet_lab import checks
from granet_lab.experiments import Lab, estimate
from granet_lab.experiments.comparison import Entry, comparison
from granet_lab.experiments.execution import pools
from granet_lab.experiments.results import Results
from granet_lab.experiments.trials import Trial, grid
from granet_lab.reproduction.published import published
from granet_lab.sparsity.sparse_training import SparseTraining
from granet_lab.training.recipe import Recipe
from granet_lab.training.recipes import RECIPES
from granet_lab.training.speed import seconds_per_epoch
from granet_lab.wording import counted

Methods = Sequence[str] | Mapping[str, Callable[[float], SparseTraining]]

STAGES = ("plasticity", "regeneration", "methods")
RATES = (0.2, 0.5, 0.9, 0.98)
METHODS = ("rigl", "gmp", "granet")
# The paper's recipes recover for 30 of 160 epochs.
_RECOVERY = 30 / 160
# Into how many parts the run is divided by the epochs of pruning; those at 80 and 120 of 160 are
# among them either way.
_PARTS, _FEWER_PARTS = 16, 8
# Where nothing is published that names a sparsity.
_SPARSITIES = (0.9, 0.95, 0.98)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Trials and runs in stages.

    Attributes:
        name: of the recipe.
        recipe: dense, its first seed, shortened if that was asked for.
        whole: the same before it was shortened.
        trials: of the stages plasticity and regeneration.
        methods: of the stage methods, see ``Lab.compare``.
        sparsities: likewise.
        seeds: a run for each.
    """

    name: str
    recipe: Recipe
    whole: Recipe
    trials: dict[str, list[Trial]]
    methods: Methods
    sparsities: list[float]
    seeds: list[int]

    @property
    def stages(self) -> list[str]:
        """Their names, in the order in which they are measured."""
        return [*self.trials, *(["methods"] if self.methods else [])]

    @property
    def entries(self) -> list[Entry]:
        """The runs of the stage methods, the dense ones first."""
        if not self.methods:
            return []
        return comparison(self.recipe, self.methods, self.sparsities, self.seeds)

    @property
    def all_trials(self) -> list[Trial]:
        """Those of all stages, none twice."""
        return list(dict.fromkeys(trial for trials in self.trials.values() for trial in trials))

    @property
    def runs(self) -> list[Recipe]:
        """The recipes of all runs, none twice."""
        branched = [trial.recipe for trial in self.all_trials]
        return list(dict.fromkeys([*branched, *(entry.recipe for entry in self.entries)]))

    @property
    def checkpoints(self) -> list[int]:
        """The epochs that are kept: those at which something is pruned, and the last."""
        return sorted({*(trial.epoch for trial in self.all_trials), self.recipe.epochs})

    def describe(self, lab: Lab, workers: int | None = None) -> str:
        """What it would take, printed before anything is measured: a few training steps are timed
        on the lab's device."""
        results = Results(lab.path)
        results.refresh(self.runs)
        each = seconds_per_epoch(self.recipe, lab.device)
        if workers is None:
            workers = pools.worker_count(self.runs, lab.device)
        workers = checks.count("workers", workers, minimum=1)
        lines = [f"{self.title}, on {lab.device}:"]
        for stage in self.stages:
            trials = self.trials.get(stage, [])
            recipes = [e.recipe for e in self.entries] if stage == "methods" else []
            runs = list(dict.fromkeys([*(t.recipe for t in trials), *recipes]))
            epochs = sum(r.epochs for r in runs) + sum(t.recovery_epochs for t in trials)
            what = [counted(len(runs), "run"), *([counted(len(trials), "trial")] if trials else [])]
            lines.append(f"  {stage}: {' and '.join(what)}, {epochs} epochs")
        recipes = [entry.recipe for entry in self.entries]
        seconds = estimate.seconds(results, self.all_trials, workers, recipes, each)
        missing = estimate.missing_epochs(results, self.all_trials, recipes)
        kinds = {run.method: run for run in self.runs}
        sizes = {method: lab.run(run).checkpoint_bytes() for method, run in kinds.items()}
        size = sum(sizes[run.method] for run in self.runs) * len(self.checkpoints)
        lines += [
            f"  what stages share is measured once; {missing} epochs are missing",
            f"  an epoch takes {estimate.in_words(each)} here (from a few steps), all of it "
            f"{estimate.about(seconds or 0)} with {workers} at a time",
            f"  disk: up to {_bytes(size)} in {lab.path}",
        ]
        return "\n".join(lines)

    @property
    def title(self) -> str:
        """The recipe, and how much of it."""
        if self.recipe.epochs == self.whole.epochs:
            return f"{self.name}, {self.whole.epochs} epochs"
        return f"{self.name} shortened to {self.recipe.epochs} of {self.whole.epochs} epochs"


def plan(
    name: str,
    what: Iterable[str] = STAGES,
    short: bool | float = False,
    prune_epochs: Iterable[int] | None = None,
    rates: Iterable[float] = RATES,
    recovery_epochs: int | None = None,
    methods: Methods = METHODS,
    sparsities: Iterable[float] | None = None,
    seeds: Iterable[int] = (0,),
    **changes: object,
) -> Plan:
    """What to measure to see again what the paper shows of a recipe.

    Args:
        name: of the recipe.
        what: "plasticity" (dense networks pruned at several epochs), "regeneration" (the same with
            as many connections coming back), "methods" (ways of training sparse).
        short: the schedule in a tenth of the epochs; a number divides it by that.
        prune_epochs: by default a sixteenth of the run apart, an eighth of a short one.
        rates: of pruning.
        recovery_epochs: by default 30 of 160.
        methods: see ``Lab.compare``.
        sparsities: of the methods; by default those that are published for the recipe.
        seeds: a run for each.
        changes: fields of the recipe, but not ``seed`` and ``method``.

    Raises:
        ValueError: an unknown name, or values that do not go together.
    """
    stages = [checks.choice("stage", stage, STAGES) for stage in checks.several(what)]
    if not stages:
        raise ValueError(f"name at least one stage: {', '.join(STAGES)}")
    for field in ("seed", "method"):
        if field in changes:
            raise ValueError(f"{field} is no change of the recipe here: give {field}s")
    whole = RECIPES[name](**changes)
    factor = 10 if short is True else short
    recipe = whole.short(factor) if factor else whole
    parts = _FEWER_PARTS if factor else _PARTS
    if prune_epochs is None:
        # Never epoch 0, where nothing is learnt that could be lost.
        prune_epochs = sorted(
            {max(1, round(recipe.epochs * i / parts)) for i in range(1, parts + 1)}
        )
    if sparsities is None:
        told = published(name)["asked_sparsity"]
        sparsities = sorted({*told[told > 0]}) or _SPARSITIES
    sparsities, seeds = checks.several(sparsities), checks.several(seeds)
    recovery = max(1, round(_RECOVERY * recipe.epochs))
    kinds = {"plasticity": [None], "regeneration": [None, "gradient"]}
    # What is not asked is not refused.
    comparison(recipe, methods if "methods" in stages else METHODS, sparsities, seeds)
    return Plan(
        name=name,
        recipe=replace(recipe, seed=seeds[0]),
        whole=replace(whole, seed=seeds[0]),
        trials={
            stage: grid(
                recipe,
                epoch=prune_epochs,
                rate=rates,
                regrow=regrow,
                recovery_epochs=recovery if recovery_epochs is None else recovery_epochs,
                seed=seeds,
            )
            for stage, regrow in kinds.items()
            if stage in stages
        },
        methods=methods if "methods" in stages else (),
        sparsities=sparsities,
        seeds=seeds,
    )


def _bytes(size: float) -> str:
    return f"{size / 1e6:.0f} MB" if size < 1e9 else f"{size / 1e9:.1f} GB"
