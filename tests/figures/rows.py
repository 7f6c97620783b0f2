"""What the tables of the figures' tests have in common."""

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


def framed(rows, columns=None):
    """Rows as a table in which a missing regrowth is None."""
    made = pd.DataFrame(rows, columns=columns)
    made["regrow"] = pd.Series([row["regrow"] for row in rows], dtype=object)
    return made
