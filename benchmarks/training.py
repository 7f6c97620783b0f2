"""What training ResNet-20 on CIFAR-sized images costs on a CPU.

    python -m benchmarks.training [--repeats 5]

An epoch beside that of a plain PyTorch loop; the same with each of this package's features off; and
what the processor could do at best. Steps are timed in turn and made into an epoch of 50,000
images, 390 steps of 128, and a test on 10,000.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context

import torch
from torch import Tensor, nn

from benchmarks import pictures
from benchmarks.plain import PlainLoop
from benchmarks.targets import Target
from benchmarks.timing import Times, heading, in_turn, scaled, table
from granet_lab.sparsity import cost, methods
from granet_lab.training import loop
from granet_lab.training.arithmetic import arithmetic, emulated
from granet_lab.training.dynamics import factors_of
from granet_lab.training.evaluation import evaluate
from granet_lab.training.limits import limits, needs
from granet_lab.training.recipe import Recipe

BATCH = 128
STEPS_IN_EPOCH = pictures.TRAIN // BATCH
# How many are timed at once; a test on as many images.
_STEPS = 4
_TESTED = _STEPS * BATCH
CPU = torch.device("cpu")


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    run(parser.parse_args().repeats)


def run(repeats: int = 5) -> None:
    """Measure and print the tables."""
    print(f"{heading()}\n")
    whole = epochs(repeats)
    features(repeats)
    computing = at_best(repeats)
    plain, *ours = (statistics.median(found) for found in whole.values())
    print("\nTarget")
    why = f"computing alone, at the rate measured above, is {plain / computing:.2f} times as fast"
    print(Target("an epoch beside the plain loop", 2.5, plain / min(ours), "times", True, why))


def epochs(repeats: int) -> Times:
    """An epoch beside that of the plain loop: seconds."""
    cores = os.cpu_count() or 1
    images, labels = pictures.arrays()
    plain = PlainLoop(images[: pictures.TRAIN], labels[: pictures.TRAIN])
    ours = Training(pictures.recipe(threads=cores))
    half = Training(pictures.recipe(threads=cores, precision="bf16"))
    with Several(pictures.recipe(threads=1), cores) as several:
        steps = {
            "plain loop": lambda: plain.train(_STEPS),
            "granet_lab": lambda: ours.train(_STEPS),
            f"granet_lab, {cores} networks at once": lambda: several.train(_STEPS),
            "granet_lab, bf16": lambda: half.train(1),
        }
        trained = in_turn(steps, repeats)
        tests = {
            "plain loop": lambda: plain.test(_STEPS),
            "granet_lab": lambda: ours.test(_TESTED),
            f"granet_lab, {cores} networks at once": lambda: several.test(_TESTED),
            "granet_lab, bf16": lambda: half.test(BATCH),
        }
        tested = in_turn(tests, repeats)
    once = {"granet_lab, bf16": _STEPS, f"granet_lab, {cores} networks at once": 1 / cores}
    whole = _epochs(scaled(trained, once), scaled(tested, once))
    print(f"An epoch of ResNet-20, {cores} cores: seconds for each network")
    print(table(whole, "plain loop"))
    if emulated(pictures.recipe(precision="bf16"), "cpu"):
        print("  (this processor has no instructions for bfloat16)")
    return whole


def _epochs(trained: Times, tested: Times) -> Times:
    """Whole epochs from what some steps and a test on some images took."""
    return {
        name: [
            step / _STEPS * STEPS_IN_EPOCH + test / _TESTED * pictures.TEST
            for step, test in zip(trained[name], tested[name], strict=True)
        ]
        for name in trained
    }


@dataclass(frozen=True)
class Features:
    """What makes a step of this package; each can be off.

    Attributes:
        tensors: images are tensors, augmented many at a time; off: PIL, one by one.
        channels_last: the memory layout.
        own_sgd: one fused call, the mask in it; off: torch's SGD, layer by layer masked.
        in_place: activations overwrite what they come from.
        quiet: nobody asks for the loss before the epoch is over.
    """

    tensors: bool = True
    channels_last: bool = True
    own_sgd: bool = True
    in_place: bool = True
    quiet: bool = True


OFF = {
    "all features": Features(),
    "PIL and DataLoader": Features(tensors=False),
    "channels first": Features(channels_last=False),
    "torch's SGD, masks layer by layer": Features(own_sgd=False),
    "activations not in place": Features(in_place=False),
    "loss.item() in every step": Features(quiet=False),
}


def features(repeats: int) -> None:
    """The same step with each feature off: one thread, a network of sparsity 0.9."""
    sparse = pictures.recipe(method=methods.static(0.9))
    ways = {name: Steps(sparse, features).take for name, features in OFF.items()}
    print("\nA training step of ResNet-20, sparsity 0.9, one core; each feature off in turn")
    times = {n: [t / 2 for t in found] for n, found in in_turn(ways, 2 * repeats).items()}
    print(table(times, "all features", "ms", faster=False))
    ours = Training(pictures.recipe())
    ways = {
        "as many images as caches hold": lambda: ours.test(2000),
        "2,000 images at a time": lambda: ours.test_at_once(2000),
    }
    print("\nA test on 2,000 images, one core")
    print(table(in_turn(ways, repeats), "as many images as caches hold", faster=False))


def at_best(repeats: int) -> float:
    """What the processor could do; seconds of an epoch on all cores that computed and did nothing
    else."""
    print("\nThe limit: multiplications at the measured rate, or values moved at that of a copy")
    for threads in sorted({1, os.cpu_count() or 1}):
        recipe = pictures.recipe(threads=threads)
        able, asked = limits(recipe), needs(recipe)
        ours = Training(recipe)
        found = in_turn({"step": lambda ours=ours: ours.train(2)}, repeats)["step"]
        step = statistics.median(found) / 2
        print(
            f"  {threads} thread{'s' if threads > 1 else ' '}   {able.flops / 1e9:5.0f} GFLOP/s, "
            f"{able.bytes / 1e9:3.0f} GB/s: computing {1e3 * asked.flops / able.flops:4.0f} ms, "
            f"moving {1e3 * asked.bytes / able.bytes:4.0f} ms; a step takes {1e3 * step:4.0f} ms, "
            f"{asked.flops / able.flops / step:.0%} of it computing at that rate"
        )
    tested = pictures.TEST / BATCH / cost.FORWARD_AND_BACKWARD
    return (STEPS_IN_EPOCH + tested) * asked.flops / able.flops


class Training:
    """This package's own loop on so many steps' images."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = replace(recipe, epochs=10**6, milestones=())
        self._data = recipe.images()
        data = self._data
        few = replace(data, validation=data.validation.first(1), test=data.test.first(1))
        self._few, self._state = few, loop.new_state(self._recipe, few)

    def train(self, steps: int) -> None:
        """Through ``loop.fit``."""
        asked = replace(self._recipe, train_size=steps * self._recipe.batch_size)
        next(loop.fit(self._state, asked, self._few, self._recipe.epochs))

    def test(self, images: int) -> None:
        """Through ``evaluate``."""
        some = replace(self._few, test=self._data.test.first(images))
        evaluate(self._state, self._recipe, some)

    @torch.no_grad()
    def test_at_once(self, images: int) -> None:
        """All in one batch."""
        with arithmetic(self._recipe, CPU):
            self._state.model.eval()(self._data.normalise(self._data.test.images[:images]))


