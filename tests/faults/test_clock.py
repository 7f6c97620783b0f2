"""Clocks that jump, and file times that mean nothing."""

import os
import random
import sys
import time

import loky
import pytest
from sweeping import asked, numbers

import granet_lab as gl
from granet_lab.experiments import files
from granet_lab.experiments.execution import progress, telling


class Jumping:
    """The clocks of a process, which jump by up to thirty years at every look.

    Attributes:
        asked: the modules that have looked.
    """

    def __init__(self, seed):
        self.random, self.asked = random.Random(seed), set()

    def set(self, patch=setattr):
        seconds, nanoseconds = time.time, time.time_ns
        patch(time, "time", lambda: seconds() + self._jump())
        patch(time, "time_ns", lambda: nanoseconds() + int(1e9 * self._jump()))

    def _jump(self):
        self.asked.add(sys._getframe(2).f_globals["__name__"])
        return self.random.choice([-1, 1]) * self.random.uniform(0, 1e9)


WORKER = Jumping(0)


def set_worker():
    WORKER.set()


def asked_worker():
    return WORKER.asked


@pytest.mark.parametrize("seed", range(3))
def test_a_clock_that_jumps_changes_nothing(tmp_path, undisturbed, monkeypatch, seed):
    clock, lab = Jumping(seed), gl.Lab(tmp_path / "runs", device="cpu")
    clock.set(monkeypatch.setattr)
    table = lab.measure(asked(), workers=1, progress=False)
    assert numbers(table).equals(undisturbed)
    assert {telling.__name__, progress.__name__, files.__name__} <= clock.asked


def test_clocks_of_two_processes_that_jump_apart_change_nothing(tmp_path, undisturbed, monkeypatch):
    clock, lab = Jumping(1), gl.Lab(tmp_path / "runs", device="cpu")
    with loky.ProcessPoolExecutor(1, initializer=set_worker) as worker:
        clock.set(monkeypatch.setattr)
        table = lab.measure(asked(), worker, progress=False)
        found = worker.submit(asked_worker).result()
    assert numbers(table).equals(undisturbed)
    assert {telling.__name__, files.__name__} <= found
    assert {progress.__name__, files.__name__} <= clock.asked


@pytest.mark.parametrize("seed", range(3))
def test_times_of_files_mean_nothing(tmp_path, undisturbed, seed):
    jumps, lab = random.Random(seed), gl.Lab(tmp_path / "runs", device="cpu")
    for n in (12, 30, 48):
        lab.measure(asked()[:n], workers=1, progress=False)
        for path in lab.path.rglob("*"):
            moment = jumps.uniform(0, 4e9)
            os.utime(path, (moment, moment))
    assert numbers(lab.measure(asked(), workers=1, progress=False)).equals(undisturbed)
    again = gl.Lab(lab.path, device="cpu").table(asked())
    assert numbers(again).equals(undisturbed)
