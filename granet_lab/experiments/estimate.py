"""How long it would take: from what epochs have taken here so far."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from statistics import median

from granet_lab.experiments.results import Results
from granet_lab.experiments.trials import Trial
from granet_lab.training.recipe import Recipe


def seconds_per_epoch(results: Results, recipes: Iterable[Recipe]) -> float | None:
    """The median over trials and epochs of training; None if nothing was trained yet.

    A trial counts as its recovery epochs and one for what it does before them: loading, scoring,
    pruning and a first evaluation.
    """
    rows = [found["row"] for found in results.all_trials()]
    times = [row["seconds"] / (row["recovery_epochs"] + 1) for row in rows if row["status"] == "ok"]
    if not times:
        times = [
            row["seconds"]
            for recipe in recipes
            for row in results.history(recipe)[1:]
            if row.get("seconds") is not None
        ]
    return median(times) if times else None


def seconds(
    results: Results,
    trials: Sequence[Trial],
    workers: int,
    recipes: Sequence[Recipe] = (),
    each: float | None = None,
) -> float | None:
    """How long the trials among ``trials`` that are missing would take on so many workers.

    The longest pieces of work are dealt first, each to the worker that is free first; a trial
    waits for the run that it branches from.

    Args:
        results: what is there.
        trials: what is asked.
        workers: how many work at once.
        recipes: runs that are trained as well, without a trial.
        each: seconds of an epoch; by default as long as epochs have taken so far.

    Returns:
        Seconds; None if nothing was trained yet and nobody says how long an epoch takes.
    """
    if each is None:
        each = seconds_per_epoch(results, {trial.recipe for trial in trials})
    if each is None:
        return None
    missing, left = _missing(results, trials, recipes)
    free = [0.0] * workers
    ready = dict.fromkeys(left, 0.0)
    for recipe, epochs in sorted(left.items(), key=lambda item: -item[1]):
        start = heapq.heappop(free)
        ready[recipe] = start + epochs * each
        heapq.heappush(free, ready[recipe])
    for trial in sorted(missing, key=lambda t: (ready[t.recipe], -t.recovery_epochs)):
        start = max(heapq.heappop(free), ready[trial.recipe])
        heapq.heappush(free, start + (trial.recovery_epochs + 1) * each)
    return max(free)


def missing_epochs(
    results: Results, trials: Sequence[Trial], recipes: Sequence[Recipe] = ()
) -> int:
    """Epochs to train until all trials are measured and all runs finished."""
    missing, left = _missing(results, trials, recipes)
    # What is left of a run without any row is its beginning as well, which trains nothing.
    training = sum(min(epochs, recipe.epochs) for recipe, epochs in left.items())
    return training + sum(trial.recovery_epochs for trial in missing)


def _missing(
    results: Results, trials: Sequence[Trial], recipes: Sequence[Recipe]
) -> tuple[list[Trial], dict[Recipe, int]]:
    """The trials that are not measured, and the epochs left of the runs that are needed."""
    missing = [trial for trial in dict.fromkeys(trials) if results.trial(trial) is None]
    runs = [*(trial.recipe for trial in missing), *recipes]
    return missing, {recipe: _untrained(results, recipe) for recipe in runs}


def _untrained(results: Results, recipe: Recipe) -> int:
    rows = results.history(recipe)
    return 0 if rows and "diverged" in rows[-1] else recipe.epochs + 1 - len(rows)


def about(span: float) -> str:
    """An estimate for people: "about 3 s", but "under a second"."""
    told = in_words(span)
    return f"about {told}" if told[0].isdigit() else told


def in_words(span: float) -> str:
    """A time for people: "3 s", "2 min", "1.5 h"."""
    if span < 0.95:
        return "under a second" if span > 0 else "no time"
    if span < 90:
        return f"{span:.0f} s"
    return f"{span / 60:.0f} min" if span < 5400 else f"{span / 3600:.1f} h"
