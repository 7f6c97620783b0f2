"""Why a trial could not be measured, for whoever looks into the store."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from pathlib import Path

from granet_lab.experiments import files
from granet_lab.experiments.environment import version
from granet_lab.experiments.files import DamagedFile
from granet_lab.experiments.identity import SCHEMA, describe, identity
from granet_lab.experiments.store import Run
from granet_lab.experiments.trials import Trial


def read(run: Run, trial: Trial) -> str | None:
    """Why a trial that is not measured could not be, the last time that somebody tried."""
    try:
        return str(files.read_json(run.failure_path(identity(trial)))["error"])
    except (OSError, DamagedFile, KeyError):
        return None


def write(root: Path, trial: Trial, error: str) -> None:
    """Write it down; where that cannot be done, the table that is returned still says it."""
    facts = {"version": version(), "date": datetime.now(UTC).isoformat(timespec="seconds")}
    run = Run(root, trial.recipe)
    if not run.path.is_dir():  # somebody has taken it away
        return
    path = run.failure_path(identity(trial))
    with contextlib.suppress(OSError):
        files.write_json(
            path, {"schema": SCHEMA, "trial": describe(trial), "error": error, **facts}
        )


def clear(run: Run, trial: Trial) -> None:
    """It was measured after all."""
    with contextlib.suppress(OSError):
        run.failure_path(identity(trial)).unlink(missing_ok=True)
