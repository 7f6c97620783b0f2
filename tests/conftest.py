import pytest
import torch

import granet_lab as gl


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
