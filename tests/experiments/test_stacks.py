import pytest

import granet_lab as gl
from granet_lab.experiments import stacks, tasks
from granet_lab.experiments.plasticity import Measurement, measure_trial
from granet_lab.experiments.stacks import measure_together
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
    found = list(measure_together(asked, room))
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

    monkeypatch.setattr(stacks, "Stack", Noted)
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
    import torch

    asked = gl.grid(recipe, epoch=[1, 2], rate=[0.2, 0.5, 0.9], recovery_epochs=1)
    train = Stack.train_epoch

    def short(self):
        if self.width > 2:
            raise torch.OutOfMemoryError("no room")
        return train(self)

    monkeypatch.setattr(Stack, "train_epoch", short)
    monkeypatch.setattr(stackable, "_CPU_ROOM", 6)
    table = lab.measure(asked, workers=1, progress=False)
    assert table.stacked.all()
    assert "trained 2 at a time" in caplog.text


@pytest.mark.parametrize("stack", [1, 2, 4])
def test_the_largest_stack_can_be_said(lab, recipe, monkeypatch, stack):
    rooms = []
    measure_pack = tasks.measure_pack

    def noted(place, trials, networks, heard=None):
        rooms.append(networks)
        return measure_pack(place, trials, networks, heard)

    monkeypatch.setattr(tasks, "measure_pack", noted)
    asked = gl.grid(recipe, epoch=[1, 2], rate=[0.5, 0.9], recovery_epochs=1)
    table = lab.measure(asked, workers=1, progress=False, stack=stack)
    assert set(rooms) == {stack}
    assert table.stacked.tolist() == [stack > 1] * 4


def test_a_stack_of_nothing_is_refused(lab, recipe):
    asked = gl.grid(recipe, epoch=1, rate=0.5, recovery_epochs=1)
    with pytest.raises(ValueError, match="stack"):
        lab.measure(asked, workers=1, progress=False, stack=0)
