import pytest

import granet_lab as gl


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
