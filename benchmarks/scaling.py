"""What many trials cost on a CPU: by their number, the network's size, the stack's and the cores'.

    python -m benchmarks.scaling [--repeats 3]

Digits unless it says otherwise; a trial is pruned, tested and trained on for six epochs.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import granet_lab as gl
from benchmarks import pictures
from benchmarks.targets import Target
from benchmarks.timing import gain, heading, in_turn, ratio
from benchmarks.training import Several
from granet_lab.experiments.trials import Trial
from granet_lab.training.limits import needs
from granet_lab.training.profiling import training
from granet_lab.training.recipe import Recipe

CORES = os.cpu_count() or 1
TRIALS = (1, 4, 16, 64, 256)
# One by one, more than these only take longer.
_ALONE = 64
WIDTHS = (1, 2, 4, 8, 16, 32, 64)
_STACK = 8


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    run(parser.parse_args().repeats)


def run(repeats: int = 3) -> None:
    """Measure and print the tables."""
    print(f"{heading()}\n")
    digits = by_trials(repeats)
    by_width(repeats)
    by_size(repeats)
    by_division(repeats)
    real = real_images(repeats)
    print("\nTargets")
    name = f"{CORES} processes beside one"
    print(Target(f"a sweep of digits, {name}", 0.95 * CORES, digits, "times", more=True))
    print(Target(f"a sweep of ResNet-20, {name}", 0.95 * CORES, real, "times", more=True))


def by_trials(repeats: int) -> float:
    """A sweep of so many trials of one run; how many times as fast the largest is on all cores."""
    ways = {
        "one by one": {"workers": 1, "stack": 1},
        "stacked": {"workers": 1},
        f"stacked, {CORES} processes": {"workers": CORES},
    }
    print(
        "Trials of one run: seconds, each; how many times as fast the processes, once they have\n"
        "started, are as one"
    )
    print(f"  {'trials':>6}" + "".join(f"{name:>22}" for name in ways))
    with _trained(gl.recipes.digits()) as lab:
        for n in TRIALS:
            trials = _trials(gl.recipes.digits(), n)
            asked = {k: v for k, v in ways.items() if k != "one by one" or n <= _ALONE}
            sweeps = {name: _sweep(lab, trials, how) for name, how in asked.items()}
            times = in_turn(sweeps, repeats, warm_up=False, before=functools.partial(_warm, lab))
            cells = [_cell(times.get(name), n) for name in ways]
            one, several = list(times.values())[-2:]
            print(f"  {n:>6}{''.join(cells)}   {ratio(one, several)}", flush=True)
    return gain(one, several)


def _cell(found: list[float] | None, n: int) -> str:
    if found is None:
        return f"{'':22}"
    seconds = statistics.median(found)
    return f"{seconds:9.2f} s {1e3 * seconds / n:8.0f} ms"


def _trials(recipe: Recipe, n: int) -> list[Trial]:
    """So many, all different."""
    rates = [round(0.1 + 0.8 * i / 64, 4) for i in range(64)]
    trials = gl.grid(recipe, epoch=[10, 20, 30, 40], rate=rates)
    return trials[:: len(trials) // n][:n]


@contextlib.contextmanager
def _trained(recipe: Recipe) -> Iterator[gl.Lab]:
    with tempfile.TemporaryDirectory() as folder:
        lab = gl.Lab(folder, device="cpu")
        lab.train(recipe, progress=False)
        yield lab


def _warm(lab: gl.Lab, trials: list[Trial] | None = None) -> None:
    """Start the worker processes, which stay for a minute; what they measured is forgotten."""
    lab.measure(trials or _trials(gl.recipes.digits(), 4), workers=CORES, progress=False)
    _forget(lab)


def _forget(lab: gl.Lab) -> None:
    for folder in Path(lab.path).glob("*/trials"):
        shutil.rmtree(folder)


def _sweep(lab: gl.Lab, trials: list[Trial], how: dict[str, int]) -> Callable[[], None]:
    def sweep() -> None:
        _forget(lab)
        table = lab.measure(trials, progress=False, **how)
        assert (table.status == "ok").all()

    return sweep


def by_width(repeats: int) -> None:
    """Networks in a stack."""
    print("\nNetworks in a stack, one core: milliseconds for each network's step")
    ways = {n: _epoch(gl.recipes.digits(), n) for n in WIDTHS}
    _rows(ways, 18, repeats)


def by_size(repeats: int) -> None:
    """Networks of several sizes, alone and in a stack."""
    print(f"\nSizes of network, one core: alone, and {_STACK} in a stack")
    small, large = gl.recipes.digits, pictures.recipe
    recipes = {
        "mlp, 8x8, batch 50": small(model="mlp"),
        "convnet, 8x8, batch 50": small(),
        "resnet20, 8x8, batch 50": small(model="resnet20"),
        "resnet20, 32x32, batch 128": large(),
    }
    for name, recipe in recipes.items():
        steps = 2 if recipe.dataset == pictures.NAME else 18
        recipe = replace(recipe, train_size=steps * recipe.batch_size)
        times = in_turn({n: _epoch(recipe, n) for n in (1, _STACK)}, repeats)
        each = {n: [t / n / steps for t in found] for n, found in times.items()}
        alone, stacked = (1e3 * statistics.median(found) for found in each.values())
        print(
            f"  {name:<28}{needs(recipe).flops / 1e6:9.0f} MFLOP{alone:9.2f} ms{stacked:9.2f} ms"
            f"   {ratio(each[1], each[_STACK])}"
        )


def _epoch(recipe: Recipe, networks: int) -> Callable[[], object]:
    """Trains an epoch of so many networks; a test of few images is in it."""
    whole = recipe.images()
    few = replace(whole, validation=whole.validation.first(1), test=whole.test.first(1))
    return training(replace(recipe, epochs=10**6, milestones=()), few, networks, record=True)


def _rows(ways: dict[int, Callable[[], object]], steps: int, repeats: int) -> None:
    times = in_turn(ways, 2 * repeats)
    each = {n: [t / n / steps for t in found] for n, found in times.items()}
    for n, found in each.items():
        beside = "" if n == 1 else f"   {ratio(each[1], found)}"
        print(f"  {n:>4}{1e3 * statistics.median(found):9.2f} ms{beside}")


def by_division(repeats: int) -> None:
    """Processes times threads."""
    _divided("resnet20, 32x32, batch 128", pictures.recipe, 2, repeats)
    _divided("convnet, 8x8, batch 50", gl.recipes.digits, 18, repeats)


def _divided(name: str, make: Callable[..., Recipe], steps: int, repeats: int) -> None:
    print(f"\nProcesses x threads, {name}: networks' steps a second")
    divisions = sorted({(1, 1), (1, CORES), (CORES, 1), (CORES, CORES)})
    with contextlib.ExitStack() as stack:
        pools = {
            (processes, threads): stack.enter_context(Several(make(threads=threads), processes))
            for processes, threads in divisions
        }
        ways = {d: functools.partial(pool.train, steps) for d, pool in pools.items()}
        times = in_turn(ways, repeats)
    for (processes, threads), found in times.items():
        rate = processes * steps / statistics.median(found)
        alone = [processes * t for t in times[1, 1]]
        beside = "" if (processes, threads) == (1, 1) else f"   {ratio(alone, found)}"
        print(f"  {processes} x {threads}{rate:9.1f}{beside}")


def real_images(repeats: int) -> float:
    """A sweep of a network that keeps a core busy by itself; how many times as fast on all."""
    recipe = pictures.recipe(dataset=pictures.FEW, epochs=2, milestones=(), train_size=10 * 128)
    with _trained(recipe) as lab:
        trials = gl.grid(recipe, epoch=[1, 2], rate=[0.2, 0.5, 0.9, 0.98], recovery_epochs=1)
        ways = {n: _sweep(lab, trials, {"workers": n}) for n in (1, CORES)}
        times = in_turn(ways, repeats, before=functools.partial(_warm, lab, trials[:CORES]))
    print(f"\n{len(trials)} trials of ResNet-20, 32x32: {CORES} processes beside one")
    for n, found in times.items():
        beside = "" if n == 1 else f"   {ratio(times[1], found)}"
        print(f"  {n:>4}{statistics.median(found):9.2f} s{beside}")
    return gain(times[1], times[CORES])


if __name__ == "__main__":
    main()
