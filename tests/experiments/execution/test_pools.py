import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from dataclasses import replace
from queue import SimpleQueue

import numpy as np
import psutil
import pytest
import torch

import granet_lab as gl
from granet_lab.experiments.execution.pools import (
    Lent,
    OwnProcesses,
    SharedProcesses,
    ThisProcess,
    arrived,
    choose,
    worker_count,
)


@pytest.fixture
def trials(recipe):
    return gl.grid(recipe, epoch=[0, 2], rate=0.5)


@pytest.fixture
def own():
    """Makes processes that do not outlive the test."""
    made = []

    def own(workers=1):
        made.append(OwnProcesses(workers))
        return made[-1]

    yield own
    for processes in made:
        processes.kill()


def workers():
    """Processes that executors have started from here."""
    found = set()
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if any("popen_loky" in word for word in child.cmdline()):
                found.add(child.pid)
    return found


def begin(executor):
    """Submit something endless; return it and the processes that were started for it."""
    before, deadline = workers(), time.monotonic() + 20
    future = executor.submit(time.sleep, 1000)
    while not workers() - before:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return future, workers() - before


def gone(pids, within=20):
    deadline = time.monotonic() + within
    while time.monotonic() < deadline and any(psutil.pid_exists(pid) for pid in pids):
        time.sleep(0.01)
    return not any(psutil.pid_exists(pid) for pid in pids)


def test_this_process_works_in_the_thread_that_submits():
    with ThisProcess().open() as executor:
        future = executor.submit(lambda *args, **named: (os.getpid(), args, named), 1, two=2)
        thread = executor.submit(threading.current_thread)
    assert future.done()
    assert future.result() == (os.getpid(), (1,), {"two": 2})
    assert thread.result() is threading.current_thread()


def test_this_process_keeps_an_error_for_who_asks():
    with ThisProcess().open() as executor:
        future = executor.submit(int, "seven")
    with pytest.raises(ValueError, match="seven"):
        future.result()


def test_this_process_is_interrupted_like_any_other_code():
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), ThisProcess().open() as executor:
        executor.submit(interrupted)


def test_a_lent_executor_is_given_back_as_it_was():
    with ThreadPoolExecutor(1) as lent:
        with pytest.raises(RuntimeError, match="leave"), Lent(lent).open() as executor:
            raise RuntimeError("leave")
        assert executor is lent
        assert lent.submit(int).result() == 0


def test_own_processes_stay_while_they_are_well(own):
    processes = own()
    with processes.open() as first:
        pass
    with processes.open() as again:
        assert again is first


def test_own_processes_are_nobody_elses(own):
    with own().open() as mine, own().open() as yours, SharedProcesses(2).open() as ours:
        assert len({id(mine), id(yours), id(ours)}) == 3


def test_own_processes_survive_an_error_of_who_uses_them(own):
    processes = own()
    with pytest.raises(RuntimeError, match="leave"), processes.open() as first:
        raise RuntimeError("leave")
    with processes.open() as again:
        assert again is first


def test_killed_processes_end_at_once_and_the_next_are_new(own):
    processes = own()
    with processes.open() as first:
        future, pids = begin(first)
    processes.kill()
    assert gone(pids)
    assert future.exception(timeout=20) is not None
    with processes.open() as second:
        assert second is not first
        assert second.submit(abs, -7).result() == 7
    with processes.open() as again:
        assert again is second


def test_processes_opened_while_others_are_being_killed_are_kept(own):
    processes, opened = own(), []
    with processes.open() as first:
        shutdown = first.shutdown

    def slow(**how):
        shutdown(**how)
        with processes.open() as executor:
            opened.append(executor)

    first.shutdown = slow
    processes.kill()
    with processes.open() as now:
        assert [now] == opened


def test_who_opens_at_the_same_time_gets_the_same_processes(own):
    processes, together = own(), threading.Barrier(4)

    def opened():
        together.wait()
        with processes.open() as executor:
            return executor

    with ThreadPoolExecutor(4) as threads:
        found = [future.result() for future in [threads.submit(opened) for _ in range(4)]]
    assert len(set(map(id, found))) == 1


def test_killing_what_was_never_opened_or_is_killed_already_does_nothing(own):
    processes = own()
    processes.kill()
    with processes.open():
        pass
    processes.kill()
    processes.kill()


def test_processes_of_which_one_died_are_replaced(own):
    processes = own(2)
    with processes.open() as first:
        future, pids = begin(first)
    psutil.Process(min(pids)).kill()
    with pytest.raises(BrokenExecutor):
        future.result(timeout=20)
    with processes.open() as second:
        assert second is not first


