import contextlib

import pytest

import granet_lab as gl
from granet_lab.experiments.execution.following import Following


@pytest.fixture
def follow(lab):
    """Follows runs and trials of the lab, without a bar."""
    with contextlib.ExitStack() as stack:

        def follow(*recipes, trials=()):
            runs = {recipe: lab.run(recipe) for recipe in recipes}
            followed = Following(lab.path, runs, trials, cached=0, bar=False)
            return stack.enter_context(contextlib.closing(followed))

        yield follow


def test_epochs_are_counted_as_they_are_written_down(lab, recipe, follow):
    trials = gl.grid(recipe, epoch=[1, 2], rate=0.5, recovery_epochs=3)
    followed = follow(recipe, trials=trials)
    assert followed.left == {"run": 5, "trial": 6}
    rows = []
    for epoch in range(2):
        lab.run(recipe).record(rows, {"epoch": epoch})
    followed.look()
    assert followed.left == {"run": 3, "trial": 6}
    followed.reach(trials[0], 2)
    followed.reach(trials[0], 1)  # it was begun again
    followed.end(trials[1])
    assert followed.left == {"run": 3, "trial": 1}


def test_what_a_run_that_diverged_has_left_never_comes(lab, recipe, follow):
    followed = follow(recipe)
    rows = []
    lab.run(recipe).record(rows, {"epoch": 0})
    lab.run(recipe).record(rows, {"epoch": 1, "diverged": "its loss is infinite"})
    for _ in range(2):
        followed.end(recipe)
        assert followed.left == {"run": 0, "trial": 0}
    followed.look()
    assert followed.left["run"] == 0
