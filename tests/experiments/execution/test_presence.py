import os
import platform
import subprocess
import sys
import time

import psutil
import pytest

from granet_lab.experiments.execution import presence


def test_this_process_is_there():
    assert not presence.gone(os.getpid())


def test_a_process_that_has_ended_is_gone_before_anybody_has_waited_for_it_and_after():
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
    )
    assert not presence.gone(process.pid)
    process.stdin.close()
    deadline = time.monotonic() + 30
    while not presence.gone(process.pid):
        assert time.monotonic() < deadline
    assert process.returncode is None
    process.wait()
    assert presence.gone(process.pid)


@pytest.mark.parametrize("number", [2**22 + 1, 10**30, -1])
def test_a_number_that_no_process_has_is_gone(number):
    assert presence.gone(number)


def test_another_process_of_the_same_number_is_not_the_one_that_is_meant():
    me = os.getpid()
    assert presence.born(me) == presence.born(me) != presence.born(1)
    assert not presence.gone(me, presence.born(me))
    assert presence.gone(me, str(int(presence.born(me)) - 1))


@pytest.mark.parametrize("since", ["", "123"])
def test_where_nobody_can_tell_when_it_began_the_number_is_all_there_is(monkeypatch, since):
    monkeypatch.setattr(presence, "born", lambda pid: "")
    assert not presence.gone(os.getpid(), since)
    assert presence.gone(2**22 + 1, since)


def test_when_it_began_is_read_beside_any_name(monkeypatch):
    """A program may call itself what it likes."""
    after = " ".join(str(n) for n in range(4, 53))
    said = f"17 (a) b (c) 9 8) S {after}\n"
    monkeypatch.setattr(presence.Path, "read_text", lambda self: said)
    assert presence.born(17) == "22"  # proc(5): the 22nd is starttime


def test_a_process_that_nobody_may_look_at_is_there(monkeypatch):
    def denied(pid):
        raise psutil.AccessDenied(pid)

    monkeypatch.setattr(psutil, "Process", denied)
    assert not presence.gone(1)


def test_here_is_the_same_in_a_process_of_this_one_and_names_the_machine():
    code = f"import runpy; print(runpy.run_path({presence.__file__!r})['here']())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == presence.here()
    assert presence.here().startswith(platform.node())
