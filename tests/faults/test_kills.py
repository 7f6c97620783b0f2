"""SIGKILL at random moments: of workers, of who waits for them, of everything."""

import contextlib
import os
import random
import signal
import time

import psutil
import pytest
from sweeping import start

# (kills in CI, kills in the long version) for each victim.
COUNTS = {"workers": (4, 40), "the client": (3, 30), "the whole sweep": (3, 30)}
WORKER = "loky.backend.popen_loky_posix"
LONG = [
    pytest.param(victim, long, id=f"{victim}, {long} times", marks=pytest.mark.slow)
    for victim, (_, long) in COUNTS.items()
]
SHORT = [
    pytest.param(victim, few, id=f"{victim}, {few} times") for victim, (few, _) in COUNTS.items()
]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("victim", "times"), [*SHORT, *LONG])
def test_killed_again_and_again_the_table_is_the_same(tmp_path, same, victim, times):
    moments, kills, stores = random.Random(f"{victim} {times}"), 0, 0
    at_work = 0
    deadline = time.monotonic() + 1500
    while kills < times:
        assert time.monotonic() < deadline
        store = tmp_path / str(stores)
        sweep = start(store)
        while sweep.poll() is None and kills < times:
            begun = at_a_moment(sweep, store, moments)
            killed = strike(victim, sweep, moments)
            kills += killed
            at_work += killed and begun
            if victim != "workers":
                break
        if kills == times and sweep.poll() is None and victim == "workers":
            sweep.wait(timeout=120)
        # Workers notice by themselves that nobody waits for them any more; once they are loaded.
        assert gone(sweep, within=40)
        if sweep.poll() == 0:  # it came to its end: the next kills meet a new one
            assert same(store)
            stores += 1
    assert same(tmp_path / str(stores))
    # Else they might all have met nothing but imports.
    assert at_work >= times // 3


def at_a_moment(sweep, store, moments):
    """Wait for one: mostly while something is being written, at times while it is loading, say;
    whether anything was."""
    before = written(store)
    if moments.random() < 0.3:
        time.sleep(moments.uniform(0.5, 6))
        return written(store) != before
    while sweep.poll() is None and written(store) == before:
        time.sleep(0.02)
    time.sleep(moments.uniform(0, 3.5))
    return written(store) != before


def written(store):
    """Changes whenever something in a run does: its checkpoints, trials, notes of who is at it."""
    found = set()
    for path in store.glob("*/*/[!.]*"):  # but not the claims, made before anything is loaded
        with contextlib.suppress(FileNotFoundError):
            found.add((path, path.stat().st_mtime_ns))
    return found


def strike(victim, sweep, moments):
    """Kill once; whether there was something to kill."""
    if victim == "the whole sweep":
        with contextlib.suppress(ProcessLookupError):
            os.killpg(sweep.pid, signal.SIGKILL)
            return sweep.wait() == -signal.SIGKILL
        return False
    if victim == "the client":
        sweep.kill()
        return sweep.wait() == -signal.SIGKILL
    workers = processes(sweep, WORKER)
    if not workers:
        return False
    with contextlib.suppress(psutil.NoSuchProcess):
        moments.choice(workers).kill()
        return True
    return False


def processes(sweep, words=""):
    """Those of its group that are still there."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "status"]):
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            line = " ".join(process.info["cmdline"] or [])
            dead = process.info["status"] == psutil.STATUS_ZOMBIE
            if not dead and os.getpgid(process.pid) == sweep.pid and words in line:
                found.append(process)
    return found


def gone(sweep, within):
    deadline = time.monotonic() + within
    while processes(sweep):
        if time.monotonic() > deadline:
            return False
        sweep.poll()
        time.sleep(0.1)
    return True
