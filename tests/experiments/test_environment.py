import json
import platform
import shutil
import subprocess
from datetime import UTC, datetime

import pytest
import torch

import granet_lab as gl
from granet_lab.experiments import environment as place
from granet_lab.experiments.environment import commit, device_name, environment, hardware


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with one commit, which the package seems to lie in."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    file = tmp_path / "environment.py"
    file.write_text("one")
    for words in ("init", "add .", "-c user.name=a -c user.email=b commit -m one"):
        subprocess.run(["git", *words.split()], cwd=tmp_path, check=True, capture_output=True)
    monkeypatch.setattr(place, "__file__", str(file))
    return file


def head(folder):
    words = ["git", "rev-parse", "HEAD"]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True).stdout.strip()


def test_it_says_what_was_run_with_what_and_when():
    found = environment("cpu")
    assert found["granet_lab"] == gl.__version__
    assert found["python"] == platform.python_version()
    assert found["torch"] == torch.__version__
    assert abs(datetime.now(UTC) - datetime.fromisoformat(found["date"])).total_seconds() < 60


def test_it_is_plain_json_in_single_lines():
    found = environment("cpu")
    assert json.loads(json.dumps(found)) == found
    assert all("\n" not in str(value) for value in found.values())


def test_the_command_is_the_one_that_was_typed(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/granet-lab", "train", "digits"])
    assert environment("cpu")["command"] == "granet-lab train digits"


def test_the_commit_is_that_of_the_checkout(checkout):
    assert commit() == head(checkout.parent)[:12]


def test_a_changed_checkout_is_marked(checkout):
    checkout.write_text("two")
    assert commit() == head(checkout.parent)[:12] + "+"


def test_there_is_no_commit_outside_a_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(place, "__file__", str(tmp_path / "environment.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit() is None


def test_there_is_no_commit_without_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit() is None


def test_a_cpu_is_called_cpu_in_tables():
    assert device_name("cpu") == "cpu"


def test_the_hardware_of_a_cpu_tells_processor_and_cores():
    assert hardware("cpu")
    assert hardware("cpu") != "cpu"


def test_a_lab_refuses_a_device_that_torch_does_not_have(tmp_path):
    with pytest.raises(ValueError, match=r"cannot use device 'banana' here: choose from cpu"):
        gl.Lab(tmp_path, device="banana")
