"""A small sweep: what tests of executors and of faults disturb, and the command that runs it."""

import contextlib
import signal
import subprocess
import sys

import granet_lab as gl
from granet_lab.experiments.execution import clusters

RECIPE = gl.recipes.digits(model="mlp", epochs=4, milestones=(2,), train_size=200)


def asked(recipe=RECIPE):
    """48 trials of four runs, two of them sparse: a few seconds of work."""
    trials = []
    for sparsity in (0, 0.8):
        trials += gl.grid(
            recipe,
            method=gl.methods.static(sparsity),
            epoch=[0, 2, 4],
            rate=[0.5, 0.9],
            regrow=[None, "gradient"],
            seed=[0, 1],
            recovery_epochs=2,
        )
    return trials


def numbers(table):
    """What must be the same however often it was disturbed."""
    return table.drop(columns="seconds")


def start(path, workers=2, trials=slice(None), on="loky"):
    """The sweep in a process group of its own; on loky, or on a cluster of Dask that it hosts."""
    ends = str(trials.start), str(trials.stop)
    return subprocess.Popen(
        [sys.executable, __file__, str(path), str(workers), *ends, on],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


if __name__ == "__main__":
    path, workers, *ends, on = sys.argv[1:]
    which = slice(*(None if end == "None" else int(end) for end in ends))
    lab = gl.Lab(path, device="cpu")
    with contextlib.ExitStack() as stack:
        where = {"workers": int(workers)}
        if on == "dask":
            where = {"executor": stack.enter_context(clusters.local(int(workers)))}
        found = lab.measure(asked()[which], progress=False, **where)
    sys.exit(0 if (found.status == "ok").all() else 1)
