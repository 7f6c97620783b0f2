"""Train, measure, compare."""

# Torch and the rest are imported inside the commands, so that --help answers at once.
from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import tyro

from granet_lab import typed
from granet_lab.cli.common import LAB, Settings, tell_gaps
from granet_lab.wording import counted

# What a printed table tells apart, if there is more than one of it.
_TOLD = ("method", "pretrained_sparsity", "criterion", "scope", "granularity", "layers", "dense")
_TOLD += ("reestimate_batchnorm", "precision", "rate", "regrow", "regrow_scope")


def train(
    recipe: tyro.conf.Positional[str] = "digits",
    *,
    settings: Settings = (),
    seed: tuple[int, ...] = (0,),
    pretrained_sparsity: tuple[float, ...] = (0.0,),
    method: tuple[str, ...] | None = None,
    checkpoints: tuple[int, ...] | None = None,
    lab: Path = LAB,
    device: str | None = None,
) -> None:
    """Train networks, with a checkpoint for every epoch.

    A run that was interrupted goes on; one that is finished is left alone.
    Example: granet-lab train digits --seed 0 1 2 --set model=mlp epochs=30 milestones=15,22

    Args:
        recipe: Name of a recipe.
        settings: Other values for fields of the recipe.
        seed: One run for each seed.
        pretrained_sparsity: Sparsities at the end of training; 0 trains dense.
        method: Their ways there: static (a fixed mask), gmp, granet, granet,regrow_fraction=0.1 ...
        checkpoints: Epochs to keep, if not all.
        lab: Folder of the runs.
        device: A torch device; by default the GPU if there is one.
    """
    from granet_lab import Lab

    place = Lab(lab, device)
    for one in typed.recipes(recipe, settings, seed, pretrained_sparsity, method):
        run = place.train(one, checkpoints)
        last = run.history.iloc[-1]
        reached = f"{last.test_acc:.2f}% test accuracy after epoch {last.epoch:.0f}"
        print(f"{run.path}: {run.diverged or reached}")


def measure(
    recipe: tyro.conf.Positional[str] = "digits",
    *,
    epoch: tuple[int, ...],
    rate: tuple[float, ...],
    regrow: tuple[str, ...] = ("none",),
    criterion: tuple[str, ...] = ("magnitude",),
    scope: tuple[str, ...] = ("global",),
    granularity: tuple[str, ...] = ("weight",),
    layers: tuple[str, ...] = ("*",),
    dense: tuple[str, ...] = ("",),
    regrow_scope: tuple[Literal["layer", "global"], ...] = ("layer",),
    reestimate_batchnorm: tuple[Literal["no", "yes"], ...] = ("no",),
    lr: tuple[Literal["frozen", "remaining"], ...] = ("frozen",),
    recovery_epochs: int | None = None,
    precision: tuple[str, ...] | None = None,
    settings: Settings = (),
    seed: tuple[int, ...] = (0,),
    pretrained_sparsity: tuple[float, ...] = (0.0,),
    method: tuple[str, ...] | None = None,
    csv: Path | None = None,
    workers: int | None = None,
    stack: int | None = None,
    shard: str | None = None,
    lab: Path = LAB,
    device: str | None = None,
) -> None:
    """Prune at epochs, train on, and measure how much comes back.

    Every combination of the values is a trial; what is measured already is not done again. Exits
    with 1 if some could not be measured.
    Example: granet-lab measure digits --epoch 10 30 50 --rate 0.5 0.9 --regrow none gradient

    Args:
        recipe: Name of a recipe; its runs are trained first where they are missing.
        epoch: Epochs after which to prune, 0 (initialisation) to the end.
        rate: Fractions of the current non-zeros to remove.
        regrow: none, gradient, random or momentum: how as many connections come back.
        criterion: magnitude, random, lamp, taylor, snip, grasp, fisher or synflow: what to keep.
        scope: global, uniform, er or erk: over what weights are ranked.
        granularity: weight, filter, or N:M such as 2:4: what is removed as one.
        layers: Layers to prune: names with wildcards, first, last; each: one layer at a time.
        dense: Layers that are left as they are, written in the same way.
        regrow_scope: Whether each layer gets back what it lost, or all layers together (global).
        reestimate_batchnorm: Whether BatchNorm's statistics are measured anew after pruning.
        lr: frozen measures plasticity, remaining (to the end of the run) the final gap.
        recovery_epochs: Length of the frozen continuation; by default a tenth of the run.
        precision: fp32, tf32 or bf16: how networks are trained and tested; by default the recipe's.
        settings: Other values for fields of the recipe.
        seed: Seeds of the runs.
        pretrained_sparsity: Sparsities at the end of the networks' training; 0 is dense.
        method: Their ways there: static (a fixed mask), gmp, granet, granet,regrow_fraction=0.1 ...
        csv: File for the table.
        workers: Processes; by default one for each core, or each GPU.
        stack: Networks trained in one pass; 1: each alone; by default as many as go well together.
        shard: One part of the trials only, such as 2/8: for jobs of an array that share a lab.
        lab: Folder of the runs.
        device: A torch device; by default the GPU if there is one.
    """
    from granet_lab import Lab, grid, layer_names, write_table
    from granet_lab.experiments.execution import packing

    if precision is not None and "precision" in typed.changes(settings):
        raise ValueError("precision is given twice: by --precision and by --set")
    place = Lab(lab, device)
    trials = []
    for one in typed.recipes(recipe, settings, seed, pretrained_sparsity, method):
        each = layer_names(one) if "each" in layers else []
        trials += grid(
            one,
            epoch=epoch,
            rate=rate,
            regrow=[None if name == "none" else name for name in regrow],
            criterion=criterion,
            scope=scope,
            granularity=granularity,
            layers=[name for word in layers for name in (each if word == "each" else [word])],
            dense=dense,
            regrow_scope=regrow_scope,
            reestimate_batchnorm=[word == "yes" for word in reestimate_batchnorm],
            lr=lr,
            recovery_epochs=recovery_epochs,
            precision=one.precision if precision is None else precision,
        )
    if shard is not None:
        everything = len(trials)
        trials = packing.shard(trials, *typed.part(shard))
        print(f"part {shard}: {len(trials)} of {counted(everything, 'trial')}")
    table = place.measure(trials, workers=workers, stack=stack)
    for value in ("plasticity", "final_gap"):
        if table[value].notna().any():
            print(f"\n{value} (percentage points, mean over seeds) by epoch of pruning\n")
            print(_pivot(table, value))
    if csv is not None:
        print(f"\n{write_table(table, csv, place.device)}")
    tell_gaps(table, "trial")


