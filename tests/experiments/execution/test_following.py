import contextlib

import pytest
from notes import telling

import granet_lab as gl
from granet_lab.experiments import files
from granet_lab.experiments.execution.following import Following
from granet_lab.experiments.identity import identity


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


def test_what_is_measured_is_not_running_while_the_rest_of_its_task_goes_on(lab, recipe, follow):
    run = lab.train(recipe, progress=False)
    trials = gl.grid(recipe, epoch=1, rate=[0.2, 0.5, 0.9], recovery_epochs=3)
    followed = follow(recipe, trials=trials)
    for trial in trials[:2]:
        with telling(run, trial) as task:
            task.tell(1, 3)
            followed.look()
            assert followed.left == {"run": 0, "trial": 9 - 3 * trials.index(trial) - 1}
            assert "1 running" in followed._said()
        files.write_json(run.trial_path(identity(trial)), {})
        followed.look()
        assert followed.left["trial"] == 9 - 3 * trials.index(trial) - 3
        assert "running" not in followed._said()


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
