"""Live progress of a lab, from its folder alone: also of what another process is doing."""

from __future__ import annotations

import html
import threading
import time
from typing import Any

import ipywidgets as widgets

from granet_lab.experiments import estimate
from granet_lab.experiments.execution import progress
from granet_lab.experiments.execution.progress import Note
from granet_lab.experiments.lab import Lab
from granet_lab.experiments.store import Run

# Seconds between two looks, while something is under way and while nothing is; and how many times
# the look itself, so that a lab of a thousand runs does not keep a core busy.
_GLANCE, _REST, _CALM = 0.5, 1.0, 10
# Runs that are shown in full; more of them are counted.
_MOST = 30

_STYLE = """<style>
.granet-watch {border-collapse: collapse; font-size: 12px; font-variant-numeric: tabular-nums}
.granet-watch td, .granet-watch th {padding: 1px 10px 1px 0; text-align: left; font-weight: normal;
  line-height: 1.35}
.granet-watch th {color: var(--jp-ui-font-color2, #555)}
.granet-watch progress {width: 110px; vertical-align: middle}
</style>"""


class Watch:
    """A table of sweeps and runs that keeps itself up to date. Made by ``granet_lab.watch``.

    Attributes:
        lab: what is watched.
        widget: the table.
    """

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.widget = widgets.HTML(layout={"width": "100%", "max_width": "940px"})
        self._closed = threading.Event()
        self._look()
        threading.Thread(target=self._follow, name="granet-lab watch", daemon=True).start()

    def close(self) -> None:
        """Look no more; the table stays as it is."""
        self._closed.set()

    def _follow(self) -> None:
        pause = _GLANCE
        while not self._closed.wait(pause):
            began = time.monotonic()
            busy = self._look()
            pause = max(_GLANCE if busy else _REST, _CALM * (time.monotonic() - began))

    def _look(self) -> bool:
        """Read the store and show it; whether anything is under way."""
        try:
            sweeps = [note for note in progress.sweeps(self.lab.path) if note.alive]
            runs = [_RunState(self.lab.run(recipe)) for recipe in self.lab.recipes()]
        except OSError as error:
            self.widget.value = html.escape(f"cannot read {self.lab.path}: {error}")
            return False
        busy = bool(sweeps) or any(run.busy for run in runs)
        self.widget.value = _STYLE + self._table(sweeps, runs, busy)
        return busy

    def _table(self, sweeps: list[Note], runs: list[_RunState], busy: bool) -> str:
        shown = sorted(runs, key=lambda run: (not run.busy, run.name))[:_MOST]
        rows = [_sweep_row(note) for note in sweeps]
        rows += [run.row() for run in shown]
        if len(runs) > len(shown):
            rows.append(["", "", f"and {len(runs) - len(shown)} more runs", "", ""])
        if not runs and not sweeps:
            return f"{html.escape(str(self.lab.path))} holds no run yet."
        head = "".join(f"<th>{name}</th>" for name in ("", "progress", "", "test acc.", "trials"))
        body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
        state = "" if busy else "<p>Nothing is under way.</p>"
        return f'<table class="granet-watch"><tr>{head}</tr>{body}</table>{state}'

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """The live table; the table as it stands for a page that no kernel stands behind."""
        still = f"{self.widget.value}<p>As of now: run this cell in JupyterLab to watch.</p>"
        return {**self.widget._repr_mimebundle_(), "text/html": still, "text/plain": repr(self)}

    def __repr__(self) -> str:
        return f"Watch({self.lab!r})"


class _RunState:
    """How far one run and its trials are."""

    def __init__(self, run: Run) -> None:
        self.run, rows = run, run.rows()
        recipe = run.recipe
        method = str(recipe.method)
        self.name = f"{recipe.dataset}, {recipe.model}, {method}, seed {recipe.seed}"
        notes = {name: note for name, note in progress.notes(run).items() if note.alive}
        self.training = notes.pop(progress.TRAINING, None)
        self.measuring = list(notes.values())
        self.done = max(0, len(rows) - 1)
        self.diverged = bool(rows) and "diverged" in rows[-1]
        self.accuracy = rows[-1].get("test_acc") if rows else None
        self.trials = sum(1 for _ in run.path.glob("trials/[!.]*.json"))

    @property
    def busy(self) -> bool:
        """Whether a process is at it."""
        return self.training is not None or bool(self.measuring)

    def row(self) -> list[str]:
        """Cells of the table."""
        of = self.run.recipe.epochs
        if self.training is not None:
            state = f"training, epoch {self.done} of {of}"
        elif self.diverged:
            state = f"diverged after epoch {self.done - 1}"
        elif self.done < of:
            state = f"stopped at epoch {self.done} of {of}"
        else:
            state = "trained"
        accuracy = "" if self.accuracy is None else f"{self.accuracy:.1f}%"
        now = "".join(f", epoch {note.done} of {note.of} of another" for note in self.measuring)
        return [html.escape(self.name), _bar(self.done, of), state, accuracy, f"{self.trials}{now}"]


def _sweep_row(note: Note) -> list[str]:
    speed = note.done / note.elapsed if note.elapsed else 0
    left = f", {estimate.in_words((note.of - note.done) / speed)} left" if speed else ""
    who = "this notebook" if note.own else "another process"
    return [
        f"<b>sweep in {who}</b>",
        _bar(note.done, note.of),
        f"{note.done} of {note.of} epochs{left}",
        "",
        "",
    ]


def _bar(done: int, of: int) -> str:
    return f'<progress max="{of}" value="{done}" title="{done} of {of}"></progress>'


def watch(lab: Lab) -> Watch:
    """Live progress of the sweeps and trainings in a lab, whichever process they run in.

    It reads the lab's folder, a few times a second while something is under way.

    Args:
        lab: what to watch.

    Returns:
        What a notebook shows when it is the value of a cell; ``close()`` ends it.
    """
    return Watch(lab)
