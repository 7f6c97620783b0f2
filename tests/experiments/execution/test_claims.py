import json
import os
import subprocess
import sys
import threading
import time

import pytest

from granet_lab.experiments.execution import claims, presence
from granet_lab.experiments.execution.claims import Claims
from granet_lab.experiments.store import Run


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def run(tmp_path, recipe):
    return Run(tmp_path, recipe)


@pytest.fixture
def path(run):
    return claims.path_of(run.path)


def claim_of(path, **facts):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"where": "elsewhere", "pid": 1, "token": "x"} | facts))


def test_a_run_belongs_to_one_at_a_time(run, path):
    mine, others = Claims(), Claims()
    assert others.free(run)
    with mine.claimed(run) as got:
        assert got
        assert path.exists()
        assert not others.free(run)
        with others.claimed(run) as also:
            assert not also
        assert path.exists()
    assert others.free(run)
    assert not path.exists()


def test_a_claim_goes_with_an_error(run):
    with pytest.raises(RuntimeError), Claims().claimed(run):
        raise RuntimeError
    assert Claims().free(run)


def test_what_a_dead_process_of_this_machine_claimed_is_free_at_once(run, path):
    path.parent.mkdir(parents=True)
    code = (
        "import sys, os; from granet_lab.experiments.execution import claims; "
        "import pathlib; claims._make(pathlib.Path(sys.argv[1])); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert path.exists()
    with Claims().claimed(run) as got:
        assert got
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_a_process_that_is_there_is_given_a_minute(run, path):
    """It may be another one of the same number: nobody could tell, so it has to be touched."""
    clock = Clock()
    mine = Claims(clock)
    claim_of(path, where=presence.here(), pid=os.getpid())
    assert not mine.free(run)
    clock.now += 61
    assert mine.free(run)


def test_only_one_of_many_takes_over_what_a_dead_one_has_left(run, path, monkeypatch):
    monkeypatch.setattr(claims, "_PAUSE", 0.05)
    for _ in range(20):
        claim_of(path, where=presence.here(), pid=2**22 + 1)
        together, won, over = threading.Barrier(8), [], threading.Event()

        def rival(together=together, won=won, over=over):
            together.wait()
            with Claims().claimed(run) as got:
                won.append(got)
                over.wait(10)

        rivals = [threading.Thread(target=rival) for _ in range(8)]
        for one in rivals:
            one.start()
        while len(won) < 8:
            time.sleep(0.01)
        over.set()
        for one in rivals:
            one.join()
        assert won.count(True) <= 1
        assert not path.exists() or won.count(True) == 0


def test_waiting_ends_when_the_other_does(run, path, monkeypatch):
    monkeypatch.setattr(claims, "_PAUSE", 0.01)
    order = []

    def other():
        with Claims().claimed(run) as got:
            order.append(("other", got))
            time.sleep(0.3)
            order.append("ends")

    thread = threading.Thread(target=other)
    thread.start()
    while not order:
        time.sleep(0.001)
    with Claims().once_free(run):
        order.append("mine")
    thread.join()
    assert order == [("other", True), "ends", "mine"]


def test_a_claim_that_could_not_be_written_is_none(run, path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(claims.json, "dump", full)
        with Claims().claimed(run) as got:
            assert got
            assert not path.exists()
    assert Claims().free(run)


@pytest.mark.parametrize("content", [None, "", '{"where": "else', "[]", "7"])
def test_a_claim_elsewhere_is_over_after_a_minute_without_a_touch(run, path, content):
    clock = Clock()
    mine = Claims(clock)
    claim_of(path)
    if content is not None:
        path.write_text(content)
    for touched in range(3):  # its clock may say what it likes
        os.utime(path, (touched * 1e6, touched * 1e6))
        for _ in range(6):
            assert not mine.free(run)
            clock.now += 10
    assert not mine.free(run)
    clock.now += 1
    assert mine.free(run)
    with mine.claimed(run) as got:
        assert got


def test_it_is_touched_as_long_as_it_lasts(run, path, monkeypatch):
    monkeypatch.setattr(claims, "_BEAT", 0.01)
    with Claims().claimed(run):
        os.utime(path, (0, 0))
        for _ in range(500):
            if path.stat().st_mtime > 0:
                break
            time.sleep(0.01)
        assert path.stat().st_mtime > 0


def test_who_lost_a_claim_does_not_take_away_that_of_another(run, path):
    with Claims().claimed(run):
        claim_of(path)
    assert path.exists()


def test_a_folder_that_cannot_be_written_keeps_nobody_from_trying(run, path):
    path.parent.parent.mkdir(parents=True)
    path.parent.write_text("a file in the way")
    with Claims().claimed(run) as got:
        assert got
