"""What somebody who gets a table should hear."""

from __future__ import annotations

import logging

import pandas as pd

from granet_lab.wording import counted

logger = logging.getLogger(__name__)


def on_status(table: pd.DataFrame, what: str) -> None:
    """What failed or diverged, and layers that were pruned empty.

    Args:
        table: has ``status`` and ``note``.
        what: its rows are, in the singular.
    """
    for status in ("failed", "diverged"):
        bad = table[table.status == status]
        if len(bad):
            logger.warning("%s %s: %s", counted(len(bad), what), status, bad.note.iloc[0])
    _on_empty_layers(table, what)


def on_versions(table: pd.DataFrame) -> None:
    """Rows that were computed under different versions, or branch from runs that were.

    Args:
        table: has ``status`` and ``version``, and ``trunk_version`` where there are trunks.
    """
    good = table[table.status == "ok"]
    trunks = good.get("trunk_version", good.version)
    same = (trunks == "") | (trunks == good.version)
    ways = good.version.replace("", "an earlier version") + (" on runs by " + trunks).mask(same, "")
    counts = ways.value_counts()
    if len(counts) > 1 or not same.all():
        told = "; ".join(f"{counted(n, 'row')} by {way}" for way, n in counts.items())
        logger.warning("the table mixes versions: %s", told)


def _on_empty_layers(table: pd.DataFrame, what: str) -> None:
    empty = table[(table.status == "ok") & (table.note != "")]
    if len(empty):
        logger.warning("%s: %s", counted(len(empty), what), empty.note.mode()[0])
