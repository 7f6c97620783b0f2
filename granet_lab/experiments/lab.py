"""Lab: a folder of runs, and the questions asked of it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from granet_lab import checks
from granet_lab.experiments import files, readiness, remarks, trainings
from granet_lab.experiments.comparison import COMPARED, compared, comparison
from granet_lab.experiments.environment import default_device, usable_device
from granet_lab.experiments.execution import pools, sweep
from granet_lab.experiments.execution.background import Job
from granet_lab.experiments.execution.claims import Claims
from granet_lab.experiments.execution.pools import OwnProcesses
from granet_lab.experiments.execution.progress import TRAINING, tidy
from granet_lab.experiments.execution.telling import Teller
from granet_lab.experiments.store import Run
from granet_lab.experiments.tables import with_none
from granet_lab.experiments.trials import Trial
from granet_lab.experiments.views import Views
from granet_lab.experiments.weights import weights
from granet_lab.sparsity.sparse_training import SparseTraining
from granet_lab.training.arithmetic import threads
from granet_lab.training.recipe import Recipe
from granet_lab.wording import counted

logger = logging.getLogger(__name__)


class Lab(Views):
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
        return f"Lab({str(self.path)!r}: {counted(len(self.recipes()), 'run')})"

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
                from the nearest earlier one. Not part of the run's identity. Those that a finished
                run lacks are made only if they are named here.
            progress: whether to show a bar; it begins with the disk that the checkpoints take.

        Raises:
            OSError: the folder cannot be written.
            ValueError: a checkpoint beyond the run.
        """
        files.check_writable(self.path)
        run = self.run(recipe)
        if not run.finished:
            readiness.warn([recipe], self.device)
        if run.finished and checkpoints is None:
            checkpoints = run.checkpoints  # somebody may have thinned them on purpose
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
        # Somebody else may be training it; what there is then is gone on from.
        claim = contextlib.nullcontext() if run.finished else Claims().once_free(run)
        told = contextlib.closing(Teller())
        with claim, bar, told as teller, threads(recipe.threads):
            for row in trainings.train(run, self.device, keep):
                bar.set_postfix_str(f"test {row['test_acc']:.1f}%", refresh=False)
                bar.update(max(0, row["epoch"] - bar.n))
                teller.tell(run.path, TRAINING, row["epoch"], recipe.epochs)
        run.describe(self.device)  # it may be whole but for that
        tidy(run.path)
        if run.diverged:
            logger.warning("%s: %s", run.path.name, run.diverged)
        return run

    def measure(
        self,
        trials: Iterable[Trial] | Trial,
        executor: Executor | None = None,
        workers: int | None = None,
        progress: bool = True,
        checkpoints: Iterable[int] | None = None,
        stack: int | None = None,
    ) -> pd.DataFrame:
        """The tidy table of some trials; what is not measured yet is measured now.

        Runs that the trials branch from are trained first. A finished trial is never computed
        twice; interrupted, the same call goes on from what was finished.

        Args:
            trials: see :func:`granet_lab.grid`.
            executor: any ``concurrent.futures.Executor``, see
                :mod:`granet_lab.experiments.execution.clusters` for Dask's; by default processes
                on this machine.
            workers: how many processes; by default one for each core, or each GPU. 1 works in
                this process.
            progress: whether to show a bar.
            checkpoints: the epochs to keep of runs that are trained first, if not all: see
                :meth:`train`.
            stack: the most networks that are trained together: see
                :mod:`granet_lab.training.stacked`. 1 trains each alone. By default as many as the
                device does best with; runs on a CPU each alone, so that they are the same whoever
                trains them. The column ``stacked`` says which trials were.

        Returns:
            A row for each trial, in their order. ``status`` is "ok", "diverged" (training gave NaN
            or infinity), or "failed" (three times; the note says why; it is tried again the next
            time).

        Raises:
            OSError: the folder cannot be written.
            ValueError: a schedule that does not fit its recipe.
        """
        trials = [trials] if isinstance(trials, Trial) else list(trials)
        results, asked = self._read(trials), list(dict.fromkeys(trials))
        left = [trial for trial in asked if results.trial(trial) is None]
        missing = {trial.recipe for trial in left}
        if missing:
            files.check_writable(self.path)
        device = pools.device_of(executor, self.device)
        readiness.check(missing, device, here=executor is None)
        checkpoints = None if checkpoints is None else list(checkpoints)
        for one in missing:
            self.run(one).check_epochs(checkpoints)
        pool = pools.choose(executor, workers, [t.recipe for t in trials], device)
        if progress and missing and (link := getattr(executor, "dashboard", None)):
            tqdm.write(f"dashboard: {link}")
        failed = sweep.measure_all(
            self.path,
            left,
            device,
            pool,
            progress,
            recipes=list(missing) if checkpoints is not None else (),
            keep=checkpoints,
            stack=_networks(stack),
            cached=len(asked) - len(left),
        )
        table = self.table(trials, failed)
        remarks.on_status(table, "trial")
        remarks.on_versions(table)
        return table

    def compare(
        self,
        recipe: Recipe,
        methods: Iterable[str] | Mapping[str, Callable[[float], SparseTraining]] = COMPARED,
        sparsities: Iterable[float] = (0.9, 0.95, 0.98),
        seeds: Iterable[int] = range(3),
        checkpoints: Iterable[int] | None = None,
        executor: Executor | None = None,
        workers: int | None = None,
        progress: bool = True,
        stack: int | None = None,
    ) -> pd.DataFrame:
        """Ways of training sparse beside one another, and what each costs.

        Runs that are missing are trained; a dense one is among them, as the measure of cost.

        Args:
            recipe: what is trained; its method and seed are replaced.
            methods: names in ``granet_lab.methods.METHODS``, or a name for each function
                sparsity -> method.
            sparsities: at the end of training.
            seeds: a run for each.
            checkpoints: the epochs to keep, if not all: see :meth:`train`.
            executor: see :meth:`measure`.
            workers: see :meth:`measure`.
            progress: whether to show a bar.
            stack: see :meth:`measure`.

        Returns:
            A row for each run: ``dataset``, ``model``, ``method``, ``asked_sparsity``, ``seed``,
            ``sparsity`` (at the end), ``test_acc`` (at the end, in percent), ``inference_flops``
            and ``training_flops`` relative to the dense run, ``exploration``,
            ``initial_sparsity``, ``regrow_fraction`` (0: nothing regrows), ``seconds``,
            ``epochs`` (of one training), ``status``, ``note``, ``run``, ``stacked``, ``version``.
            The dense runs are there once, at sparsity 0. ``plots.method_summary`` averages over
            the seeds, with intervals.

        Raises:
            OSError: the folder cannot be written.
            ValueError: an unknown method, or a schedule that does not fit the recipe.
        """
        asked = comparison(recipe, methods, sparsities, seeds)
        recipes = [one.recipe for one in asked]
        files.check_writable(self.path)
        missing = [one for one in recipes if not self.run(one).finished]
        device = pools.device_of(executor, self.device)
        readiness.check(missing, device, here=executor is None)
        checkpoints = None if checkpoints is None else list(checkpoints)
        pool = pools.choose(executor, workers, missing, device)
        for one in missing:
            self.run(one).check_epochs(checkpoints)
        failed = sweep.measure_all(
            self.path,
            [],
            device,
            pool,
            progress,
            recipes=missing,
            keep=checkpoints,
            stack=_networks(stack),
        )
        table = compared(asked, {one: self.run(one) for one in recipes}, failed)
        bad = table[table["status"] != "ok"]
        which = bad["method"] + " " + bad["asked_sparsity"].astype(str)
        remarks.on_status(bad.assign(note=which + ": " + bad["note"]), "run")
        remarks.on_versions(table)
        return table

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

    def start(
        self,
        trials: Iterable[Trial],
        processes: OwnProcesses | None = None,
        stack: int | None = None,
    ) -> Job:
        """Measure what is missing in other processes, and come back at once.

        Args:
            trials: see :func:`granet_lab.grid`.
            processes: where; by default one process for each core, on a GPU one.
            stack: see :meth:`measure`.

        Returns:
            The job: ``job.progress()``, ``job.cancel()``, ``job.wait()``. What it has finished is
            in :meth:`table` at once.

        Raises:
            OSError: the folder cannot be written.
        """
        trials = list(trials)
        files.check_writable(self.path)
        readiness.check({trial.recipe for trial in trials}, self.device)
        if processes is None:
            workers = pools.worker_count([t.recipe for t in trials], self.device)
            processes = OwnProcesses(workers, self.device)
        return Job(self.path, trials, self.device, processes, _networks(stack))


def _networks(stack: int | None) -> int | None:
    return None if stack is None else checks.count("stack", stack, minimum=1)
