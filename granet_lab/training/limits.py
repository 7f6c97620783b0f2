"""How fast a training step could be: what it has to do, and what the device can do."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from granet_lab.randomness import generator
from granet_lab.sparsity import cost
from granet_lab.training import loop
from granet_lab.training.arithmetic import arithmetic
from granet_lab.training.recipe import Recipe

# Sizes by type of device, and those of every other: the side of the matrices whose product is
# timed, images in a convolution from 64 to 64 channels, bytes of the tensor that is copied.
_SIZES = {"cpu": (1024, 32, 2**27)}
_LARGE = (8192, 4096, 2**31)
_REPEATS = 3
# Layers that move nothing.
_STILL = (nn.Identity, nn.Flatten, nn.Unflatten)


@dataclass(frozen=True)
class Needs:
    """What a training step has to do.

    Attributes:
        flops: operations of convolutions and linear layers, forward and backward.
        bytes: read and written at the least: each layer reads its input and writes its output
            once; backward it reads both its input and the gradient of its output, and writes the
            gradient of its input.
    """

    flops: float
    bytes: float


@dataclass(frozen=True)
class Limits:
    """What a device can do.

    Attributes:
        flops: operations a second in a product of large matrices or in a large convolution,
            whichever is faster.
        bytes: read and written a second as a large tensor is copied.
    """

    flops: float
    bytes: float

    def seconds(self, needs: Needs) -> float:
        """The shortest time for that: of computing or of moving, whichever takes longer."""
        return max(needs.flops / self.flops, needs.bytes / self.bytes)


def needs(recipe: Recipe) -> Needs:
    """Of a training step of the recipe's dense network.

    Raises:
        ValueError: layers of unknown cost.
    """
    images = recipe.images()
    network, batch = recipe.network(), recipe.batch_size
    forward = cost.inference_flops(network, images.input_shape)
    size = 2 if recipe.precision == "bf16" else 4
    moved = _values_moved(network, next(loop.epoch_batches(recipe, images, 0))[0][:1])
    return Needs(cost.FORWARD_AND_BACKWARD * batch * forward, size * batch * moved)


@torch.no_grad()
def _values_moved(network: nn.Module, image: Tensor) -> int:
    """Values that the layers read and write for one image, forward and backward."""
    found = 0

    def note(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal found
        seen = sum(value.numel() for value in inputs if isinstance(value, Tensor))
        said = output.numel() if isinstance(output, Tensor) else 0
        found += (seen + said) + (seen + said + seen)

    leaves = [layer for layer in network.modules() if not list(layer.children())]
    moving = [layer for layer in leaves if not isinstance(layer, _STILL)]
    hooks = [layer.register_forward_hook(note) for layer in moving]
    try:
        network.eval()(image)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def limits(recipe: Recipe, device: str = "cpu") -> Limits:
    """Of a device, measured now, with the recipe's threads and precision."""
    where = torch.device(device)
    side, n, size = _SIZES.get(where.type, _LARGE)

    def drawn(*shape: int) -> Tensor:
        values = torch.rand(shape, generator=generator("limits")).to(where)
        return values.to(torch.bfloat16) if recipe.precision == "bf16" else values

    a, source = drawn(side, side), torch.zeros(size, dtype=torch.uint8, device=where)
    images, weights = drawn(n, 64, 16, 16), drawn(64, 64, 3, 3)
    images, weights = (x.contiguous(memory_format=torch.channels_last) for x in (images, weights))
    target = torch.empty_like(source)
    with arithmetic(recipe, where):
        product = _seconds(lambda: a @ a, where)
        convolution = _seconds(lambda: F.conv2d(images, weights, padding=1), where)
        copy = _seconds(lambda: target.copy_(source), where)
    rates = 2 * side**3 / product, 2 * 64 * 9 * images.numel() / convolution
    return Limits(max(rates), 2 * size / copy)


def _seconds(function: Callable[[], object], device: torch.device) -> float:
    """The median of some calls, after one that does not count."""
    times = []
    for _ in range(1 + _REPEATS):
        wait_for(device)
        started = time.perf_counter()
        function()
        wait_for(device)
        times.append(time.perf_counter() - started)
    return median(times[1:])


def wait_for(device: torch.device) -> None:
    """Until a device has done all it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
