"""A run on disk: its recipe, history, checkpoints and trials."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from granet_lab.datasets import Dataset
from granet_lab.experiments import checkpoints, files
from granet_lab.experiments.environment import environment, version
from granet_lab.experiments.files import DamagedFile
from granet_lab.experiments.identity import SCHEMA, describe, identity, run_folder
from granet_lab.sparsity import Masks, analysis
from granet_lab.training import loop, stacked
from granet_lab.training.recipe import Recipe
from granet_lab.training.state import Diverged, Pulse, TrainState

HISTORY = [
    "epoch",
    "lr",
    "train_loss",
    "train_acc",
    "val_loss",
    "val_acc",
    "test_loss",
    "test_acc",
    "sparsity",
    "seconds",
    "pruned",
    "regrown",
    "survival",
    "exploration",
    "training_flops",
    "stacked",
    "version",
]


# What the columns of the layers' sparsities begin with.
LAYER = "sparsity/"


class Run:
    """One training run: a folder ``<dataset>-<model>-<hash>``.

    Attributes:
        recipe: what fixes the run.
        path: its folder, which may not be there yet.
    """

    def __init__(self, root: Path, recipe: Recipe) -> None:
        self.recipe = recipe
        self.path = root / run_folder(recipe.dataset, recipe.model, identity(recipe))

    def __repr__(self) -> str:
        done = max(0, len(self.rows()) - 1)
        return f"Run({self.path.name}: {done} of {self.recipe.epochs} epochs)"

    @property
    def history(self) -> pd.DataFrame:
        """A row for each epoch, 0 (initialisation) to the last one done.

        Columns: ``epoch``, ``lr`` (of the epoch that ended), losses, accuracies in percent on the
        training batches (``train_``), the validation split (``val_``) and the test split
        (``test_``), ``sparsity`` and ``seconds``; connections ``pruned`` by the schedule and
        ``regrown`` in the epoch; ``survival``, the fraction of what one update brought back that
        the next one left in place; ``exploration``, the fraction of the weights that was ever
        active; ``training_flops`` so far; ``stacked``, whether the network was trained in a stack
        with others; ``version``, with what; the sparsity of each layer as
        ``sparsity/<name of the parameter>``. Runs of earlier versions have NaN or nothing there.
        """
        rows = self.rows()
        table = pd.DataFrame(rows)
        flops = table["flops"].cumsum(skipna=False) if "flops" in table else None
        layers = pd.DataFrame([row.get("layers", {}) for row in rows]).add_prefix(LAYER)
        together = table["stacked"].eq(True) if "stacked" in table else False
        table = table.assign(training_flops=flops, stacked=together)
        return table.reindex(columns=HISTORY).join(layers)

    @property
    def checkpoints(self) -> list[int]:
        """The epochs of which a checkpoint is kept."""
        return sorted(int(p.stem) for p in self.path.glob("checkpoints/*.safetensors"))

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train: the last epoch is done, or training diverged."""
        return complete(self.recipe, self.rows())

    @property
    def diverged(self) -> str | None:
        """In words, how training diverged; None if it did not."""
        rows = self.rows()
        return rows[-1].get("diverged") if rows else None

    def load(self, epoch: int, device: str = "cpu", pulse: Pulse = None) -> TrainState:
        """The network as it was after ``epoch`` epochs, optimizer and masks included.

        An epoch whose checkpoint was not kept, or is damaged, is reached again by training on from
        the nearest earlier one, bit for bit on a CPU; ``pulse`` is called after every step. A
        damaged file is set aside with a warning and written anew.

        Raises:
            Diverged: its training diverges before that epoch.
            RuntimeError: it does so now, and did not when it was trained first.
            ValueError: the run does not have that epoch.
        """
        if not 0 <= epoch <= self.recipe.epochs:
            raise ValueError(f"epoch {epoch} is not in this run: choose 0 to {self.recipe.epochs}")
        images = self.recipe.images(device)
        kept = [e for e in self.checkpoints if e <= epoch]
        while kept:
            path = self.checkpoint_path(kept[-1])
            try:
                state = checkpoints.read(path, loop.unmasked_state(self.recipe, images))
                break
            except DamagedFile as damaged:
                files.set_aside(damaged, path)
                kept.pop()
            except FileNotFoundError:  # another process has just set it aside
                kept.pop()
        else:
            state = loop.new_state(self.recipe, images)
        if state.epoch < epoch:
            self._train_again(state, images, epoch, pulse)
            if list(self.path.glob(f"checkpoints/{epoch:04d}.safetensors{files.ASIDE}*")):
                self.keep(state)
        return state

    def masks(self, epochs: Iterable[int] | None = None) -> dict[int, Masks]:
        """The masks after some epochs, by epoch; by default of those with a checkpoint.

        Raises:
            ValueError: the run does not have an epoch.
        """
        wanted = self.checkpoints if epochs is None else list(epochs)
        return {epoch: self.load(epoch).masks for epoch in wanted}

    def overlap(self, epochs: Iterable[int] | None = None) -> pd.DataFrame:
        """How alike the masks of any two epochs are: Jaccard's index, 0 to 1.

        Args:
            epochs: by default those with a checkpoint.

        Raises:
            ValueError: the run does not have an epoch, or there is none.
        """
        found = self.masks(epochs)
        names = pd.Index(found, name="epoch")
        return pd.DataFrame(analysis.overlaps([*found.values()]).numpy(), names, names)

    def exploration(self, epochs: Iterable[int] | None = None) -> pd.Series:
        """The fraction of the weights that was ever active, by epoch.

        Args:
            epochs: at which the masks are looked at, ascending; by default those with a
                checkpoint.

        Raises:
            ValueError: the run does not have an epoch.
        """
        found = self.masks(epochs)
        ever = list(analysis.explored(found.values()))
        return pd.Series(ever, pd.Index(found, name="epoch"), float, name="exploration")

    def rows(self) -> list[dict[str, Any]]:
        """The history as dicts; empty if there is none or it was damaged (and is set aside)."""
        path = self.path / "history.jsonl"
        try:
            return [dict(row) for row in _rows(path, files.stamp(path))]
        except DamagedFile as damaged:
            files.set_aside(damaged, path)
            return []

    def checkpoint_bytes(self) -> int:
        """What one checkpoint takes on the disk, to within its header."""
        return checkpoints.size(loop.new_state(self.recipe, self.recipe.images()))

    def checkpoint_path(self, epoch: int) -> Path:
        """Where the checkpoint of an epoch is, or would be."""
        return self.path / "checkpoints" / f"{epoch:04d}.safetensors"

    def trial_path(self, name: str) -> Path:
        """Where the trial with that hash is, or would be."""
        return self.path / "trials" / f"{name}.json"

    def failure_path(self, name: str) -> Path:
        """Where it says why the trial with that hash could not be measured, if so."""
        return self.path / "failures" / f"{name}.json"

    def check_epochs(self, keep: Iterable[int] | None) -> set[int]:
        """The epochs in ``keep``, every one of the run for None.

        Raises:
            ValueError: the run does not have one of them.
        """
        everything = set(range(self.recipe.epochs + 1))
        wanted = everything if keep is None else set(keep)
        if wanted - everything:
            bad = min(wanted - everything)
            raise ValueError(
                f"epoch {bad} is not in this run: choose checkpoints in 0 to {self.recipe.epochs}"
            )
        return wanted

    def describe(self, device: str) -> None:
        """Write down what the run is and where it was begun, unless that is there."""
        if (self.path / "recipe.json").exists():
            return
        if not self.rows():
            files.write_json(self.path / "environment.json", environment(device))
        files.write_json(
            self.path / "recipe.json", {"schema": SCHEMA, "recipe": describe(self.recipe)}
        )

    def record(self, rows: list[dict[str, Any]], row: dict[str, Any]) -> bool:
        """Append a row to the history, unless that epoch is there already; write the file whole.

        Args:
            rows: the history as it was read or written last; is changed.
            row: of an epoch.

        Returns:
            Whether it is this row that the history has now.
        """
        if row["epoch"] != len(rows):
            return False
        unknown = (k for k, v in row.items() if isinstance(v, float) and not math.isfinite(v))
        rows.append(row | dict.fromkeys(unknown) | {"version": version()})
        # Another process may be ahead of this one: a longer history is never shortened.
        ahead = len(self.rows()) >= len(rows)
        if not ahead:
            text = "".join(json.dumps(r, allow_nan=False) + "\n" for r in files.sealed(rows))
            files.write(self.path / "history.jsonl", text.encode())
        return not ahead

    def keep(self, state: TrainState) -> None:
        """Write a checkpoint."""
        checkpoints.write(self.checkpoint_path(state.epoch), state)

    def _train_again(self, state: TrainState, images: Dataset, until: int, pulse: Pulse) -> None:
        """Train on, each epoch as it was trained the first time: in a stack or alone."""
        rows = self.rows()
        while state.epoch < until:
            known = rows[state.epoch + 1] if state.epoch + 1 < len(rows) else {}
            fit = stacked.fit if known.get("stacked") else loop.fit
            try:
                for _ in fit(state, self.recipe, images, until=state.epoch + 1, pulse=pulse):
                    pass
            except Diverged as diverged:
                if not known or "diverged" in known:
                    raise
                again = f"{self.path.name} cannot be brought back to epoch {until}: {diverged}"
                raise RuntimeError(f"{again}, and was not when it was trained first") from diverged


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The history of the run in a folder as dicts, read from the disk; empty if there is none.

    Raises:
        DamagedFile: it is not what was written.
    """
    path = folder / "history.jsonl"
    try:
        lines = path.read_bytes().removesuffix(b"\n").split(b"\n")
        rows = files.unsealed([json.loads(line) for line in lines])
        if [row["epoch"] for row in rows] != list(range(len(rows))):
            raise ValueError("its epochs are not consecutive")
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedFile(path, error) from None
    return rows


# Thousands of trials branch from one run, and each asks for its history.
@functools.lru_cache(maxsize=256)
def _rows(path: Path, stamp: object) -> list[dict[str, Any]]:
    return read_rows(path.parent)


def complete(recipe: Recipe, rows: list[dict[str, Any]]) -> bool:
    """Whether a history comes to its end: that of the recipe, or training diverged."""
    return len(rows) == recipe.epochs + 1 or (bool(rows) and rows[-1].get("diverged") is not None)
