"""Lab: a folder of runs, and the questions asked of it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from granet_lab.experiments import execution, files, pools
from granet_lab.experiments.background import Job
from granet_lab.experiments.environment import default_device, usable_device
from granet_lab.experiments.files import DamagedFile
from granet_lab.experiments.identity import identity, restore
from granet_lab.experiments.plasticity import sparsities
from granet_lab.experiments.pools import OwnProcesses
from granet_lab.experiments.progress import telling
from granet_lab.experiments.store import Run
from granet_lab.experiments.tables import with_none
from granet_lab.experiments.tidy import tidy, trial_columns
from granet_lab.experiments.trials import Trial
from granet_lab.experiments.weights import weights
from granet_lab.training.recipes import Recipe

logger = logging.getLogger(__name__)


class Lab:
    """A folder of runs.

    Args:
        path: the folder; it is made if it is not there.
        device: a torch device for all that is trained; by default the GPU if there is one.

    Raises:
        OSError: the folder cannot be made.
        ValueError: torch has no such device here.
    """

    def __init__(self, path: str | Path = "data/runs", device: str | None = None) -> None:
        self.path = Path(path)
        self.device = default_device() if device is None else usable_device(device)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            why = error.strerror or error
            raise OSError(f"cannot make the lab folder {self.path}: {why}") from error

    def __repr__(self) -> str:
        return f"Lab({str(self.path)!r}: {len(self.recipes())} runs)"

    def run(self, recipe: Recipe) -> Run:
        """The run of a recipe as it stands on disk, trained or not."""
        return Run(self.path, recipe)

    def train(
        self,
        recipe: Recipe,
        checkpoints: Iterable[int] | None = None,
        progress: bool = True,
    ) -> Run:
        """Train a recipe, or what is left of it, with a checkpoint for every epoch.

        Args:
            recipe: what to train.
            checkpoints: the epochs to keep, if not all; another is reached again by training on
                from the nearest earlier one. Not part of the run's identity.
            progress: whether to show a bar; it begins with the disk that the checkpoints take.

        Raises:
            OSError: the folder cannot be written.
            ValueError: a checkpoint beyond the run.
        """
        files.check_writable(self.path)
        run = self.run(recipe)
        keep = run.check_epochs(checkpoints)
        done = max(0, len(run.rows()) - 1)
        size = run.checkpoint_bytes() * len(keep) / 1e6
        bar = tqdm(
            total=recipe.epochs,
            initial=done,
            unit="epoch",
            desc=f"{run.path.name}, {len(keep)} checkpoints of {size:.0f} MB",
            disable=not progress or run.finished,
        )
        with bar, telling(run, recipe) as task:
            for row in run.train(self.device, keep):
                bar.set_postfix_str(f"test {row['test_acc']:.1f}%", refresh=False)
                bar.update(max(0, row["epoch"] - bar.n))
                task.tell(row["epoch"], recipe.epochs)
        if run.diverged:
            logger.warning("%s: %s", run.path.name, run.diverged)
        return run

    def measure(
        self,
        trials: Iterable[Trial] | Trial,
        executor: Executor | None = None,
        workers: int | None = None,
        progress: bool = True,
    ) -> pd.DataFrame:
        """The tidy table of some trials; what is not measured yet is measured now.

        Runs that the trials branch from are trained first. A finished trial is never computed
        twice; interrupted, the same call goes on from what was finished.

        Args:
            trials: see :func:`granet_lab.grid`.
            executor: any ``concurrent.futures.Executor``; by default processes on this machine.
            workers: how many processes; by default one for each core, on a GPU one. 1 works in
                this process.
            progress: whether to show a bar.

        Returns:
            A row for each trial, in their order. ``status`` is "ok", "diverged" (training gave NaN
            or infinity), or "failed" (the note says why; it is tried again the next time).

        Raises:
            OSError: the folder cannot be written.
        """
        trials = [trials] if isinstance(trials, Trial) else list(trials)
        if any(execution.result(self.path, trial) is None for trial in trials):
            files.check_writable(self.path)
        pool = pools.choose(executor, workers, trials, self.device)
        failed = execution.measure_all(self.path, trials, self.device, pool, progress)
        table = self.table(trials, failed)
        _warn(table)
        return table

    def start(self, trials: Iterable[Trial], processes: OwnProcesses | None = None) -> Job:
        """Measure what is missing in other processes, and come back at once.

        Args:
            trials: see :func:`granet_lab.grid`.
            processes: where; by default one process for each core, on a GPU one.

        Returns:
            The job: ``job.progress()``, ``job.cancel()``, ``job.wait()``. What it has finished is
            in :meth:`table` at once.

        Raises:
            OSError: the folder cannot be written.
        """
        trials = list(trials)
        files.check_writable(self.path)
        if processes is None:
            processes = OwnProcesses(pools.worker_count(trials, self.device))
        return Job(self.path, trials, self.device, processes)

    def table(self, trials: Sequence[Trial], failed: dict[Trial, str] | None = None):
        """The tidy table of those among ``trials`` that are measured; nothing is computed."""
        failed = failed or {}
        rows = []
        for trial in trials:
            found = execution.result(self.path, trial)
            names = {"run": self.run(trial.recipe).path.name, "trial": identity(trial)}
            if found is not None:
                rows.append(trial_columns(trial) | found["row"] | names)
            elif trial in failed:
                broken = {"status": "failed", "note": failed[trial]}
                rows.append(trial_columns(trial) | broken | names)
        return tidy(rows)

    def curves(self, trials: Sequence[Trial]) -> pd.DataFrame:
        """The recovery curves of those among ``trials`` that are measured.

        Returns:
            A row for each trial and recovery epoch: the columns of the tidy table that say what
            was asked, ``recovery_epoch`` (0 is just after pruning), ``train_loss``, ``val_acc``
            and ``test_acc``. ``lr`` is that of the epoch which ended there.
        """
        rows = []
        for trial in trials:
            found = execution.result(self.path, trial)
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
        rows = []
        for trial in trials:
            found = execution.result(self.path, trial) or {}
            rows += [trial_columns(trial) | sparsities(one) for one in found.get("layers", [])]
        return with_none(pd.DataFrame(rows))

    def weights(self, trials: Iterable[Trial] | Trial) -> pd.DataFrame:
        """What becomes of each single weight in some trials, measured or not.

        Their runs are trained first where they are not. A row for each prunable weight takes some
        hundred bytes: this is for small networks.

        Returns:
            The columns of the tidy table that say what was asked, ``layer``, ``weight`` (its
            value before pruning), ``active`` (whether it was, before), and ``fate``: "kept",
            "removed", "inactive" (all along) or "regrown".

        Raises:
            ValueError: there is no trial, or one cannot be carried out.
        """
        trials = [trials] if isinstance(trials, Trial) else list(trials)
        if not trials:
            raise ValueError("weights needs at least one trial")
        runs = {recipe: self.train(recipe) for recipe in dict.fromkeys(t.recipe for t in trials)}
        frames = [weights(runs[trial.recipe], trial, self.device) for trial in trials]
        return with_none(pd.concat(frames, ignore_index=True))

    def history(self, recipes: Iterable[Recipe]) -> pd.DataFrame:
        """The histories of several runs below each other, with what tells the runs apart."""
        frames = []
        for recipe in recipes:
            asked = {
                "dataset": recipe.dataset,
                "model": recipe.model,
                "seed": recipe.seed,
                "method": recipe.method.name,
                "pretrained_sparsity": recipe.method.sparsity(recipe.epochs),
                "milestones": " ".join(str(epoch) for epoch in recipe.milestones),
            }
            frames.append(self.run(recipe).history.assign(**asked))
        return pd.concat(frames, ignore_index=True)

    def runs(self) -> pd.DataFrame:
        """What the lab holds: a row for each run."""
        rows = []
        for recipe in self.recipes():
            run = self.run(recipe)
            history = run.rows()
            rows.append(
                {
                    "run": run.path.name,
                    "method": recipe.method.name,
                    "pretrained_sparsity": recipe.method.sparsity(recipe.epochs),
                    "seed": recipe.seed,
                    "epochs": max(0, len(history) - 1),
                    "of": recipe.epochs,
                    "test_acc": history[-1].get("test_acc") if history else None,
                    "checkpoints": len(run.checkpoints),
                    "trials": len(list(run.path.glob("trials/*.json"))),
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


def _warn(table: pd.DataFrame) -> None:
    for status in ("failed", "diverged"):
        bad = table[table.status == status]
        if len(bad):
            logger.warning("%d trials %s: %s", len(bad), status, bad.note.iloc[0])
    empty = table[(table.status == "ok") & (table.note != "")]
    if len(empty):
        logger.warning("%d trials: %s", len(empty), empty.note.mode()[0])
