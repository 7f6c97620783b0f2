"""What a store costs: a table of many trials, first and again; writing; notes; checkpoints.

    python -m benchmarks.store [--trials 10000] [--repeats 3]

Trials are made up: copies of one that was measured, each under its own name.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

import granet_lab as gl
from benchmarks import pictures
from benchmarks.targets import Target
from benchmarks.timing import heading
from granet_lab.experiments import files
from granet_lab.experiments.checkpoints import Snapshot
from granet_lab.experiments.execution.progress import News
from granet_lab.experiments.execution.telling import Teller
from granet_lab.experiments.identity import describe, identity
from granet_lab.experiments.store import Run
from granet_lab.experiments.trials import Trial
from granet_lab.training import loop
from granet_lab.training.recipe import Recipe
from granet_lab.upkeep.verification import verify

# A stack on a GPU, and how far its trials have come.
_LANES, _EPOCHS = 128, 30


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    told = parser.parse_args()
    print(f"{heading()}\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), told.trials, told.repeats)


def run(folder: Path, n: int, repeats: int, stacks: int = 100) -> None:
    """Measure and print the table."""
    recipe = gl.recipes.digits(model="mlp", train_size=200, epochs=100, milestones=())
    trials, seconds = filled(folder, recipe, n)
    size = sum(path.stat().st_size for path in folder.glob("*/trials/*.json")) / n
    print(f"{n:,} trials of {size / 1e3:.1f} kB each, written one by one")
    print(f"  write one, with its flush to the disk  {1e3 * seconds / n:8.2f} ms")
    before = psutil.Process().memory_info().rss
    lab = gl.Lab(folder, device="cpu")
    first = [seconds_of(lambda: lab.table(trials))]
    taken = psutil.Process().memory_info().rss - before
    for _ in range(repeats - 1):
        other = gl.Lab(folder, device="cpu")
        first.append(seconds_of(lambda lab=other: lab.table(trials)))
    again = [seconds_of(lambda: lab.table(trials)) for _ in range(repeats)]
    asked = [seconds_of(lambda: lab.measure(trials, progress=False)) for _ in range(repeats)]
    listed = seconds_of(lambda: sum(1 for _ in folder.glob("*/trials/*.json")))
    verified = seconds_of(lambda: sum(1 for _ in verify(folder)))
    print(f"  list their names                       {1e3 * listed:8.1f} ms")
    print(f"  measure, with nothing left to do       {statistics.median(asked):8.2f} s")
    print(f"  verify, every file read                {verified:8.2f} s")
    print(f"  memory of who asks for them            {taken / n / 1e3:8.1f} kB each")
    notes(folder / "told", recipe, stacks)
    copied, written, size = resnet(folder)
    print(f"\nA checkpoint of ResNet-20, {size / 1e6:.1f} MB")
    print(f"  copy it, for which training waits      {1e3 * statistics.median(copied):8.1f} ms")
    print(f"  write it, with its flush to the disk   {1e3 * statistics.median(written):8.1f} ms")
    print("\nTargets")
    print(Target(f"a table of {n:,} trials, first", 5, statistics.median(first), "s"))
    print(Target(f"a table of {n:,} trials, again", 1, statistics.median(again), "s"), flush=True)


def filled(folder: Path, recipe: Recipe, n: int) -> tuple[list[Trial], float]:
    """A store of so many trials of a run, and the seconds that writing them took."""
    lab = gl.Lab(folder, device="cpu")
    lab.train(recipe, checkpoints=[recipe.epochs], progress=False)
    rates = [i / 1000 for i in range(1, 1 + -(-n // recipe.epochs))]
    trials = gl.grid(recipe, epoch=range(recipe.epochs), rate=rates)[:n]
    lab.measure(trials[0], progress=False)
    run = lab.run(recipe)
    found = files.read_json(run.trial_path(identity(trials[0])))
    started = time.perf_counter()
    for trial in trials[1:]:
        path = run.trial_path(identity(trial))
        files.write_json(path, found | {"trial": describe(trial)})
    return trials, time.perf_counter() - started


def notes(root: Path, recipe: Recipe, stacks: int) -> None:
    """Print what the notes of many stacks cost, once for each of them."""
    run, news = Run(root, recipe), News()
    point = {"lr": 0.1, "train_loss": 0.123456, "val_acc": 91.234567, "test_acc": 90.345678}
    curve = [{"recovery_epoch": epoch, **point} for epoch in range(_EPOCHS + 1)]
    tellers = [Teller() for _ in range(stacks)]
    for teller in tellers:
        for lane in range(_LANES):
            teller.tell(run.path, f"{lane:016x}", _EPOCHS, _EPOCHS, curve)
    time.sleep(1)  # all of them may write again
    written = seconds_of(lambda: [teller.check() for teller in tellers])
    size = sum(path.stat().st_size for path in run.path.glob("progress/*")) / stacks
    new = seconds_of(lambda: sum(1 for _ in news.of(run)))
    old = seconds_of(lambda: sum(1 for _ in news.of(run)))
    for teller in tellers:
        teller.close()
    print(f"\nThe note of a stack of {_LANES}, {size / 1e3:.0f} kB after {_EPOCHS} epochs")
    for what, seconds in {
        "write it": written,
        "see that it is new, and read it": new,
        "see that it is not": old,
    }.items():
        print(f"  {what:<38} {1e3 * seconds / stacks:8.2f} ms")


def resnet(folder: Path, times: int = 9) -> tuple[list[float], list[float], int]:
    """Seconds that a checkpoint takes to be copied and to be written, and its bytes."""
    recipe = pictures.recipe(dataset=pictures.FEW)
    state = loop.new_state(recipe, recipe.images())
    path, kept = folder / "checkpoints" / "0000.safetensors", Snapshot.of(state)
    copied = [seconds_of(lambda: Snapshot.of(state)) for _ in range(times)]
    written = [seconds_of(lambda: kept.write(path)) for _ in range(times)]
    return copied, written, path.stat().st_size


def seconds_of(function: Callable[[], object]) -> float:
    """How long it takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
