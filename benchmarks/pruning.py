"""What pruning costs: exact masks for ResNet-50, and a masked training step of ResNet-20.

    python -m benchmarks.pruning [--repeats 7]

Global magnitude pruning of 25.5 million weights to 90%, then regrowth of half of what is left in
each layer by a given gradient: this package beside the straightforward way, which concatenates all
weights and sorts them for the threshold, and sorts each layer's gradient. The two take turns in one
process; memory is the highest above what was there before, each in a process of its own. Then a
training step with and without masks, in turn.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from benchmarks.timing import heading, in_turn, table
from granet_lab.sparsity import Context, Masks, prunable, prune_to, regenerate, regrowth
from granet_lab.sparsity.pruning import EmptyLayerWarning
from granet_lab.training.sgd import SGD

SPARSITY, REGROWN = 0.9, 0.5
WAYS = ("granet_lab", "sorting")


@regrowth
def given(context: Context) -> dict[str, Tensor]:
    """|gradient| that is there already: both ways would need the same backward pass."""
    return {name: p.grad.abs() for name, p in prunable(context.model).items()}


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--memory", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", EmptyLayerWarning)  # the classifier, at initialisation
    if arguments.memory:
        print(_extra_memory(arguments.memory))
        return
    print(f"{heading()}\n")
    net = resnet50()
    size = sum(p.numel() * p.element_size() for p in prunable(net).values())
    ways = {"sorting": lambda: by_sorting(net), "granet_lab": lambda: by_selection(net)}
    times = in_turn(ways, arguments.repeats)
    agree = _agreement(by_sorting(net), by_selection(net))
    print(f"ResNet-50, {SPARSITY:.0%} pruned, {REGROWN:.0%} of the rest dropped and regrown")
    print(table(times, "sorting"))
    print(f"  weights in which the masks differ: {agree}")
    for way in WAYS:
        words = [sys.executable, "-m", "benchmarks.pruning", "--memory", way]
        found = subprocess.run(words, capture_output=True, text=True, check=True)
        share = int(found.stdout) / size
        print(f"  extra memory, {way:<12}{share:5.2f} times the weights ({size / 1e6:.0f} MB)")
    dense, masked = steps()
    print("\nResNet-20, batch 128, a training step (forward, backward, SGD with momentum)")
    times = in_turn({"dense": dense, "masked": masked}, 5 * arguments.repeats)
    print(table(times, "dense", "ms", faster=False))


def resnet50() -> nn.Module:
    """ResNet-50 at initialisation, with a gradient."""
    torch.manual_seed(0)
    net = torchvision.models.resnet50()
    for p in net.parameters():
        p.grad = torch.randn_like(p)
    return net


def by_selection(net: nn.Module) -> Masks:
    """This package: GraNet's update, prune to the sparsity, drop, regenerate."""
    pruned = Context(net, prune_to(Context(net), SPARSITY))
    dropped = prune_to(pruned, 1 - (1 - SPARSITY) * (1 - REGROWN))
    return regenerate(pruned, pruned.masks, dropped, "given")


def by_sorting(net: nn.Module) -> dict[str, Tensor]:
    """The straightforward way."""
    weights = {name: p.detach() for name, p in prunable(net).items()}
    masks = _above_threshold(weights, 1 - SPARSITY)
    dropped = _above_threshold(weights, (1 - SPARSITY) * (1 - REGROWN))
    for name, mask in dropped.items():
        lost = int(masks[name].sum()) - int(mask.sum())
        gradient = prunable(net)[name].grad.abs().masked_fill(mask, -1).flatten()
        order = gradient.sort(descending=True).indices[:lost]
        mask.view(-1)[order] = True
    return dropped


def _above_threshold(weights: dict[str, Tensor], density: float) -> dict[str, Tensor]:
    everything = torch.cat([w.abs().flatten() for w in weights.values()])
    ordered = everything.sort(descending=True).values
    threshold = ordered[round(density * len(ordered)) - 1]
    return {name: w.abs() >= threshold for name, w in weights.items()}


def _agreement(theirs: dict[str, Tensor], ours: Masks) -> str:
    different = sum(int((mask != ours[name]).count_nonzero()) for name, mask in theirs.items())
    return f"{different} of {ours.total:,}"


def _extra_memory(way: str) -> int:
    """Bytes at the highest, above those before; in a fresh process."""
    net = resnet50()
    function = by_selection if way == "granet_lab" else by_sorting
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    kept = function(net)
    found = _status("VmHWM") - before
    assert kept
    return found


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {name}")


class _Block(nn.Module):
    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.wider, self.stride = n_out - n_in, stride

    def forward(self, images: Tensor) -> Tensor:
        found = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(images)))))
        short = images[:, :, :: self.stride, :: self.stride]
        return F.relu(found + F.pad(short, (0, 0, 0, 0, 0, self.wider)))


def resnet20() -> nn.Module:
    """He et al. 2016, for CIFAR: 0.27 million parameters."""
    torch.manual_seed(0)
    blocks = [
        _Block(n_in, n_out, stride)
        for n_in, n_out, stride in [(16, 16, 1)] * 3
        + [(16, 32, 2)]
        + [(32, 32, 1)] * 2
        + [(32, 64, 2)]
        + [(64, 64, 1)] * 2
    ]
    stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    return nn.Sequential(stem, *blocks, head).to(memory_format=torch.channels_last)


def steps() -> tuple[Callable[[], None], Callable[[], None]]:
    """A training step without masks, and one with nine tenths of each layer's weights masked."""
    images = torch.randn(128, 3, 32, 32).to(memory_format=torch.channels_last)
    targets = torch.arange(128) % 10

    def step(sparsity: float) -> Callable[[], None]:
        net = resnet20()
        masks = prune_to(Context(net), sparsity)
        masks.apply_(net)
        weights = prunable(net)
        factors = [
            (weights[name], torch.empty_like(weights[name]).copy_(mask))
            for name, mask in masks.items()
            if sparsity
        ]
        optimizer = SGD(net.parameters(), momentum=0.9, weight_decay=5e-4)

        def one() -> None:
            F.cross_entropy(net(images), targets).backward()
            optimizer.step(0.1, factors)

        return one

    return step(0.0), step(SPARSITY)


if __name__ == "__main__":
    main()
