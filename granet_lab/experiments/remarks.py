"""What somebody who gets a table should hear."""

from __future__ import annotations

import logging

import pandas as pd

logger = logging.getLogger(__name__)


def on_status(table: pd.DataFrame, what: str) -> None:
    """What failed or diverged, and layers that were pruned empty."""
    for status in ("failed", "diverged"):
        bad = table[table.status == status]
        if len(bad):
            logger.warning("%d %s %s: %s", len(bad), what, status, bad.note.iloc[0])
    _on_empty_layers(table, what)


def on_versions(table: pd.DataFrame) -> None:
    """Rows that were computed under different versions."""
    counts = table.loc[table.status == "ok", "version"].value_counts()
    if len(counts) > 1:
        told = [f"{n} rows by {name or 'an earlier version'}" for name, n in counts.items()]
        logger.warning("the table mixes versions: %s", "; ".join(told))


def _on_empty_layers(table: pd.DataFrame, what: str) -> None:
    empty = table[(table.status == "ok") & (table.note != "")]
    if len(empty):
        logger.warning("%d %s: %s", len(empty), what, empty.note.mode()[0])
