"""What it costs to hand a trial to somebody, and what a second worker brings.

    python -m benchmarks.dispatch [--repeats 3]

In this process and on Dask. What a trial takes besides its own seconds, which are in the table:
finding out that it is missing, handing it over, writing it down, reading it again. Beside Dask's
workers stand processes that are told everything at the beginning, and report to nobody: two of them
show what the machine has left for a second one.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

import cloudpickle
import torch

import granet_lab as gl
from benchmarks.targets import Target
from benchmarks.timing import gain, heading, in_turn, ratio
from granet_lab.experiments.execution import clusters, definitions, pools, tasks
from granet_lab.experiments.execution.packing import packs, together
from granet_lab.experiments.execution.tasks import Place
from granet_lab.experiments.trials import Trial

# Trials as short as there are: what is left is the rest.
_SHORT = 200
# What two workers divide.
_LONG = {"epochs": 20}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    run(parser.parse_args().repeats)


def run(repeats: int) -> None:
    """Measure and print the table."""
    print(f"{heading()}\n", flush=True)
    torch.set_num_threads(1)
    short = gl.recipes.digits(model="mlp", train_size=100, epochs=20, milestones=())
    trials = gl.grid(short, epoch=range(10), rate=[i / 100 for i in range(1, _SHORT // 10 + 1)])
    here = [overhead(trials, None) for _ in range(repeats)]
    with clusters.local(1) as one:
        overhead(trials[:8], one)  # everything is imported and loaded
        there = [overhead(trials, one) for _ in range(repeats)]
    place = Place(Path("runs"), "cpu", definitions.own())
    size = len(cloudpickle.dumps((tasks.carry_out, place, (trials[0],), 1, {}, None)))
    print(f"A task of one trial is {size / 1e3:.1f} kB\n")
    long = gl.recipes.digits(milestones=(), **_LONG)
    work = gl.grid(long, epoch=[5, 10, 15, 20], rate=[0.2, 0.5, 0.8, 0.9], seed=[0, 1, 2, 3])
    with trained(work) as lab, clusters.local(2) as two, processes(2) as both:
        ways = {
            "one worker": sweep(lab, work, two, 1),
            "two workers": sweep(lab, work, two, 2),
            "one process": bare(lab, work, both, 1),
            "two processes": bare(lab, work, both, 2),
        }
        times = in_turn(ways, repeats)
    print(f"{len(work)} trials of digits, on Dask's workers and in processes told at once")
    for name, seconds in times.items():
        print(f"  {name:<16}{statistics.median(seconds):8.1f} s")
    print(f"  two workers beside one    {ratio(times['one worker'], times['two workers'])}")
    print(f"  two processes beside one  {ratio(times['one process'], times['two processes'])}")
    print("\nTargets")
    print(Target("per trial in this process", 5, 1e3 * statistics.median(here), "ms"))
    print(Target("per trial on Dask", 20, 1e3 * statistics.median(there), "ms"))
    two_beside_one = gain(times["one worker"], times["two workers"])
    print(
        Target("two Dask workers beside one", 1.8, two_beside_one, "times", more=True), flush=True
    )


def overhead(trials: list[Trial], executor: Executor | None) -> float:
    """Seconds a trial that are not its own, of trials one by one on one worker."""
    with trained(trials) as lab:
        started = time.perf_counter()
        table = lab.measure(trials, executor=executor, workers=1, progress=False, stack=1)
        elapsed = time.perf_counter() - started
        return (elapsed - table["seconds"].sum()) / len(trials)


@contextlib.contextmanager
def trained(trials: list[Trial]):
    """A lab with the runs that trials branch from, and nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        lab = gl.Lab(folder, device="cpu")
        for recipe in dict.fromkeys(trial.recipe for trial in trials):
            lab.train(recipe, progress=False)
        yield lab


@contextlib.contextmanager
def processes(workers: int):
    """Some that end with the block."""
    pool = pools.OwnProcesses(workers)
    try:
        with pool.open() as executor:
            yield executor
    finally:
        pool.kill()


def bare(
    lab: gl.Lab, trials: list[Trial], executor: Executor, workers: int
) -> Callable[[], object]:
    """Measures the trials from nothing, in the packs of a sweep, handed over all at once."""
    place = Place(lab.path.absolute(), "cpu", definitions.own())
    room = tasks.room(place, trials[0].recipe)

    def run() -> None:
        forget(lab)
        parts = packs(together(trials), room, workers)
        for done in [executor.submit(tasks.carry_out, place, part, room, {}) for part in parts]:
            assert not done.result()

    return run


def sweep(
    lab: gl.Lab, trials: list[Trial], cluster: clusters.Cluster, workers: int
) -> Callable[[], object]:
    """Measures the trials from nothing, on so many workers of a cluster; others have nothing to
    do."""

    def run() -> None:
        forget(lab)
        cluster.workers = workers
        lab.measure(trials, executor=cluster, progress=False)

    return run


def forget(lab: gl.Lab) -> None:
    """Take away what was measured."""
    for path in lab.path.glob("*/trials/*.json"):
        path.unlink()


if __name__ == "__main__":
    main()
