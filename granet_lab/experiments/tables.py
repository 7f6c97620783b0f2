"""Tables as CSV files that say where they come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from granet_lab.experiments import files
from granet_lab.experiments.environment import environment


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
    lines = [f"# {name}: {value}" for name, value in {**facts, **environment(device)}.items()]
    body = table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    files.write(path, ("\n".join(lines) + "\n" + body).encode())
    return path


def read_table(path: str | Path) -> pd.DataFrame:
    """Read what :func:`write_table` wrote; an empty ``regrow`` becomes None again.

    The provenance is in ``table.attrs``.

    Raises:
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no table {path}")
    table = pd.read_csv(path, comment="#", dtype={"milestones": str, "note": str})
    for name in {"milestones", "note"} & set(table):
        table[name] = table[name].fillna("")
    if "regrow" in table:
        table["regrow"] = table.regrow.astype(object).where(table.regrow.notna(), None)
    with open(path) as file:
        comments = [line[2:].rstrip("\n") for line in file if line.startswith("# ")]
    table.attrs = dict(comment.split(": ", 1) for comment in comments)
    return table
