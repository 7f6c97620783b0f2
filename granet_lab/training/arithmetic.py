"""How a recipe's numbers are computed: threads on a CPU, precision of what is multiplied."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from granet_lab.training.recipe import Recipe


@contextmanager
def arithmetic(recipe: Recipe, device: torch.device) -> Iterator[None]:
    """The recipe's inside the block; what else the process does is as before after it.

    A CPU runs the recipe's number of threads. A GPU multiplies float32 values as such, or rounded
    to TensorFloat-32 where the recipe says tf32, and tries which of its kernels is the fastest.
    """
    with threads(recipe.threads):
        if device.type != "cuda":
            yield
            return
        way = "tf32" if recipe.precision == "tf32" else "ieee"
        # A recording is made on the current device, and there alone is torch's generator seeded.
        current = nullcontext() if device.index is None else torch.cuda.device(device)
        with current, _multiplied(way), _fastest_kernels():
            yield


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Run torch's CPU operations on ``n`` threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def autocast(recipe: Recipe, device: torch.device) -> torch.autocast:
    """Forward passes are in bfloat16 inside the block, if the recipe says so."""
    return torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16")


def emulated(recipe: Recipe, device: str) -> bool:
    """Whether a processor has no instructions for the recipe's bfloat16: it takes several times as
    long as float32 then."""
    if recipe.precision != "bf16" or torch.device(device).type != "cpu":
        return False
    able = torch.cpu.get_capabilities()
    return able["architecture"] == "x86_64" and not able["avx512_bw"]


@contextmanager
def _multiplied(way: str) -> Iterator[None]:
    """How a GPU multiplies float32 values inside the block: "ieee" or "tf32"."""
    backends = torch.backends
    kinds = (backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul)
    before = [kind.fp32_precision for kind in kinds]
    try:
        for kind in kinds:
            kind.fp32_precision = way
        yield
    finally:
        for kind, old in zip(kinds, before, strict=True):
            kind.fp32_precision = old


@contextmanager
def _fastest_kernels() -> Iterator[None]:
    """Let cuDNN time its kernels the first time that it sees a shape."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
