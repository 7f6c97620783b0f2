from dataclasses import replace

import pytest
import torch

import granet_lab as gl
from granet_lab.experiments import trained
from granet_lab.experiments.execution import tasks
from granet_lab.experiments.plasticity import Measurement, measure_trial
from granet_lab.experiments.trained import train_together
from granet_lab.experiments.trainings import Training
from granet_lab.sparsity.criteria import CRITERIA
from granet_lab.training import stackable
from granet_lab.training.stacked import Stack


@pytest.fixture
def trials(recipe):
    """Of two seeds, two continuations and many lengths: lanes end at different times."""
    asked = {"rate": [0.5, 0.9], "regrow": [None, "gradient"], "seed": [0, 1]}
    return [
        *gl.grid(recipe, epoch=[1, 3, 4], lr="remaining", **asked),
        *gl.grid(recipe, epoch=[0, 2], recovery_epochs=[1, 3], **asked),
    ]


def together(lab, trials, room):
    asked = []
    for trial in trials:
        lab.train(trial.recipe, progress=False)
        asked.append(Measurement(lab.run(trial.recipe), trial))
    found = list(train_together(asked, room))
    assert sorted(map(asked.index, (one for one, _ in found))) == list(range(len(asked)))
    assert all(error is None for _, error in found)
    return [one.found(stacked=True) for one in asked]


def timeless(found):
    return {name: value for name, value in found["row"].items() if name != "seconds"}


@pytest.mark.parametrize("room", [2, 6, 64])
def test_rows_are_the_same_however_many_networks_share_a_stack(lab, trials, room):
    few, many = together(lab, trials, 4), together(lab, trials, room)
    assert [timeless(one) for one in few] == [timeless(one) for one in many]
    assert [one["curve"] for one in few] == [one["curve"] for one in many]
    assert [one["layers"] for one in few] == [one["layers"] for one in many]


def test_rows_are_those_of_networks_alone_up_to_rounding(lab, trials):
    found = together(lab, trials, 8)
    for trial, one in zip(trials, found, strict=True):
        expected = measure_trial(lab.run(trial.recipe), trial)
        assert one["row"].keys() == expected["row"].keys()
        assert one["layers"] == expected["layers"]
        assert (one["row"]["stacked"], expected["row"]["stacked"]) == (True, False)
        # One of 600 test images is a sixth of a point.
        assert one["row"]["acc_after"] == pytest.approx(expected["row"]["acc_after"], abs=0.6)
        assert one["row"]["acc_pruned"] == expected["row"]["acc_pruned"]
        epochs = [point["recovery_epoch"] for point in one["curve"]]
        assert epochs == list(range(trial.recovery_epochs + 1))


def test_a_stack_is_never_larger_than_it_has_to_be(lab, trials, monkeypatch):
    widths = []

    class Noted(Stack):
        def __init__(self, recipe, data, width):
            widths.append(width)
            super().__init__(recipe, data, width)

    monkeypatch.setattr(trained, "Stack", Noted)
    together(lab, trials, 8)
    assert widths[0] == max(widths) == 8
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 8


def test_a_trial_that_cannot_begin_fails_alone(lab, recipe, define):
    def refusing(context):
        raise RuntimeError("not today")

    define(CRITERIA, refusing)
    asked = gl.grid(
        recipe, epoch=[1, 2], rate=0.5, criterion=["magnitude", "refusing"], recovery_epochs=1
    )
    table = lab.measure(asked, workers=1, progress=False)
    assert table.status.tolist() == ["ok", "failed", "ok", "failed"]
    assert table.note[1] == "RuntimeError: not today"
    assert table.stacked.tolist() == [True, False, True, False]


def test_one_that_diverges_is_a_row_and_the_others_go_on(lab, recipe):
    calm = gl.grid(recipe, epoch=[1, 2], rate=0.5, recovery_epochs=1)
    wild = gl.grid(recipe, epoch=[1], rate=0.5, lr=[1e30, 1e38], recovery_epochs=1)
    alone = lab.measure(calm, workers=1, progress=False)
    other = gl.Lab(lab.path.parent / "other", device="cpu")
    table = other.measure([*wild, *calm], workers=1, progress=False)
    assert (table.status == "ok").tolist()[-2:] == [True, True]
    assert "ok" not in table.status[:2].tolist()
    numbers = table[2:].drop(columns="seconds").reset_index(drop=True)
    assert numbers.equals(alone.drop(columns="seconds"))


