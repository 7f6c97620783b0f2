import re
import sys

import pytest
import torch

from benchmarks import gpu, pictures
from granet_lab.datasets import DATASETS


@pytest.fixture
def small(monkeypatch):
    """A small network, a short run and a grid of four trials instead."""
    # The data set that the benchmark defines is forgotten afterwards.
    monkeypatch.setattr(DATASETS, "_entries", dict(DATASETS._entries))
    recipe = pictures.recipe
    changes = {"model": "convnet", "epochs": 2, "milestones": ()}
    monkeypatch.setattr(pictures, "recipe", lambda **asked: recipe(**changes, **asked))
    monkeypatch.setattr(gpu, "GRID", {"epoch": [1, 2], "rate": 0.5, "regrow": [None, "gradient"]})
    monkeypatch.setattr(gpu, "RECOVERY", 1)
    monkeypatch.setattr(gpu, "_KEPT_EPOCHS", 2)


@pytest.fixture
def run(monkeypatch, capsys):
    """What the command prints."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["gpu", *words])
        gpu.main()
        return capsys.readouterr().out

    return run


def test_a_rehearsal_measures_everything_on_a_cpu(small, run):
    words = ("--device", "cpu", "--images", "256", "--widths", "2", "4", "--repeats", "1")
    out = run(*words, "--grid", "fp32")
    assert re.search(r"fp32 .*FLOP/s .*B/s: computing .* moving", out)
    assert re.search(r"plain loop +[\d.]+ s\n +fp32 +[\d.]+ s +[\d.]+ \(", out)
    assert len(re.findall(r"^ +[124] +[\d.]+ +[\d.]+ \(", out, re.MULTILINE)) >= 3
    assert re.search(r"one for each epoch +[\d.]+ s +[\d.]+ \(", out)
    assert re.search(r"a checkpoint of an epoch +at most 3 %", out)
    assert "4 trials, 1 epochs" in out
    assert "{'ok': 4}" in out
    assert len(re.findall(r"at (?:most|least) .*(?:met|missed by)", out)) >= 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_without_a_gpu_it_says_how_to_rehearse(run, capsys):
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 2
    assert "--device cpu" in capsys.readouterr().err


def test_the_grid_is_that_of_a_figure():
    values = [len(v) for v in gpu.GRID.values()]
    assert values == [16, 4, 2]
    assert gpu.NETWORK_EPOCHS == 16 * 4 * 2 * 30