def compare(
    recipe: tyro.conf.Positional[str] = "digits",
    *,
    method: tuple[str, ...] = ("static", "set", "rigl", "gmp", "granet", "granet_st"),
    sparsity: tuple[float, ...] = (0.9, 0.95, 0.98),
    seed: tuple[int, ...] = (0, 1, 2),
    checkpoints: tuple[int, ...] | None = None,
    settings: Settings = (),
    csv: Path | None = None,
    workers: int | None = None,
    stack: int | None = None,
    lab: Path = LAB,
    device: str | None = None,
) -> None:
    """Train in several sparse ways, and dense, and print the accuracies and what they cost.

    Runs that are finished already are not trained again. Exits with 1 if some could not be trained.
    Example: granet-lab compare digits --method gmp granet gentle:granet,regrow_fraction=0.1

    Args:
        recipe: Name of a recipe.
        method: Names, perhaps with values for what is not as usual, and a name for that in front.
        sparsity: Sparsities at the end of training.
        seed: One run for each seed.
        checkpoints: Epochs to keep, if not all.
        settings: Other values for fields of the recipe.
        csv: File for the table, a row for each run.
        workers: Processes; by default one for each core.
        stack: Networks trained in one pass; by default on a CPU each alone, on a GPU all that fit.
        lab: Folder of the runs.
        device: A torch device; by default the GPU if there is one.
    """
    from granet_lab import Lab, plots, write_table

    place = Lab(lab, device)
    (base,) = typed.recipes(recipe, settings)
    table = place.compare(
        base, typed.methods(method), sparsity, seed, checkpoints, workers=workers, stack=stack
    )
    print(plots.method_table(table))
    if csv is not None:
        print(f"\n{write_table(table, csv, place.device)}")
    tell_gaps(table, "run")


def _pivot(table: Any, value: str) -> str:
    table = table.assign(regrow=table.regrow.fillna("none"))
    rows = [n for n in _TOLD if table[n].nunique() > 1 or n in ("rate", "regrow")]
    known = table[table[value].notna()]
    return known.groupby([*rows, "epoch"])[value].mean().unstack().round(2).to_string()
