import pytest

import granet_lab as gl


@pytest.fixture
def run(lab, recipe):
    return lab.run(recipe)


@pytest.fixture
def trial(recipe):
    return gl.Trial(recipe=recipe, epoch=2, pruning=gl.Pruning(rate=0.5), recovery_epochs=3)
