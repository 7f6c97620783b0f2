"""What several verbs take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

LAB = Path("data/runs")

Settings = Annotated[tuple[str, ...], tyro.conf.arg(name="set", metavar="NAME=VALUE ...")]