def test_what_goes_wrong_in_a_stack_is_measured_alone(lab, recipe, monkeypatch, caplog):
    asked = gl.grid(recipe, epoch=[1, 2], rate=[0.5, 0.9], recovery_epochs=1)

    def broken(*_):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(Stack, "train_epoch", broken)
    table = lab.measure(asked, workers=1, progress=False)
    assert table.status.tolist() == ["ok"] * 4
    assert not table.stacked.any()
    assert "no stack (RuntimeError: no such kernel): trained one at a time" in caplog.text


def test_where_memory_is_short_stacks_are_halved(lab, recipe, monkeypatch, caplog):
    asked = gl.grid(recipe, epoch=[1, 2], rate=[0.2, 0.5, 0.9], recovery_epochs=1)
    train = Stack.train_epoch

    def short(self, *pulse):
        if self.width > 2:
            raise torch.OutOfMemoryError("no room")
        return train(self, *pulse)

    monkeypatch.setattr(Stack, "train_epoch", short)
    monkeypatch.setattr(stackable, "_CPU_ROOM", 6)
    table = lab.measure(asked, workers=1, progress=False)
    assert table.stacked.all()
    assert "trained 2 at a time" in caplog.text


@pytest.mark.parametrize("stack", [1, 2, 4])
def test_the_largest_stack_can_be_said(lab, recipe, monkeypatch, stack):
    rooms = []
    carry_out = tasks.carry_out

    def noted(place, pack, networks, *rest):
        rooms.append((type(pack[0]), networks))
        return carry_out(place, pack, networks, *rest)

    monkeypatch.setattr(tasks, "carry_out", noted)
    asked = gl.grid(recipe, epoch=[1, 2], rate=[0.5, 0.9], recovery_epochs=1)
    table = lab.measure(asked, workers=1, progress=False, stack=stack)
    assert set(rooms) == {(gl.Recipe, stack), (gl.Trial, stack)}
    assert table.stacked.tolist() == [stack > 1] * 4


def test_a_stack_of_nothing_is_refused(lab, recipe):
    asked = gl.grid(recipe, epoch=1, rate=0.5, recovery_epochs=1)
    with pytest.raises(ValueError, match="stack"):
        lab.measure(asked, workers=1, progress=False, stack=0)


@pytest.fixture
def methods(recipe):
    """Runs of one kind, their masks fixed, gradual, regrowing."""
    ways = (gl.methods.dense(), gl.methods.static(0.8), gl.methods.granet(0.9, interval=3))
    return [replace(recipe, method=way, seed=seed) for seed, way in enumerate(ways)]


def trained_together(lab, recipes, room, keep=None):
    asked = [Training(lab.run(one), keep=keep) for one in recipes]
    assert all(error is None for _, error in train_together(asked, room))
    return [lab.run(one) for one in recipes]


def history(run):
    return run.history.drop(columns="seconds")


def weights_of(run, epoch):
    return run.load(epoch).tensors()


