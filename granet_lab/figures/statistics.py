"""Means over seeds with bootstrap intervals: the numbers that figures draw."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

_RESAMPLES = 2000


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean; the same values give the same interval.

    A single value has none: both ends are the value itself.
    """
    sample = np.sort(np.asarray(values, dtype=float))
    drawn = np.random.default_rng(0).integers(len(sample), size=(_RESAMPLES, len(sample)))
    tail = 50 * (1 - level)
    low, high = np.percentile(sample[drawn].mean(axis=1), [tail, 100 - tail])
    return float(low), float(high)


def summarise(table: pd.DataFrame, value: str, by: Sequence[str]) -> pd.DataFrame:
    """Mean of a column, its 95% interval and the number of values behind it, group by group.

    Args:
        table: tidy; rows without the value (trials that diverged, say) are left out.
        value: the column to average.
        by: the columns that make a group; None counts as a value.

    Returns:
        The columns of ``by``, sorted, then ``mean``, ``low``, ``high`` and ``n``.
    """
    rows = []
    present = table[table[value].notna()]
    for key, group in present.groupby(list(by), dropna=False, sort=True)[value]:
        low, high = interval(group)
        rows.append((*key, group.mean(), low, high, len(group)))
    return pd.DataFrame(rows, columns=[*by, "mean", "low", "high", "n"])
