"""Several processes at once in one store, and a store that is copied while it is written."""

import random
import subprocess
import time

import pytest
from sweeping import start

from granet_lab.upkeep.verification import DAMAGED, verify


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("times", [1, pytest.param(10, marks=pytest.mark.slow)])
@pytest.mark.timeout(900)
def test_several_processes_that_measure_the_same_lose_nothing(tmp_path, same, processes, times):
    for store in map(str, range(times)):
        sweeps = [start(tmp_path / store, workers=1) for _ in range(processes)]
        for sweep in sweeps:
            _, errors = sweep.communicate(timeout=200)
            assert sweep.returncode == 0, errors
        assert same(tmp_path / store)


def test_parts_measured_at_the_same_time_are_one_table(tmp_path, same):
    sweeps = [start(tmp_path / "runs", 1, slice(i * 16, i * 16 + 16)) for i in range(3)]
    for sweep in sweeps:
        _, errors = sweep.communicate(timeout=200)
        assert sweep.returncode == 0, errors
    assert len(list((tmp_path / "runs").glob("*/trials/*.json"))) == 48
    assert same(tmp_path / "runs")


@pytest.mark.parametrize("copies", [5, pytest.param(30, marks=pytest.mark.slow)])
@pytest.mark.timeout(900)
def test_a_store_copied_while_it_is_written_is_a_store(tmp_path, same, copies):
    moments, made = random.Random(0), 0
    while made < copies:
        store = tmp_path / f"store {made}"
        sweep = start(store, workers=1)
        while not list(store.glob("*/recipe.json")) and sweep.poll() is None:
            time.sleep(0.01)
        copied = []
        while sweep.poll() is None and made < copies:
            time.sleep(moments.uniform(0, 0.4))
            copied.append(tmp_path / f"copy {made}")
            # What it lists and does not find any more makes it complain: files in the making.
            words = ["cp", "-r", str(store), str(copied[-1])]
            subprocess.run(words, capture_output=True, check=False)
            made += 1
        _, errors = sweep.communicate(timeout=120)
        assert sweep.returncode == 0, errors
        for copy in copied:
            assert not [found for found in verify(copy) if found.kind == DAMAGED]
            assert same(copy)
