"""The demo, the paper's reproduction, figures, a profile."""

# Torch and the rest are imported inside the commands, so that --help answers at once.
from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import tyro

from granet_lab import typed
from granet_lab.cli.common import LAB, Settings


def demo(
    *, lab: Path = LAB, out: Path = Path("data/figures/demo"), device: str | None = None
) -> None:
    """Measure plasticity and regeneration on scikit-learn's digits, and draw the figures.

    Args:
        lab: Folder of the runs.
        out: Folder of the figures and the table.
        device: A torch device; by default the GPU if there is one.
    """
    from granet_lab import Lab
    from granet_lab.demo import run

    print(run(Lab(lab, device), out))


def reproduce(
    recipe: tyro.conf.Positional[str],
    *,
    what: tuple[Literal["plasticity", "regeneration", "methods"], ...] = (
        "plasticity",
        "regeneration",
        "methods",
    ),
    short: bool = False,
    plan_only: bool = False,
    epoch: tuple[int, ...] | None = None,
    rate: tuple[float, ...] = (0.2, 0.5, 0.9, 0.98),
    recovery_epochs: int | None = None,
    method: tuple[str, ...] = ("rigl", "gmp", "granet"),
    sparsity: tuple[float, ...] | None = None,
    seed: tuple[int, ...] = (0,),
    settings: Settings = (),
    out: Path | None = None,
    workers: int | None = None,
    lab: Path = LAB,
    device: str | None = None,
) -> None:
    """Measure what the paper shows of a recipe, and report it beside what was published.

    Prints the plan first, then measures stage by stage; the same command goes on where it stopped.
    Example: granet-lab reproduce resnet20_cifar10 --short --set dataset=folder:cifar10-jpeg

    Args:
        recipe: Name of a recipe.
        what: Stages: plasticity, regeneration (with and without), methods (trained sparse).
        short: A tenth of the epochs, the learning rate falling in proportion.
        plan_only: Print the plan, and what it would take, and stop.
        epoch: Epochs after which to prune; by default a sixteenth of the run apart, or an eighth.
        rate: Fractions of the current non-zeros to remove.
        recovery_epochs: Length of the frozen continuation; by default 30 of 160.
        method: Names, perhaps with values: granet_st, snip:static,criterion=snip,scope=global ...
        sparsity: Sparsities at the end of training; by default those published for the recipe.
        seed: One run for each seed.
        settings: Other values for fields of the recipe.
        out: Folder of the report; by default data/reports/ and the recipe's name.
        workers: Processes; by default one for each core.
        lab: Folder of the runs.
        device: A torch device; by default the GPU if there is one.
    """
    from granet_lab import Lab
    from granet_lab.reproduction import plan
    from granet_lab.reproduction import reproduce as carry_out

    place = Lab(lab, device)
    changes = typed.changes(settings)
    asked = plan(
        recipe,
        what,
        short,
        epoch,
        rate,
        recovery_epochs,
        typed.methods(method),
        sparsity,
        seed,
        **changes,
    )
    print(asked.describe(place, workers), flush=True)
    if not plan_only:
        name = f"{recipe}-short" if short else recipe
        print(carry_out(place, asked, out or Path("data/reports") / name, workers))


def plot(
    table: tyro.conf.Positional[Path],
    *,
    value: Literal["plasticity", "final_gap", "methods"] = "plasticity",
    hue: str | None = None,
    out: Path = Path("data/figures/plasticity"),
) -> None:
    """Draw a table that measure or compare wrote.

    Args:
        table: The CSV file.
        value: What to draw: plasticity or final_gap by epoch of pruning, methods by sparsity.
        hue: Column that the lines differ in; by default regrow.
        out: Path of the figures without an ending; a PNG and a PDF are written.
    """
    from granet_lab import plots, read_table

    measured = read_table(table)
    if value == "methods":
        if hue is not None:
            raise ValueError("--hue is not for methods: a line is a method there")
        figure, frame = plots.methods(measured)
    elif value in measured:
        figure, frame = getattr(plots, value)(measured, hue=hue or "regrow")
    else:
        raise ValueError(f"{table} has no column {value}: name a file that measure wrote")
    print(frame.round(2).to_string(index=False))
    for path in plots.save(figure, out):
        print(path)


def profile(
    recipe: tyro.conf.Positional[str] = "digits",
    *,
    networks: int = 1,
    steps: int = 10,
    settings: Settings = (),
    device: str | None = None,
) -> None:
    """Print where the time of a training step goes, beside what the device could do.

    Example: granet-lab profile digits --networks 16

    Args:
        recipe: Name of a recipe.
        networks: 1, or an even number of networks that share a stack.
        steps: How many are timed, again and again.
        settings: Other values for fields of the recipe.
        device: A torch device; by default the GPU if there is one.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else torch's profiler talks of itself
    from granet_lab.experiments.environment import default_device, hardware, usable_device
    from granet_lab.training import profiling

    place = default_device() if device is None else usable_device(device)
    (base,) = typed.recipes(recipe, settings)
    print(f"{recipe}; {hardware(place)}\n")
    print(profiling.profile(base, place, networks, steps))
