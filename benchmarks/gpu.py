"""What a GPU does with ResNet-20 on CIFAR-sized images: alone, in stacks, for a whole figure.

    python -m benchmarks.gpu [--repeats 3] [--grid fp32]
    python -m benchmarks.gpu --device cpu --images 256 --widths 2 4      # a rehearsal

The limits of the device; an epoch of one network beside a plain PyTorch loop; what checkpoints add;
stacks of several sizes; and what the grid of a plasticity figure takes, by the fastest stack or,
with --grid, really measured. The last table says which target is met. An epoch is 390 steps of 128
images and a test on 10,000.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

import granet_lab as gl
from benchmarks import pictures
from benchmarks.plain import PlainLoop
from benchmarks.targets import Target
from benchmarks.timing import Times, gain, heading, in_turn, ratio, table
from granet_lab.datasets import Dataset
from granet_lab.training.arithmetic import emulated
from granet_lab.training.limits import limits, needs, wait_for
from granet_lab.training.profiling import amount, training
from granet_lab.training.recipe import PRECISIONS, Recipe

WIDTHS = (8, 16, 32, 64, 128)
# A figure: 16 epochs x 4 rates, with and without regeneration, each trained on for 30 epochs.
GRID = {
    "epoch": list(range(0, 160, 10)),
    "rate": [0.2, 0.5, 0.9, 0.98],
    "regrow": [None, "gradient"],
}
RECOVERY = 30
NETWORK_EPOCHS = math.prod(map(len, GRID.values())) * RECOVERY
# Steps of the plain loop that are timed.
_PLAIN_STEPS = 40
# Of a run that keeps all its checkpoints, or none.
_KEPT_EPOCHS = 5


@dataclass(frozen=True)
class Asked:
    """What is measured.

    Attributes:
        device: where.
        images: of an epoch.
        tested: images on which every epoch ends.
        widths: networks in the stacks.
        repeats: how often each way is timed.
    """

    device: str
    images: int
    tested: int
    widths: tuple[int, ...]
    repeats: int

    def recipe(self, precision: str) -> Recipe:
        """ResNet-20 on so many images."""
        return pictures.recipe(precision=precision, train_size=self.images)

    def data(self) -> Dataset:
        """With a test on so many."""
        whole = pictures.recipe().images(self.device)
        return replace(whole, test=whole.test.first(self.tested))

    def epoch(self, recipe: Recipe, networks: int, record: bool = True) -> Callable[[], object]:
        """Trains and tests an epoch of so many networks, to its end."""
        return self.ended(training(recipe, self.data(), networks, record))

    def ended(self, function: Callable[[], object]) -> Callable[[], object]:
        """The function, and what it has asked of the device."""

        def run() -> None:
            function()
            wait_for(torch.device(self.device))

        return run


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--images", type=int, default=pictures.TRAIN, help="of an epoch")
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS, help="of the stacks")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--grid", choices=PRECISIONS, help="measure the whole grid in it")
    told = parser.parse_args()
    if told.device != "cpu" and not torch.cuda.is_available():
        parser.exit(2, "no GPU here; --device cpu --images 256 --widths 2 4 rehearses it\n")
    tested = pictures.TEST * told.images // pictures.TRAIN
    run(Asked(told.device, told.images, tested, tuple(told.widths), told.repeats), told.grid)


def run(asked: Asked, grid: str | None = None) -> None:
    """Measure and print the tables."""
    print(f"{heading(asked.device)}\n", flush=True)
    at_best(asked)
    alone = single(asked)
    cost = kept(asked)
    rates = {precision: stacks(asked, precision) for precision in precisions(asked)}
    taken = {p: NETWORK_EPOCHS / max(found.values()) for p, found in rates.items()}
    print(f"\nThe grid of a figure, {NETWORK_EPOCHS} epochs of a network, by the fastest stack")
    for precision, seconds in taken.items():
        print(f"  {precision:<6}{seconds / 60:8.1f} min")
    if grid is not None:
        taken[grid] = measured(asked, grid)
    print("\nTargets")
    print(Target("a checkpoint of an epoch", 3, 100 * cost, "%"))
    for precision, found in rates.items():
        wide = {n: rate for n, rate in found.items() if n >= 32} or found
        times = max(wide.values()) / found[1]
        print(Target(f"an epoch, {precision}", 1.5, alone[precision], "s"))
        name = f"epochs a second in a stack beside one, {precision}"
        print(Target(name, 8, times, "times", more=True))
        print(Target(f"the grid, {precision}", 10, taken[precision] / 60, "min"), flush=True)


def precisions(asked: Asked) -> list[str]:
    """Those that the device tells apart and has instructions for."""
    on_cpu = asked.device == "cpu"
    told_apart = [one for one in PRECISIONS if not (on_cpu and one == "tf32")]
    return [one for one in told_apart if not emulated(asked.recipe(one), asked.device)]


def at_best(asked: Asked) -> None:
    """What the device could do with an epoch of one network among many."""
    print("The limit: multiplications at the measured rate, or values moved at that of a copy")
    for precision in precisions(asked):
        recipe = pictures.recipe(precision=precision)
        able, wanted = limits(recipe, asked.device), needs(recipe)
        steps = asked.images // recipe.batch_size
        print(
            f"  {precision:<6}{amount(able.flops, 'FLOP/s'):>16}{amount(able.bytes, 'B/s'):>12}: "
            f"computing {steps * wanted.flops / able.flops:6.3f} s, "
            f"moving {steps * wanted.bytes / able.bytes:6.3f} s an epoch",
            flush=True,
        )


def single(asked: Asked) -> dict[str, float]:
    """An epoch of one network, beside a plain loop and without recordings: seconds by precision."""
    images, labels = pictures.arrays()
    workers = os.cpu_count() or 1
    train = images[: pictures.TRAIN], labels[: pictures.TRAIN]
    plain = PlainLoop(*train, workers=workers, device=asked.device)
    ways = {p: asked.epoch(asked.recipe(p), 1) for p in precisions(asked)}
    ways |= {
        f"{p}, not recorded": asked.epoch(asked.recipe(p), 1, record=False)
        for p in precisions(asked)
    }
    steps = min(_PLAIN_STEPS, asked.images // 128)
    times: Times = {"plain loop": _plain(asked, plain, steps)}
    times |= in_turn(ways, asked.repeats)
    print(f"\nAn epoch of one network, {asked.images:,} images; the plain loop by {steps} steps")
    print(table(times, "plain loop"), flush=True)
    return {p: statistics.median(times[p]) for p in precisions(asked)}


def _plain(asked: Asked, plain: PlainLoop, steps: int) -> list[float]:
    """Seconds of epochs, from some steps and the test on as many batches."""
    ways = {"train": lambda: plain.train(steps), "test": lambda: plain.test(steps)}
    found = in_turn({name: asked.ended(way) for name, way in ways.items()}, asked.repeats)
    epochs, tests = (n / 128 / steps for n in (asked.images, asked.tested))
    return [epochs * a + tests * b for a, b in zip(found["train"], found["test"], strict=True)]


def kept(asked: Asked) -> float:
    """What a checkpoint adds to an epoch where epochs are the shortest, as a share of it."""
    precision = precisions(asked)[-1]
    recipe = replace(asked.recipe(precision), epochs=_KEPT_EPOCHS, milestones=())
    ways = {
        "no checkpoint": _run_through(asked, recipe, []),
        "one for each epoch": _run_through(asked, recipe, None),
    }
    times = in_turn(ways, asked.repeats)
    print(f"\nA run of {_KEPT_EPOCHS} epochs, {precision}, from and to the disk")
    print(table(times, "no checkpoint", faster=False), flush=True)
    return gain(times["one for each epoch"], times["no checkpoint"]) - 1


def _run_through(asked: Asked, recipe: Recipe, keep: list[int] | None) -> Callable[[], object]:
    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            gl.Lab(folder, device=asked.device).train(recipe, keep, progress=False)

    return run


def stacks(asked: Asked, precision: str) -> dict[int, float]:
    """Epochs of a network a second, by how many share a stack."""
    recipe = asked.recipe(precision)
    print(f"\nStacks, {precision}: epochs of a network a second; beside one; memory", flush=True)
    rates = {}
    for n in (1, *asked.widths):
        _begin(asked)
        try:
            ways = {1: asked.epoch(recipe, 1), n: asked.epoch(recipe, n)}
            # What a network alone does in the same minute is its own measure.
            times = in_turn(ways, asked.repeats)
        except torch.cuda.OutOfMemoryError:
            print(f"  {n:>4}   does not fit")
            break
        rates[n] = n / statistics.median(times[n])
        alone = [n * seconds for seconds in times[1]]
        print(f"  {n:>4}{rates[n]:9.2f}   {ratio(alone, times[n])}   {_memory(asked)}", flush=True)
        del ways
    return rates


def _begin(asked: Asked) -> None:
    if asked.device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _memory(asked: Asked) -> str:
    return "" if asked.device == "cpu" else amount(torch.cuda.max_memory_allocated(), "B")


def measured(asked: Asked, precision: str) -> float:
    """Seconds of the grid, through ``lab.measure`` with whatever it chooses."""
    recipe = asked.recipe(precision)
    trials = gl.grid(recipe, **GRID, recovery_epochs=RECOVERY)
    with tempfile.TemporaryDirectory() as folder:
        lab = gl.Lab(folder, device=asked.device)
        started = time.perf_counter()
        lab.train(recipe, checkpoints=GRID["epoch"])
        trained = time.perf_counter()
        found = lab.measure(trials)
        ended = time.perf_counter()
    stacked = sorted(found.stacked.unique())
    print(f"\nThe grid, {precision}, through lab.measure: {len(trials)} trials, {RECOVERY} epochs")
    print(f"  the run they branch from   {trained - started:8.1f} s")
    print(f"  the trials                 {ended - trained:8.1f} s, stacks of {stacked}")
    print(f"  status                     {found.status.value_counts().to_dict()}")
    return ended - trained


if __name__ == "__main__":
    main()
