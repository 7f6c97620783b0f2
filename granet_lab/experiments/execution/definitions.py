"""What is defined by name outside the package, in a notebook say: how workers get to know it."""

from __future__ import annotations

import functools

import cloudpickle

from granet_lab.datasets import AUGMENTATIONS, DATASETS
from granet_lab.models import MODELS
from granet_lab.registry import Registry
from granet_lab.sparsity import allocation, criteria, regrowths

_SHIPPED: dict[str, Registry] = {
    "criteria": criteria.CRITERIA,
    "regrowths": regrowths.REGROWTHS,
    "datasets": DATASETS,
    "models": MODELS,
    "allocations": allocation.SCHEMES,
    "augmentations": AUGMENTATIONS,
}


def own() -> bytes:
    """What was defined by name outside the package, in a notebook say: workers need it too."""
    return cloudpickle.dumps([(name, entries.added()) for name, entries in _SHIPPED.items()])


# Once in a worker and sweep: a dataset that were defined anew for each trial would be loaded anew.
@functools.lru_cache(maxsize=1)
def define(definitions: bytes) -> None:
    """Register what :func:`own` has packed elsewhere."""
    for name, entries in cloudpickle.loads(definitions):
        for entry in entries:
            _SHIPPED[name].register(entry)
