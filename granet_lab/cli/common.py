"""What several verbs take."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from granet_lab.wording import counted

if TYPE_CHECKING:
    import pandas as pd

LAB = Path("data/runs")

Settings = Annotated[tuple[str, ...], tyro.conf.arg(name="set", metavar="NAME=VALUE ...")]


def tell_gaps(table: pd.DataFrame, what: str) -> None:
    """Say how many rows of a table have no answer, which no mean of it shows.

    Args:
        table: has ``status``.
        what: its rows are, in the singular.

    Raises:
        SystemExit: some have failed.
    """
    gaps = {
        status: f"{n} of {counted(len(table), what)} {status}, and {_be(n)} in no mean"
        for status in ("diverged", "failed")
        if (n := int((table["status"] == status).sum()))
    }
    if "diverged" in gaps:
        print(f"\n{gaps['diverged']}")
    if "failed" in gaps:
        sys.exit(f"granet-lab: {gaps['failed']}")


def _be(n: int) -> str:
    return "is" if n == 1 else "are"
