"""What a lab holds, as tables; nothing is measured here."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from granet_lab.experiments import files
from granet_lab.experiments.execution import failures
from granet_lab.experiments.files import DamagedFile
from granet_lab.experiments.identity import identity, restore
from granet_lab.experiments.plasticity import sparsities
from granet_lab.experiments.results import Results
from granet_lab.experiments.store import Run
from granet_lab.experiments.tables import with_none
from granet_lab.experiments.tidy import tidy, trial_columns
from granet_lab.experiments.trials import Trial
from granet_lab.training.recipe import Recipe

logger = logging.getLogger(__name__)


class Views:
    """The tables of a lab.

    Attributes:
        path: the lab's folder.
        device: a torch device.
    """

    path: Path
    device: str

    def run(self, recipe: Recipe) -> Run:
        """The run of a recipe as it stands on disk, trained or not."""
        return Run(self.path, recipe)

    def table(self, trials: Sequence[Trial], failed: dict[Trial, str] | None = None):
        """The tidy table of those among ``trials`` that are measured, or could not be; nothing is
        computed."""
        failed = failed or {}
        results = self._read(trials)
        runs = {recipe: self.run(recipe) for recipe in dict.fromkeys(t.recipe for t in trials)}
        rows = []
        for trial in trials:
            run, found = runs[trial.recipe], results.trial(trial)
            names = {"run": run.path.name, "trial": identity(trial)}
            if found is not None:
                rows.append(trial_columns(trial) | found["row"] | names)
            elif why := failed.get(trial) or failures.read(run, trial):
                broken = {"status": "failed", "note": why}
                rows.append(trial_columns(trial) | broken | names)
        return tidy(rows)

    def curves(self, trials: Sequence[Trial]) -> pd.DataFrame:
        """The recovery curves of those among ``trials`` that are measured.

        Returns:
            A row for each trial and recovery epoch: the columns of the tidy table that say what
            was asked, ``recovery_epoch`` (0 is just after pruning), ``train_loss``, ``val_acc``
            and ``test_acc``. ``lr`` is that of the epoch which ended there.
        """
        rows, results = [], self._read(trials)
        for trial in trials:
            found = results.trial(trial)
            if found is not None:
                asked = trial_columns(trial) | {"acc_before": found["row"]["acc_before"]}
                rows += [asked | {"lr": None} | point for point in found["curve"]]
        return with_none(pd.DataFrame(rows))

    def layers(self, trials: Sequence[Trial]) -> pd.DataFrame:
        """How sparse each layer was, for those among ``trials`` that are measured.

        Returns:
            A row for each trial and prunable parameter: the columns of the tidy table that say
            what was asked, ``layer``, ``size`` (weights), and the fraction that is zero:
            ``sparsity_before`` pruning, ``sparsity_pruned`` after it, ``sparsity_regenerated``
            once connections were regenerated.
        """
        rows, results = [], self._read(trials)
        for trial in trials:
            found = results.trial(trial) or {}
            rows += [trial_columns(trial) | sparsities(one) for one in found.get("layers", [])]
        return with_none(pd.DataFrame(rows))

    def history(self, recipes: Iterable[Recipe]) -> pd.DataFrame:
        """The histories of several runs below each other, with what tells the runs apart."""
        frames = []
        for recipe in recipes:
            asked = {
                "dataset": recipe.dataset,
                "model": recipe.model,
                "seed": recipe.seed,
                "method": recipe.method.name,
                "pretrained_sparsity": recipe.method.end_sparsity,
                "milestones": " ".join(str(epoch) for epoch in recipe.milestones),
            }
            frames.append(self.run(recipe).history.assign(**asked))
        return pd.concat(frames, ignore_index=True)

    def _read(self, trials: Iterable[Trial]) -> Results:
        """What the store holds of some trials, read again only where it has changed."""
        self._results.refresh(dict.fromkeys(t.recipe for t in trials), thorough=True)
        return self._results

    @functools.cached_property
    def _results(self) -> Results:
        return Results(self.path)

    def runs(self) -> pd.DataFrame:
        """What the lab holds: a row for each run.

        Columns: ``run`` (its folder), ``method``, ``pretrained_sparsity``, ``seed``, ``epochs``
        (trained, ``of`` so many), ``test_acc`` (after the last, in percent), how many
        ``checkpoints`` and ``trials`` it has and how many trials have ``failed``, ``MB`` on the
        disk.
        """
        rows = []
        for recipe in self.recipes():
            run = self.run(recipe)
            history = run.rows()
            rows.append(
                {
                    "run": run.path.name,
                    "method": recipe.method.name,
                    "pretrained_sparsity": recipe.method.end_sparsity,
                    "seed": recipe.seed,
                    "epochs": max(0, len(history) - 1),
                    "of": recipe.epochs,
                    "test_acc": history[-1].get("test_acc") if history else None,
                    "checkpoints": len(run.checkpoints),
                    "trials": len(list(run.path.glob("trials/[!.]*.json"))),
                    "failed": len(list(run.path.glob("failures/[!.]*.json"))),
                    "MB": sum(p.stat().st_size for p in run.path.rglob("*") if p.is_file()) / 1e6,
                }
            )
        return pd.DataFrame(rows)

    def recipes(self) -> list[Recipe]:
        """The recipes of all runs that the lab holds."""
        found = []
        for path in sorted(self.path.glob("*/recipe.json")):
            try:
                found.append(restore(Recipe, files.read_json(path)["recipe"]))
            except DamagedFile as damaged:
                files.set_aside(damaged, path)
            except ValueError as error:
                logger.warning("%s is left out: %s", path.parent, error)
        return found

    def trials(self) -> list[Trial]:
        """All trials that are measured."""
        found = []
        for run in map(self.run, self.recipes()):
            for path in sorted(run.path.glob("trials/[!.]*.json")):
                try:
                    found.append(restore(Trial, files.read_json(path)["trial"]))
                except DamagedFile as damaged:
                    files.set_aside(damaged, path)
                except (ValueError, KeyError) as error:
                    logger.warning("%s is left out: %s", path, error)
        return found
