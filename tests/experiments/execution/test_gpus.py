import os
import signal
import time

import pytest
import torch

from granet_lab.experiments.execution import gpus
from granet_lab.experiments.execution.pools import OwnProcesses, choose, worker_count


@pytest.fixture
def four(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def two(monkeypatch):
    monkeypatch.setattr(gpus, "several", lambda device: ("7", "9"))


def seen():
    """The GPUs that a worker sees; slow enough for every worker to be asked once."""
    time.sleep(0.5)
    return os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES")


def test_only_the_gpus_in_general_are_shared(four, monkeypatch):
    assert gpus.several("cuda") == ("0", "1", "2", "3")
    assert gpus.several("cuda:1") == gpus.several("cpu") == ()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert gpus.several("cuda") == ()


def test_gpus_are_called_as_cuda_calls_them(four, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-abc,6,7")
    assert gpus.several("cuda") == ("4", "GPU-abc", "6", "7")


def test_a_worker_for_each_gpu(four, recipe):
    assert worker_count([recipe] * 9, "cuda") == 4
    assert worker_count([recipe] * 9, "cuda:0") == 1
    assert choose(None, None, [recipe] * 9, "cuda").workers == 4
    with pytest.raises(ValueError, match="workers must be at most 4, the GPUs, not 5"):
        choose(None, 5, [recipe] * 9, "cuda")


def test_each_worker_sees_a_gpu_of_its_own_also_after_one_has_died(two):
    own = OwnProcesses(2, "cuda")
    try:
        for _ in range(2):
            with own.open() as executor:
                found = [executor.submit(seen) for _ in range(4)]
                workers = dict(future.result() for future in found)
            assert sorted(workers.values()) == ["7", "9"]
            os.kill(next(iter(workers)), signal.SIGKILL)
            time.sleep(0.5)
    finally:
        own.kill()


def test_more_workers_than_gpus_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    gpus.take_one("me", ["0", "1"])
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    gpus.take_one("me", ["0", "1"])
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
    with pytest.raises(RuntimeError, match="more workers than GPUs: 0, 1"):
        gpus.take_one("me", ["0", "1"], patience=0.3)
    gpus.take_one("you", ["0", "1"])  # another notebook's workers share them as well
