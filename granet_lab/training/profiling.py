"""Where the time of a training step goes."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

import torch
from torch.profiler import ProfilerActivity

from granet_lab import checks
from granet_lab.datasets import Dataset
from granet_lab.sparsity import methods
from granet_lab.training import loop, stackable
from granet_lab.training.arithmetic import arithmetic
from granet_lab.training.evaluation import evaluate
from granet_lab.training.limits import Limits, Needs, limits, needs, wait_for
from granet_lab.training.recipe import Recipe
from granet_lab.training.stacked import Stack

CONVOLUTIONS = ("convolutions, forward", "convolutions, backward")
REST = "Python, launching, waiting"
# What torch calls its operations, by the part of a step that they belong to; the first that fits.
_PARTS = {
    CONVOLUTIONS[1]: r"conv.*backward",
    CONVOLUTIONS[0]: r"conv|im2col",
    "normalisation, backward": r"norm_backward|norm.*backward",
    "normalisation, forward": r"(batch|layer|group|instance).*norm",
    "linear layers": r"mm$|bmm|linear|matmul|mkldnn_linear",
    "loss and accuracy": r"softmax|nll|cross_entropy|argmax|aten::eq|aten::sum$",
    "optimizer": r"sgd|foreach",
    "activations": r"relu|threshold|clamp|gelu|silu|sigmoid|tanh|pool|dropout",
    "copies": r"copy_|clone|contiguous|cat$|stack|index|gather|pad|flip|where|fill_|zero_",
    "sums and products": r"aten::(add|sub|mul|div|mean|sum|neg|sqrt|rsqrt|pow)",
}
_OTHER = "other operations"
# Steps until everything is set up, at least; times that all is timed: the median counts.
_WARM_UP, _ROUNDS = 4, 3


@dataclass(frozen=True)
class Profile:
    """A training step, timed.

    Attributes:
        recipe: whose.
        device: where.
        networks: trained in one pass.
        seconds: a step takes, of all networks.
        images: seconds of it that making the batches takes, about.
        test: seconds that a validation and test of all networks takes.
        steps: in an epoch.
        parts: seconds of a step by part, the longest first; on a GPU those it is busy, so that
            what is left of ``seconds`` is its idleness.
        needs: of one network's step; None for layers of unknown cost.
        limits: of the device.
    """

    recipe: Recipe
    device: str
    networks: int
    seconds: float
    images: float
    test: float
    steps: int
    parts: Mapping[str, float]
    needs: Needs | None
    limits: Limits

    @property
    def epoch(self) -> float:
        """Seconds of an epoch of all networks, its test included."""
        return self.steps * self.seconds + self.test

    def __str__(self) -> str:
        each = self.recipe.batch_size
        who = "a network" if self.networks == 1 else f"{self.networks} networks in a stack"
        lines = [
            f"A step of {who}, {each} images each, on {self.device}, {self.recipe.precision}:",
            "",
            *(
                f"  {part:<28}{1e3 * seconds:>9.2f} ms{seconds / self.seconds:>6.0%}"
                for part, seconds in self.parts.items()
            ),
            f"  {'all':<28}{1e3 * self.seconds:>9.2f} ms  "
            f"(making the batches {1e3 * self.images:.2f} ms of it)",
            "",
            f"An epoch: {self.steps} steps {self.steps * self.seconds:.1f} s, "
            f"validation and test {self.test:.1f} s.",
        ]
        return "\n".join([*lines, *self._against_the_limits()])

    def _against_the_limits(self) -> list[str]:
        if self.needs is None:
            return ["What the network has to compute is not known: it has layers of unknown cost."]
        flops, moved = self.networks * self.needs.flops, self.networks * self.needs.bytes
        shortest = self.networks * self.limits.seconds(self.needs)
        return [
            f"The step has to compute {amount(flops, 'FLOP')} and to move {amount(moved, 'B')}. "
            "Measured here:",
            f"{amount(self.limits.flops, 'FLOP/s')} and {amount(self.limits.bytes, 'B/s')}, so "
            f"{1e3 * shortest:.2f} ms at the least, {shortest / self.seconds:.0%} of what a step "
            "takes.",
        ]


def profile(recipe: Recipe, device: str = "cpu", networks: int = 1, steps: int = 10) -> Profile:
    """Time some steps of the recipe's dense network, or of a stack of several.

    The whole is timed undisturbed; its parts by torch's profiler, in other steps.

    Args:
        recipe: what is trained.
        device: a torch device.
        networks: 1, or an even number that shares a stack.
        steps: how many are timed.

    Raises:
        ValueError: networks that cannot be stacked, or fewer images than a batch.
    """
    checks.count("steps", steps, minimum=1)
    if checks.count("networks", networks, minimum=1) > 1 and networks % 2:
        raise ValueError(f"networks must be 1 or an even number, not {networks}")
    if networks > 1 and (why := stackable.obstacle(recipe, device)) is not None:
        raise ValueError(f"{recipe.model} cannot be trained in a stack: {why}")
    whole = recipe.images(device)
    in_epoch = loop.steps_per_epoch(recipe, whole)
    if not in_epoch:
        raise ValueError(f"batch_size must be at most {len(whole.train)}, the images")
    steps = min(steps, in_epoch)
    asked = replace(
        recipe,
        method=methods.dense(),
        epochs=3,
        milestones=(),
        warmup_epochs=0,
        train_size=steps * recipe.batch_size,
    )
    data = replace(whole, validation=whole.validation.first(1), test=whole.test.first(1))
    train = training(asked, data, networks, record=True)
    seen = training(asked, data, networks, record=False)
    for _ in range(1 + _WARM_UP // steps):
        train(), seen()
    rounds = [_round(train, seen, steps, data) for _ in range(_ROUNDS)]
    return Profile(
        recipe=recipe,
        device=device,
        networks=networks,
        seconds=median(sum(parts.values()) for parts in rounds),
        images=networks * _batches(asked, data) / steps,
        test=_test(asked, whole, networks),
        steps=in_epoch,
        parts=_median_parts(rounds),
        needs=_known_needs(recipe),
        limits=limits(recipe, device),
    )


def training(recipe: Recipe, data: Dataset, networks: int, record: bool) -> Callable[[], object]:
    """What trains the next epoch, for as often as it is called."""
    recipes = [replace(recipe, seed=recipe.seed + i, epochs=1000) for i in range(networks)]
    states = [loop.new_state(one, data) for one in recipes]
    if networks == 1:
        rows = loop.fit(states[0], recipes[0], data, 1000, record=record)
        return lambda: next(rows)
    stack = Stack(recipe, data, networks, record)
    for state, one in zip(states, recipes, strict=True):
        stack.enter(state, one)
    return stack.train_epoch


def _seconds(function: Callable[[], object], device: torch.device) -> float:
    wait_for(device)
    started = time.perf_counter()
    function()
    wait_for(device)
    return time.perf_counter() - started


def _batches(recipe: Recipe, data: Dataset) -> float:
    def run() -> None:
        for _ in loop.epoch_batches(recipe, data, 0):
            pass

    with arithmetic(recipe, data.device):
        run()
        return _seconds(run, data.device)


def _test(recipe: Recipe, data: Dataset, networks: int) -> float:
    """Seconds of a validation and test, from a few images."""
    images = min(500, len(data.test))
    few = replace(data, validation=data.validation.first(1), test=data.test.first(images))
    if networks == 1:
        state = loop.new_state(recipe, few)

        def run() -> object:
            return evaluate(state, recipe, few)
    else:
        stack = Stack(recipe, few, networks)
        for _ in range(networks):
            stack.enter(loop.new_state(recipe, few), recipe)
        run = stack.evaluate
    run()
    return _seconds(run, data.device) * (len(data.validation) + len(data.test)) / images


def _round(
    train: Callable[[], object], seen: Callable[[], object], steps: int, data: Dataset
) -> dict[str, float]:
    """Seconds of a step by part, and :data:`REST`, what no operation accounts for."""
    step = _seconds(train, data.device) / steps
    on_gpu = data.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with torch.profiler.profile(activities=activities) as profiler:
        seen()
        wait_for(data.device)
    parts: dict[str, float] = {}
    for event in profiler.key_averages():
        micro = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if micro and event.key.startswith("aten::"):
            part = _part(event.key)
            parts[part] = parts.get(part, 0.0) + micro / 1e6 / steps
    # The profiler makes small operations longer than they are.
    share = min(1.0, step / sum(parts.values()))
    parts = {part: share * seconds for part, seconds in parts.items()}
    return parts | {REST: step - sum(parts.values())}


def _median_parts(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    found = {part: median(one.get(part, 0.0) for one in rounds) for part in rounds[0]}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _part(operation: str) -> str:
    for part, pattern in _PARTS.items():
        if re.search(pattern, operation):
            return part
    return _OTHER


def _known_needs(recipe: Recipe) -> Needs | None:
    try:
        return needs(recipe)
    except ValueError:
        return None


def amount(value: float, unit: str) -> str:
    """A number in words: "31.1 GFLOP"."""
    for prefix in ("", "k", "M", "G"):
        if value < 1000:
            return f"{value:.3g} {prefix}{unit}"
        value /= 1000
    return f"{value:,.3g} T{unit}"
