import os
import platform
import subprocess
import sys

import psutil
import pytest

from granet_lab.experiments.execution import presence


def test_this_process_is_there():
    assert not presence.gone(os.getpid())


def test_a_process_that_has_ended_is_gone_before_anybody_has_waited_for_it_and_after():
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=-1)
    assert not presence.gone(process.pid)
    process.stdin.close()
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        pass
    assert presence.gone(process.pid)
    process.wait()
    assert presence.gone(process.pid)


@pytest.mark.parametrize("number", [2**22 + 1, 10**30, -1])
def test_a_number_that_no_process_has_is_gone(number):
    assert presence.gone(number)


def test_here_is_the_same_in_a_process_of_this_one_and_names_the_machine():
    code = f"import runpy; print(runpy.run_path({presence.__file__!r})['here']())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == presence.here()
    assert presence.here().startswith(platform.node())
