"""Tables as CSV files that say where they come from."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pandas as pd

from granet_lab.experiments import files
from granet_lab.experiments.environment import environment

# Columns of words that may look like numbers or be empty.
_TEXTS = ("milestones", "note", "dense", "version", "trunk_version")


def write_table(table: pd.DataFrame, path: str | Path, device: str = "cpu", **facts: Any) -> Path:
    """Write a table as CSV under comment lines with its provenance.

    Args:
        table: any frame.
        path: of the file.
        device: what it was measured on; its name goes into the comments.
        facts: further comment lines, ``name: value``.

    Raises:
        OSError: the file cannot be written.
    """
    path = Path(path)
    told = {**facts, **environment(device)}
    lines = [f"# {name}: {' '.join(str(value).split())}" for name, value in told.items()]
    body = table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    files.write(path, ("\n".join(lines) + "\n" + body).encode())
    return path


def read_table(path: str | Path) -> pd.DataFrame:
    """Read what :func:`write_table` wrote; an empty ``regrow`` becomes None again.

    The provenance is in ``table.attrs``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no table.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no table {path}")
    with open(path) as file:
        comments = list(itertools.takewhile(lambda line: line.startswith("# "), file))
    try:
        table = pd.read_csv(path, skiprows=len(comments), dtype=dict.fromkeys(_TEXTS, str))
    except ValueError as error:
        raise ValueError(f"{path} is no table: {error}") from None
    for name in set(_TEXTS) & set(table):
        table[name] = table[name].fillna("")
    table = with_none(table)
    table.attrs = dict(line[2:].rstrip("\n").partition(": ")[::2] for line in comments)
    return table


def with_none(table: pd.DataFrame) -> pd.DataFrame:
    """The table with None in ``regrow`` where pandas has made NaN of it."""
    if "regrow" not in table:
        return table
    regrow = table["regrow"].astype(object)
    return table.assign(regrow=regrow.where(regrow.notna(), None))
