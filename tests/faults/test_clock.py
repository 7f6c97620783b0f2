"""A clock that jumps, and file times that mean nothing."""

import os
import random
import time

import pytest
from sweeping import asked, numbers

import granet_lab as gl


@pytest.mark.parametrize("seed", range(3))
def test_a_clock_that_jumps_changes_nothing(tmp_path, undisturbed, monkeypatch, seed):
    jumps, real = random.Random(seed), time.time
    monkeypatch.setattr(
        time, "time", lambda: real() + jumps.choice([-1, 1]) * jumps.uniform(0, 1e9)
    )
    lab = gl.Lab(tmp_path / "runs", device="cpu")
    table = lab.measure(asked(), workers=1, progress=False)
    assert numbers(table).equals(undisturbed)


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
