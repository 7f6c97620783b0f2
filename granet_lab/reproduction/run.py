"""Carry a plan out, stage by stage."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd

from granet_lab.experiments import Lab, files
from granet_lab.reproduction import report
from granet_lab.reproduction.plan import Plan

logger = logging.getLogger(__name__)


def reproduce(
    lab: Lab, plan: Plan, folder: Path, workers: int | None = None, progress: bool = True
) -> Path:
    """Measure what a plan asks for, and write a report of what came out.

    The report is written after each stage. What the lab holds is not measured again: interrupted,
    the same call goes on.

    Args:
        lab: keeps what is measured.
        plan: see :func:`granet_lab.reproduction.plan`.
        folder: for ``report.md``, its figures and the tables behind it.
        workers: how many processes; by default one for each core, on a GPU one.
        progress: whether to show bars.

    Returns:
        The path of the report.

    Raises:
        OSError: a folder cannot be written.
        ValueError: a schedule that does not fit the recipe.
    """
    files.check_writable(folder)
    tables: dict[str, pd.DataFrame] = {}
    path = folder / "report.md"
    for stage in plan.stages:
        logger.info("%s: %s", plan.name, stage)
        tables[stage] = _measured(lab, plan, stage, workers, progress)
        path = report.write(lab, plan, tables, folder)
    return path


def _measured(
    lab: Lab, plan: Plan, stage: str, workers: int | None, progress: bool
) -> pd.DataFrame:
    kept = plan.checkpoints
    if stage != "methods":
        trials = plan.trials[stage]
        return lab.measure(trials, workers=workers, progress=progress, checkpoints=kept)
    return lab.compare(
        plan.recipe,
        plan.methods,
        plan.sparsities,
        plan.seeds,
        kept,
        workers=workers,
        progress=progress,
    )