def interrupt(pool):
    with pytest.raises(KeyboardInterrupt), pool.open() as executor:
        raise KeyboardInterrupt
    return executor


def test_shared_processes_stay_for_the_next_sweep_and_end_with_an_interrupted_one():
    stale = interrupt(SharedProcesses(2))
    with SharedProcesses(2).open() as first:
        future, pids = begin(first)
    assert first is not stale
    assert interrupt(SharedProcesses(2)) is first
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert future.exception(timeout=0) is not None


def test_futures_arrive_in_the_order_in_which_they_end():
    ended, futures = SimpleQueue(), [Future() for _ in range(3)]
    for future in futures:
        future.add_done_callback(ended.put)
    assert arrived(ended, 0.01) == []
    futures[2].set_result(None)
    futures[0].set_exception(RuntimeError("not today"))
    assert arrived(ended, 0.01) == [futures[2], futures[0]]
    assert arrived(ended, 0.01) == []


def recipes(trials):
    return [trial.recipe for trial in trials]


@pytest.mark.parametrize(
    ("workers", "count", "kind"),
    [
        (1, 2, ThisProcess),
        (2, 1, ThisProcess),
        (2, 0, ThisProcess),
        (2, 2, SharedProcesses),
        (None, 2, SharedProcesses),
        (None, 0, ThisProcess),
    ],
)
def test_there_are_processes_where_there_is_work_for_two(trials, monkeypatch, workers, count, kind):
    monkeypatch.setattr("loky.cpu_count", lambda only_physical_cores: 4)
    assert type(choose(None, workers, recipes(trials[:count]), "cpu")) is kind


def test_an_executor_is_used_whatever_else_is_said(trials):
    with ThreadPoolExecutor(1) as given:
        assert type(choose(given, None, recipes(trials), "cpu")) is Lent
        with choose(given, 7, recipes(trials[:1]), "cuda").open() as executor:
            assert executor is given


@pytest.mark.parametrize("workers", [0, -1, 1.5])
def test_fewer_than_one_worker_is_refused(trials, workers):
    with pytest.raises(ValueError, match="workers"):
        choose(None, workers, recipes(trials), "cpu")


@pytest.mark.parametrize(("threads", "workers"), [(1, 6), (2, 3), (4, 1), (6, 1), (7, 1)])
def test_a_worker_for_as_many_cores_as_a_run_has_threads(trials, monkeypatch, threads, workers):
    monkeypatch.setattr("loky.cpu_count", lambda only_physical_cores: 6 * only_physical_cores)
    (greedy,) = gl.grid(replace(trials[0].recipe, threads=threads), epoch=0, rate=0.5)
    assert worker_count(recipes([*trials, greedy]), "cpu") == workers


def test_one_worker_on_a_gpu_and_where_there_is_nothing_to_do(trials, monkeypatch):
    monkeypatch.setattr("loky.cpu_count", lambda only_physical_cores: 6)
    assert worker_count(recipes(trials), "cuda") == worker_count([], "cpu") == 1
    assert type(choose(None, None, recipes(trials), "cuda")) is ThisProcess


def test_a_worker_takes_one_thread_where_torch_is_not_told_how_many(own):
    with own().open() as executor:
        assert executor.submit(torch.get_num_threads).result() == 1


_kept = []


def _grow():
    """Hold half a gigabyte, and say in which process."""
    if not _kept:
        _kept.append(np.ones(2**26))
    return os.getpid()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [OwnProcesses, SharedProcesses])
def test_a_worker_that_has_grown_stays(kind):
    """It holds images and networks; one in its place would have to load them again."""
    processes = kind(2)
    with processes.open() as executor:
        assert executor.submit(int).result() == 0  # what its size is compared with
        pids = set()
        for _ in range(4):
            pids |= {f.result() for f in [executor.submit(_grow) for _ in range(4)]}
            time.sleep(1.2)  # sizes are looked at once a second
        assert len(pids) <= 2
        executor.shutdown(kill_workers=True)


def test_a_worker_does_not_hear_an_interrupt(own):
    with own().open() as executor:
        handler = executor.submit(signal.getsignal, signal.SIGINT).result()
    assert handler == signal.SIG_IGN


def test_a_worker_ends_with_the_process_that_started_it_whatever_it_does():
    code = (
        "import os, time; from granet_lab.experiments.execution.pools import OwnProcesses\n"
        "with OwnProcesses(1).open() as pool:\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n"
        "    pool.submit(time.sleep, 1000).result()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as parent:
        worker = int(parent.stdout.readline())
        parent.kill()
    assert gone({worker}, within=5)
