"""What the tables of the figures' tests have in common."""

import itertools
import math

import pandas as pd

# What trials ask for, apart from what the figures show.
PLAIN = {
    "dataset": "digits",
    "model": "convnet",
    "method": "dense",
    "pretrained_sparsity": 0.0,
    "criterion": "magnitude",
    "scope": "global",
    "granularity": "weight",
    "lr_mode": "frozen",
    "recovery_epochs": 6,
    "epochs": 60,
    "milestones": "30 45",
    "status": "ok",
    "note": "",
}
# Fields that tables of earlier versions do not have.
LATER = {"regrow_scope": "layer", "layers": "*", "dense": "", "reestimate_batchnorm": False}
LATER |= {"precision": "fp32"}


def framed(rows, columns=None):
    """Rows as a table in which a missing regrowth is None."""
    made = pd.DataFrame(rows, columns=columns)
    made["regrow"] = pd.Series([row["regrow"] for row in rows], dtype=object)
    return made


# A comparison: method, sparsity, seed, accuracy, training FLOPs, inference FLOPs.
COMPARISON = [
    ("dense", 0.0, 0, 99.0, 1.0, 1.0),
    ("dense", 0.0, 1, 99.5, 1.0, 1.0),
    ("gmp", 0.9, 0, 97.0, 0.4, 0.12),
    ("gmp", 0.9, 1, 98.0, 0.4, 0.12),
    ("gmp", 0.98, 0, 90.0, 0.3, 0.03),
    ("granet_st", 0.9, 0, 97.0, 0.2, 0.13),
    ("granet_st", 0.9, 1, 97.0, 0.2, 0.13),
    ("granet_st", 0.98, 0, 93.0, 0.1, 0.04),
]
_COMPARED = ["method", "asked_sparsity", "seed", "test_acc", "training_flops", "inference_flops"]
# From the first layer to the last: not as the alphabet has them.
LAYERS = ("stem.weight", "body.weight", "head.weight")


def compared(rows=COMPARISON, **changes):
    """A comparison as from ``Lab.compare``."""
    made = pd.DataFrame(rows, columns=_COMPARED)
    same = {"dataset": "digits", "model": "mlp", "epochs": 4, "status": "ok", "note": ""}
    rest = {"sparsity": made["asked_sparsity"], "exploration": 0.5, "seconds": 2.0}
    return made.assign(**same | rest | changes)


def masked(methods=("gmp", "rigl"), seeds=(0, 1, 2), last=40, **changes):
    """Histories as from ``Lab.history``: gmp prunes more and more, all others drop and regrow."""
    rows = [
        {"dataset": "digits", "model": "mlp", "milestones": "20 30", "pretrained_sparsity": 0.9}
        | {"method": method, "seed": seed, "epoch": epoch}
        | {"sparsity": 0.9 * epoch / last if method == "gmp" else 0.9}
        | {"exploration": 1.0 if method == "gmp" else 0.1 + epoch / 100 + seed / 50}
        | {"survival": epoch / 100 + seed / 50 if method != "gmp" and epoch > 0 else math.nan}
        | {"test_acc": 10.0 if epoch == 0 else 80 + epoch / 4 + seed}
        | {f"sparsity/{name}": _of_layer(k, method, seed, epoch) for k, name in enumerate(LAYERS)}
        | changes
        for method, seed, epoch in itertools.product(methods, seeds, range(last + 1))
    ]
    return pd.DataFrame(rows)


def _of_layer(place, method, seed, epoch):
    return (place + 1) / 5 + seed / 50 + (epoch / 200 if method == "gmp" else 0)
