"""Random numbers that depend on what they are for and on nothing that happened before.

Every draw starts from a generator seeded by words such as ``("batches", seed, epoch)``. Nothing
is carried from one draw to the next, so a branch sees the data its trunk would have seen, and
resuming needs no stored generator state.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(*words: str | int) -> int:
    """A 63-bit seed from words: the same words give the same seed on every machine."""
    words = tuple(w if isinstance(w, str) else operator.index(w) for w in words)
    digest = hashlib.sha256(repr(words).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*words: str | int) -> torch.Generator:
    """A CPU generator for the purpose that ``words`` name.

    Numbers are drawn on the CPU and then moved, so that they are the same on every device.
    """
    return torch.Generator().manual_seed(derive_seed(*words))


def child(parent: torch.Generator, purpose: str) -> torch.Generator:
    """A generator that follows from ``parent``'s present state, which stays as it is."""
    peek = parent.clone_state()
    number = int(torch.randint(2**62, (), generator=peek, device=peek.device))
    return generator(purpose, number)


def moved(drawn: torch.Tensor, device: torch.device) -> torch.Tensor:
    """What was drawn, on a device; the host does not wait until it is there."""
    if device.type == "cuda":
        return drawn.pin_memory().to(device, non_blocking=True)
    return drawn.to(device)


@contextmanager
def seeded(*words: str | int) -> Iterator[None]:
    """Seed torch's own generators inside the block (layers initialise from them, dropout draws
    from them) and put them back as they were."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.default_generator.manual_seed(derive_seed(*words))
        if devices:
            torch.cuda.manual_seed(derive_seed(*words))
        yield
