"""SIGKILL at random moments: of workers, of who waits for them, of everything."""

import contextlib
import json
import os
import random
import signal
import time

import psutil
import pytest
from sweeping import start

from granet_lab.experiments.files import read_json

# (kills in CI, kills in the long version) for each victim.
COUNTS = {
    ("loky", "workers"): (4, 40),
    ("loky", "the client"): (3, 30),
    ("loky", "the whole sweep"): (3, 30),
    ("dask", "workers"): (2, 10),
    ("dask", "the client"): (2, 10),
}
# What the command of a worker says.
WORKER = {"loky": "loky.backend.popen_loky_posix", "dask": "multiprocessing.spawn "}
# Seconds in which a sweep begins its work; in which a worker ends that nobody waits for any more:
# once it is at work, and whatever it does.
LOADING = {"loky": 6, "dask": 15}
SOON, LATER = 5, 60
CASES = [
    pytest.param(*case, times, id=f"{', '.join(case)}, {times} times", marks=marks)
    for long, marks in enumerate([(), pytest.mark.slow])
    for case, counts in COUNTS.items()
    for times in [counts[long]]
]


@pytest.mark.timeout(2400)
@pytest.mark.parametrize(("on", "victim", "times"), CASES)
def test_killed_again_and_again_the_table_is_the_same(tmp_path, same, on, victim, times):
    if on == "dask":
        pytest.importorskip("distributed")
    moments, stores = random.Random(f"{on} {victim} {times}"), 0
    met = []  # of each kill, whether it met work
    deadline = time.monotonic() + 2000
    while not enough(met, times):
        assert time.monotonic() < deadline, met
        store = tmp_path / str(stores)
        sweep = start(store, on=on)
        # A cluster of which a worker dies before it is there is none, and says so.
        while victim == "workers" and sweep.poll() is None and not begun(store):
            time.sleep(0.02)
        while sweep.poll() is None and not enough(met, times):
            early = len(met) % 3 == 1
            at_a_moment(sweep, store, moments, LOADING[on] if early else None)
            busy = at_work(sweep, store)
            if strike(victim, sweep, moments, WORKER[on]):
                met.append(bool(busy))
            if victim != "workers":
                # Those that are at work notice at once that nobody waits for them any more.
                assert gone(sweep, SOON, busy)
                break
        if victim == "workers":
            _, errors = sweep.communicate(timeout=300)
            assert sweep.returncode == 0 or excused(store), errors
        assert gone(sweep, LATER)
        if sweep.poll() == 0:  # it came to its end: the next kills meet a new one
            assert same(store)
            stores += 1
    assert same(tmp_path / str(stores))


def enough(met, times):
    """Whether there were so many kills, and not all of them met nothing but imports."""
    return len(met) >= times and sum(met) >= max(1, times // 3)


def begun(store):
    """Whether there is a sweep, with anything loaded or not."""
    return any(store.glob("progress/[!.]*.notes"))


def at_a_moment(sweep, store, moments, loading=None):
    """Wait for one: while something is being written, or within so many seconds."""
    if loading is not None:
        time.sleep(moments.uniform(0.5, loading))
        return
    before = written(store)
    while sweep.poll() is None and written(store) == before:
        time.sleep(0.02)
    time.sleep(moments.uniform(0, 2))


def written(store):
    """Changes whenever something in a run does: its checkpoints, trials, notes of who is at it."""
    found = set()
    for path in store.glob("*/*/[!.]*"):  # but not the claims, made before anything is loaded
        with contextlib.suppress(FileNotFoundError):
            found.add((path, path.stat().st_mtime_ns))
    return found


def at_work(sweep, store):
    """Its workers that have left word of what they are doing."""
    told = set()
    for path in store.glob("*/progress/[!.]*.notes"):
        with contextlib.suppress(FileNotFoundError):
            told.add(json.loads(path.read_text().partition("\n")[0])["pid"])
    return {process.pid for process in processes(sweep)} & told


def excused(store):
    """Whether nothing has failed but what was killed again and again, with nothing in between."""
    why = [read_json(path)["error"] for path in store.glob("*/failures/*.json")]
    return bool(why) and all("died 3 times" in one for one in why)


def strike(victim, sweep, moments, worker):
    """Kill once; whether there was something to kill."""
    if victim == "the whole sweep":
        with contextlib.suppress(ProcessLookupError):
            os.killpg(sweep.pid, signal.SIGKILL)
            return sweep.wait() == -signal.SIGKILL
        return False
    if victim == "the client":
        sweep.kill()
        return sweep.wait() == -signal.SIGKILL
    workers = processes(sweep, worker)
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


def gone(sweep, within, pids=None):
    """Whether all of its processes end in so many seconds, or those of these numbers."""
    deadline = time.monotonic() + within
    while any(pids is None or process.pid in pids for process in processes(sweep)):
        if time.monotonic() > deadline:
            return False
        sweep.poll()
        time.sleep(0.1)
    return True
