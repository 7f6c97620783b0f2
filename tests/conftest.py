import logging
import sys

import pytest
import torch

import granet_lab as gl
from granet_lab import cli


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Two test processes on two cores would only wait for each other's threads."""
    torch.set_num_threads(1)


@pytest.fixture
def recipe():
    """A run of four epochs with a decay in the middle: some milliseconds an epoch."""
    return gl.recipes.digits(model="mlp", epochs=4, milestones=(2,), train_size=200)


@pytest.fixture
def sparse_recipe():
    return gl.recipes.digits(
        model="mlp", epochs=4, milestones=(2,), train_size=200, method=gl.methods.static(0.8)
    )


@pytest.fixture
def lab(tmp_path):
    return gl.Lab(tmp_path / "runs", device="cpu")


@pytest.fixture
def define():
    """Register functions as a notebook would, and forget them afterwards."""
    added = []

    def define(registry, function):
        function.__module__ = "__main__"  # so that it travels by value, like a notebook's
        registry.register(function)
        added.append((registry, function.__name__))

    yield define
    for registry, name in added:
        registry._entries.pop(name, None)


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs granet-lab in this process and an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.root, "handlers", list(logging.root.handlers))
    (tmp_path / "file").write_text("in the way\n")

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["granet-lab", *words])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        # A text is what the interpreter prints when it ends, with exit code 1.
        return (1, out, f"{err}{code}\n") if isinstance(code, str) else (code or 0, out, err)

    yield call
    logging.captureWarnings(False)