class Several:
    """As many trainings as there are cores, each in a process of its own."""

    def __init__(self, recipe: Recipe, processes: int) -> None:
        self._recipe, self._processes = recipe, processes
        self._pools = [
            ProcessPoolExecutor(1, get_context("spawn"), _begin, (recipe,))
            for _ in range(processes)
        ]

    def __enter__(self) -> Several:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in self._pools:
            pool.shutdown()

    def train(self, steps: int) -> None:
        """All of them."""
        self._all(_train, steps)

    def test(self, images: int) -> None:
        """All of them."""
        self._all(_test, images)

    def _all(self, function: Callable[[int], None], amount: int) -> None:
        for future in [pool.submit(function, amount) for pool in self._pools]:
            future.result()


_here: list[Training] = []


def _begin(recipe: Recipe) -> None:
    pictures.recipe()  # registers the data set in this process
    _here.append(Training(recipe))


def _train(steps: int) -> None:
    _here[0].train(steps)


def _test(images: int) -> None:
    _here[0].test(images)


class Steps:
    """Training steps with some features off."""

    def __init__(self, recipe: Recipe, features: Features) -> None:
        self._recipe, self._features = recipe, features
        self._state = loop.new_state(recipe, recipe.images())
        model = self._state.model
        if not features.channels_last:
            model.to(memory_format=torch.contiguous_format)
        if not features.in_place:
            for layer in model.modules():
                if isinstance(layer, nn.ReLU):
                    layer.inplace = False
        self._optimizer = torch.optim.SGD(
            model.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay
        )
        self._factors = factors_of(self._state)
        self._batches = self._endless()
        if not features.tensors:
            images, labels = pictures.arrays()
            self._plain = PlainLoop(images[: pictures.TRAIN], labels[: pictures.TRAIN], workers=0)
            self._batches = self._plain._training

    def take(self, steps: int = 2) -> None:
        """Some of them."""
        model = self._state.model.train()
        layout = torch.channels_last if self._features.channels_last else torch.contiguous_format
        with arithmetic(self._recipe, CPU):
            for _ in range(steps):
                images, labels = next(self._batches)
                images = images.contiguous(memory_format=layout)
                told, *_ = loop.learn(model, self._recipe, images, labels)
                if not self._features.quiet:
                    told[0].item()
                self._move()

    def _move(self) -> None:
        if self._features.own_sgd:
            self._state.optimizer.step(self._recipe.lr, self._factors)
            return
        self._optimizer.step()
        with torch.no_grad():
            for weight, factor in self._factors:
                weight.mul_(factor)
                self._optimizer.state[weight]["momentum_buffer"].mul_(factor)

    def _endless(self) -> Iterator[tuple[Tensor, Tensor]]:
        for epoch in range(10**6):
            yield from loop.epoch_batches(self._recipe, self._recipe.images(), epoch)


if __name__ == "__main__":
    main()