def same(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.fixture
def other(tmp_path):
    return gl.Lab(tmp_path / "other", device="cpu")


def test_runs_in_a_stack_are_those_of_networks_alone_up_to_rounding(lab, other, methods):
    for run in trained_together(lab, methods, 4):
        alone = other.train(run.recipe, progress=False)
        assert run.checkpoints == alone.checkpoints == [0, 1, 2, 3, 4]
        assert run.finished
        assert run.history.stacked.tolist() == [False, True, True, True, True]
        assert not alone.history.stacked.any()
        for name in ("epoch", "lr", "sparsity", "pruned", "regrown", "training_flops"):
            assert run.history[name].tolist() == pytest.approx(
                alone.history[name].tolist(), nan_ok=True
            )
        assert run.history.train_loss.iloc[-1] == pytest.approx(
            alone.history.train_loss.iloc[-1], rel=0.01
        )


def test_a_run_is_the_same_whatever_else_is_in_its_stack(lab, other, methods):
    many, few = trained_together(lab, methods, 4), trained_together(other, methods[2:], 2)
    assert history(many[2]).equals(history(few[0]))
    assert same(weights_of(many[2], 4), weights_of(few[0], 4))


def test_a_run_that_was_interrupted_goes_on_in_a_stack_to_the_same_end(lab, other, methods):
    whole = trained_together(lab, methods, 4)
    asked = [Training(other.run(one)) for one in methods]

    class Interrupted(Exception):
        pass

    def third_row(row):
        if row["epoch"] == 2:
            raise Interrupted

    asked[1] = Training(other.run(methods[1]), report=third_row)
    with pytest.raises(Interrupted):
        list(train_together(asked, 4))
    assert not any(other.run(one).finished for one in methods)
    for run, again in zip(whole, trained_together(other, methods, 2), strict=True):
        assert history(run).equals(history(again))
        assert same(weights_of(run, 4), weights_of(again, 4))


def test_an_epoch_that_was_not_kept_is_reached_again_as_it_was_trained(lab, other, methods):
    whole, thin = trained_together(lab, methods, 4), trained_together(other, methods, 4, keep=[0])
    for run, again in zip(whole, thin, strict=True):
        assert again.checkpoints == [0]
        assert same(weights_of(run, 3), weights_of(again, 3))
        other.train(run.recipe, checkpoints=[0, 2], progress=False)
        assert again.checkpoints == [0, 2]
        assert same(weights_of(run, 2), weights_of(again, 2))


def test_a_sweep_stacks_the_runs_it_needs_if_it_is_told_to(lab, other, recipe):
    trials = gl.grid(recipe, epoch=[1, 2], rate=0.5, seed=[0, 1, 2], recovery_epochs=1)
    tables = [
        place.measure(trials, workers=workers, progress=False, stack=4)
        for place, workers in ((lab, 1), (other, 2))
    ]
    for trial in trials:
        assert lab.run(trial.recipe).history.stacked.any()
    one, two = (table.drop(columns="seconds") for table in tables)
    assert one.equals(two)


def test_runs_on_a_cpu_are_alone_unless_one_says_otherwise(lab, other, recipe):
    trials = gl.grid(recipe, epoch=2, rate=0.5, seed=[0, 1], recovery_epochs=1)
    lab.measure(trials, workers=1, progress=False)
    for trial in trials:
        assert not lab.run(trial.recipe).history.stacked.any()
        assert same(
            weights_of(lab.run(trial.recipe), 4),
            weights_of(other.train(trial.recipe, progress=False), 4),
        )


def test_methods_are_compared_in_stacks(lab, other, recipe):
    asked = {"methods": ["static", "granet"], "sparsities": [0.8], "seeds": [0, 1]}
    together = lab.compare(recipe, **asked, workers=1, progress=False, stack=6)
    alone = other.compare(recipe, **asked, workers=1, progress=False)
    assert together.stacked.all()
    assert not alone.stacked.any()
    assert together.sparsity.tolist() == alone.sparsity.tolist()
    assert together.training_flops.tolist() == pytest.approx(alone.training_flops.tolist())
    assert together.test_acc.tolist() == pytest.approx(alone.test_acc.tolist(), abs=1.5)


def test_a_run_that_diverges_in_a_stack_is_recorded_and_the_others_go_on(lab, recipe):
    table = lab.measure(
        gl.grid(recipe, epoch=2, rate=0.5, lr=[0.1, 1e12], recovery_epochs=1),
        workers=1,
        progress=False,
        stack=2,
    )
    assert table.status.tolist() == ["ok", "diverged"]
    assert "diverged" in lab.run(replace(recipe, lr=1e12)).diverged


@pytest.mark.slow
def test_whole_trials_in_a_stack_are_over_seeds_those_of_networks_alone(tmp_path):
    """A lane rounds otherwise, and training magnifies that to another draw of the same noise:
    means over seeds must agree to within what such draws differ by."""
    recipe = gl.recipes.digits(epochs=20, milestones=(10, 15))
    asked = {"rate": [0.5, 0.9, 0.98], "regrow": [None, "gradient"], "seed": range(20)}
    trials = gl.grid(recipe, epoch=[5, 15], recovery_epochs=4, **asked)
    alone, together = gl.Lab(tmp_path / "alone", "cpu"), gl.Lab(tmp_path / "together", "cpu")
    one = alone.measure(trials, progress=False, stack=1)
    two = together.measure(trials, progress=False, stack=16)
    assert not one.stacked.any()
    assert two.stacked.all()
    for setting, rows in one.assign(other=two.plasticity).groupby(
        ["epoch", "rate", "sparsity_after"]
    ):
        difference = rows.other - rows.plasticity
        error = difference.std(ddof=1) / len(rows) ** 0.5
        assert abs(difference.mean()) <= 3.5 * error + 0.1, setting
        # Neither is the noise of one kind larger than that of the other.
        spread = rows.other.std(ddof=1), rows.plasticity.std(ddof=1)
        assert max(spread) <= 2.5 * min(spread) + 0.5, setting
