"""The weights that a trial removes, one by one."""

from __future__ import annotations

import numpy as np
import pandas as pd

from granet_lab.experiments.plasticity import operate_
from granet_lab.experiments.store import Run
from granet_lab.experiments.tidy import trial_columns
from granet_lab.experiments.trials import Trial
from granet_lab.sparsity import prunable

# What becomes of a weight, in the order in which later words replace earlier ones.
FATES = ("inactive", "kept", "removed", "regrown")


def weights(run: Run, trial: Trial, device: str = "cpu") -> pd.DataFrame:
    """A row for each prunable weight of the network that a trial prunes; nothing is trained.

    Args:
        run: the run of ``trial.recipe``, trained to the trial's epoch.
        trial: what to do.
        device: a torch device.

    Returns:
        The columns of the tidy table that say what was asked; ``layer``; ``weight``, its value
        before pruning; ``active``, whether it was; ``fate``: "kept", "removed", "inactive" (all
        along), or "regrown" at zero, whether it was removed or inactive before.
    """
    state = run.load(trial.epoch, device)
    values = {name: w.detach().clone() for name, w in prunable(state.model).items()}
    before, kept = operate_(state, trial, trial.recipe.images(device))
    frames = []
    for name, value in values.items():
        regrown = state.masks[name] & ~kept[name]
        fate = before[name].int() + (before[name] & ~kept[name]).int()
        fate = fate.masked_fill(regrown, FATES.index("regrown"))
        frames.append(
            pd.DataFrame(
                {
                    "layer": name,
                    "weight": value.flatten().float().cpu().numpy(),
                    "active": before[name].flatten().cpu().numpy(),
                    "fate": np.array(FATES)[fate.flatten().cpu().numpy()],
                }
            )
        )
    return pd.concat(frames, ignore_index=True).assign(**trial_columns(trial))
