"""What has been published, to stand beside what is measured.

Test accuracies in percent, mean and standard deviation: Liu et al., "Sparse Training via Boosting
Pruning Plasticity with Neuroregeneration", NeurIPS 2021, tables of unstructured pruning on CIFAR
and ImageNet. NaN where no deviation is given.
"""

from __future__ import annotations

import pandas as pd

_NAN = float("nan")
_COLUMNS = ["method", "asked_sparsity", "published_acc", "published_deviation"]

_NUMBERS: dict[str, list[tuple[str, float, float, float]]] = {
    "resnet50_cifar10": [
        ("dense", 0.0, 94.75, 0.01),
        ("snip", 0.95, 90.86, _NAN),
        ("grasp", 0.95, 91.32, _NAN),
        ("synflow", 0.95, 91.22, _NAN),
        ("rigl", 0.95, 93.86, 0.25),
        ("gmp", 0.95, 94.52, 0.08),
        ("granet_st", 0.95, 94.38, 0.28),
        ("granet", 0.95, 94.44, 0.01),
    ],
    "resnet50_cifar100": [
        ("dense", 0.0, 78.23, 0.18),
        ("snip", 0.9, 73.14, _NAN),
        ("grasp", 0.9, 73.28, _NAN),
        ("synflow", 0.9, 73.37, _NAN),
        ("rigl", 0.9, 76.50, 0.33),
        ("gmp", 0.9, 76.91, 0.23),
        ("granet", 0.9, 77.29, 0.45),
    ],
    "vgg19_cifar10": [
        ("dense", 0.0, 93.85, 0.05),
        ("snip", 0.9, 93.63, _NAN),
        ("grasp", 0.9, 93.30, _NAN),
        ("synflow", 0.9, 93.35, _NAN),
        ("set", 0.9, 92.46, _NAN),
        ("rigl", 0.9, 93.38, 0.11),
        ("gmp", 0.9, 93.59, 0.10),
        ("granet", 0.9, 93.80, 0.10),
    ],
    "vgg19_cifar100": [
        ("dense", 0.0, 73.43, 0.08),
        ("snip", 0.98, 58.46, _NAN),
        ("grasp", 0.98, 68.90, _NAN),
        ("synflow", 0.98, 70.94, _NAN),
        ("rigl", 0.98, 69.82, 0.09),
        ("gmp", 0.98, 72.07, 0.37),
        ("granet", 0.98, 72.35, 0.26),
    ],
    "resnet50_imagenet": [
        ("dense", 0.0, 76.8, _NAN),
        ("rigl", 0.8, 75.1, _NAN),
        ("rigl", 0.9, 73.0, _NAN),
    ],
}

# What was found, in this laboratory's words.
FINDINGS = {
    "plasticity": [
        "A fifth of the connections (rate 0.2) comes back whenever it is pruned.",
        "While the learning rate is large, even high rates recover, up to a limit.",
        "After each learning-rate decay plasticity falls, most of all for high rates.",
    ],
    "regeneration": ["Regeneration improves plasticity substantially."],
}


def published(recipe: str) -> pd.DataFrame:
    """The numbers for a named recipe: ``method``, ``asked_sparsity``, ``published_acc`` and
    ``published_deviation``; empty if there are none."""
    return pd.DataFrame(_NUMBERS.get(recipe, []), columns=_COLUMNS)
