import logging
import random
from dataclasses import replace

import graphs
import numpy as np
import pytest
import torch
from torch import nn

import granet_lab as gl
from granet_lab import datasets, models
from granet_lab.training import loop, recording, stacked
from granet_lab.training.recipe import under
from granet_lab.training.recording import Recorded, _on_tape, recorded

DIGITS = datasets.load("digits")
METHODS = {
    "dense": gl.methods.dense(),
    "static": gl.methods.static(0.9),
    "granet": gl.methods.granet(0.9, initial_sparsity=0.5, interval=3),
    "gsm": gl.methods.gsm(0.9),
}


@pytest.fixture(params=["graph", "tape"])
def record(request, monkeypatch):
    """How a GPU records, acted on a CPU, and how a CPU does."""
    if request.param == "tape":
        return _on_tape
    graphs.use(monkeypatch)
    return graphs.capture


def recipe(**values):
    small = {"model": "convnet", "epochs": 4, "milestones": (2,), "train_size": 200}
    return gl.recipes.digits(**{**small, **values})


def trained(asked, until=3):
    state = loop.new_state(asked, DIGITS)
    rows = list(loop.fit(state, asked, DIGITS, until))
    return {name: t.clone() for name, t in state.tensors().items()}, timeless(rows)


def timeless(rows):
    """As text, in which NaN is NaN."""
    return [repr({k: v for k, v in row.items() if k != "seconds"}) for row in rows]


def same(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(value, other[name]) for name, value in one.items())


def replaying(made):
    return [bool(one._replays) for one in made]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("changes", [{}, {"precision": "bf16", "label_smoothing": 0.1}], ids=str)
def test_a_recorded_training_is_the_same_bit_for_bit(monkeypatch, method, changes):
    asked = recipe(method=METHODS[method], augment="crop_flip", **changes)
    expected, rows = trained(asked)
    made = graphs.use(monkeypatch, loop)
    found, told = trained(asked)
    assert replaying(made) == [True]
    assert same(found, expected)
    assert told == rows


def test_so_is_one_of_rounds_that_rewind(monkeypatch):
    rounds = replace(gl.methods.lottery(0.8).rounds, cycle=2, rewind=1)
    asked = under(recipe(epochs=2, milestones=()), gl.methods.lottery(0.8, rounds=rounds))
    expected, rows = trained(asked, asked.epochs)
    made = graphs.use(monkeypatch, loop)
    found, told = trained(asked, asked.epochs)
    assert replaying(made) == [True]
    assert same(found, expected)
    assert told == rows


def test_so_is_one_that_draws_numbers(monkeypatch):
    monkeypatch.setattr(models.MODELS, "_entries", dict(models.MODELS._entries))

    @gl.model
    def dropping(shape, classes):
        return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, classes))

    asked = recipe(model="dropping")
    expected, rows = trained(asked)
    made = graphs.use(monkeypatch, loop)
    found, told = trained(asked)
    assert replaying(made) == [True]
    assert same(found, expected)
    assert told == rows


def test_so_is_one_in_which_a_parameter_is_of_no_use(monkeypatch):
    monkeypatch.setattr(models.MODELS, "_entries", dict(models.MODELS._entries))

    class Idle(nn.Linear):
        def __init__(self, classes):
            super().__init__(64, classes)
            self.idle = nn.Linear(3, 3)

        def forward(self, images):
            return super().forward(images.flatten(1))

    @gl.model
    def idle(shape, classes):
        return Idle(classes)

    asked = recipe(model="idle")
    expected, rows = trained(asked)
    made = graphs.use(monkeypatch, loop)
    found, told = trained(asked)
    assert replaying(made) == [True]
    assert same(found, expected)
    assert told == rows


@pytest.mark.parametrize("way", ["graph", "tape"])
@pytest.mark.parametrize("model", ["convnet", "mlp", "resnet20"])
def test_so_is_a_stack(monkeypatch, way, model):
    asked = [
        recipe(model=model, method=method, seed=i) for i, method in enumerate(METHODS.values())
    ]

    def together(record):
        stack = stacked.Stack(asked[0], DIGITS, 4, record)
        states = [loop.new_state(one, DIGITS) for one in asked]
        lanes = [stack.enter(state, one) for state, one in zip(states, asked[:3], strict=False)]
        rows = [stack.train_epoch() for _ in range(2)]
        lanes.append(stack.enter(states[3], asked[3]))
        stack.leave(lanes[0])  # its place is empty, the recording goes on
        rows.append(stack.train_epoch())
        told = [timeless(row[lane] for row in rows if lane in row) for lane in lanes]
        if record:
            made = [stack._learn, stack._judge] if way == "graph" else [stack._learn]
            assert all(replaying(made))
        return [one.tensors() for one in states], told

    expected, rows = together(record=False)
    if way == "graph":
        graphs.use(monkeypatch, stacked)
    found, told = together(record=True)
    assert all(same(one, other) for one, other in zip(found, expected, strict=True))
    assert told == rows


def test_after_the_first_calls_the_function_is_not_called_any_more(record):
    calls = []

    def double(x):
        calls.append(x)
        return (2 * x,)

    function = Recorded(double, [], record)
    for i in range(8):
        (found,) = function(torch.tensor([float(i), 1.0]))
        assert found.tolist() == [2 * i, 2]
    assert len(calls) == recording._FIRST.get("cpu", 0) + 2  # recorded, and called to compare


def test_what_it_changes_changes_once_in_each_call(record):
    total = torch.zeros(2)

    def add(x):
        total.add_(x)
        return (x,)

    function = Recorded(add, [total], record)
    for i in range(1, 7):
        function(torch.ones(2))
        assert total.tolist() == [i, i]


def test_some_shapes_are_recorded_and_others_called(record):
    calls = []

    def add(x):
        calls.append(len(x))
        return (x + 1,)

    function = Recorded(add, [], record)
    for i in range(10 * recording._SHAPES):
        n = 1 + i % (recording._SHAPES + 1)
        (found,) = function(torch.full((n,), float(i)))
        assert found.tolist() == [i + 1] * n
    assert calls.count(1) == recording._FIRST.get("cpu", 0) + 2
    assert calls.count(recording._SHAPES + 1) == 8


def asking(x):
    """The host waits for an answer."""
    return (x if x.sum().item() > 0 else -x,)


class Counting:
    """Does something else each time, which no recording knows."""

    def __init__(self):
        self.calls = 0

    def __call__(self, x):
        self.calls += 1
        return (x * self.calls,)


def test_what_asks_for_values_goes_on_being_called(record, caplog):
    caplog.set_level(logging.INFO, "granet_lab")
    function = Recorded(asking, [], record)
    for i in range(1, 7):
        (found,) = function(torch.full((3,), (-1.0) ** i * i))
        assert found.tolist() == [i] * 3
    assert not function._replays
    assert "done anew each time, not recorded: " in caplog.text


def test_what_a_recording_gives_otherwise_goes_on_being_called(record, caplog):
    caplog.set_level(logging.INFO, "granet_lab")
    counting = Counting()
    function = Recorded(counting, [], record)
    for _ in range(7):
        (found,) = function(torch.ones(1))
        assert found.item() == counting.calls
    assert not function._replays
    assert "a recording gives something else" in caplog.text


class Warming(nn.Module):
    """Counts its calls, and does something else once there were enough."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return (x if self.calls < 8 else 2 * x,)


def test_a_network_that_counts_its_calls_goes_on_being_called(record, caplog):
    caplog.set_level(logging.INFO, "granet_lab")
    network = Warming()
    function = Recorded(network, [], record, nn.Sequential(network))
    found = [function(torch.ones(1))[0].item() for _ in range(12)]
    assert network.calls > 12  # recorded in vain, too
    assert found[-1] == 2
    assert not function._replays
    assert "only Python sees" in caplog.text


@pytest.mark.parametrize(
    "draw",
    [random.random, np.random.rand, lambda: random.gauss(0, 1)],
    ids=["random", "numpy", "gauss"],
)
def test_what_draws_elsewhere_goes_on_being_called(record, draw):
    random.seed(0), np.random.seed(0)  # noqa: NPY002
    function = Recorded(lambda x: (x if draw() < 0.5 else -x,), [], record)
    found = {function(torch.ones(1))[0].item() for _ in range(40)}
    assert found == {1, -1}
    assert not function._replays


def test_where_memory_is_too_short_for_a_recording_there_is_none(record):
    def short(function, inputs):
        raise torch.OutOfMemoryError("no room")

    function = Recorded(lambda x: (x + 1,), [], short)
    assert [function(torch.ones(1))[0].item() for _ in range(5)] == [2] * 5
    assert not function._replays


TOLD, GRADIENT = torch.tensor([120.0, 31.0]), torch.tensor([0.01, -0.02])
COUNTED = torch.tensor(1000)


@pytest.mark.parametrize(
    "wrong",
    [
        (TOLD, torch.zeros(2), COUNTED),
        (TOLD, -GRADIENT, COUNTED),
        (2 * TOLD, GRADIENT, COUNTED),
        (TOLD, GRADIENT, COUNTED + 1),
        (TOLD, None, COUNTED),
    ],
)
def test_no_number_hides_behind_another_however_long(monkeypatch, wrong):
    """As on a GPU, where what is rounded may differ."""
    monkeypatch.setattr(recording, "_TOLERANCE", {"cpu": 0.05})
    state = COUNTED.clone()

    def right(_):
        state.copy_(COUNTED)
        return TOLD.clone(), GRADIENT.clone()

    def recorder(values):
        def replay(_):
            state.copy_(values[2])
            return values[:2]

        return lambda function, inputs: replay

    for values, used in ((wrong, False), ((1.001 * TOLD, 0.98 * GRADIENT, COUNTED), True)):
        function = Recorded(right, [state], recorder(values))
        for _ in range(4):
            function(torch.ones(1))
        assert bool(function._replays) is used


@pytest.mark.parametrize(("where", "device"), [(("cuda",), "cpu"), (("cpu", "cuda"), "mps")])
def test_elsewhere_nothing_is_recorded(where, device):
    def function(x):
        return (x,)

    assert recorded(function, torch.device(device), where=where) is function


def test_several_processes_on_one_network_record_nothing(monkeypatch):
    def function(x):
        return (x,)

    assert isinstance(recorded(function, torch.device("cuda")), Recorded)
    monkeypatch.setattr(recording.distributed, "ranks", lambda: (0, 2))
    assert recorded(function, torch.device("cuda")) is function


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("model", ["convnet", "resnet20"])
def test_a_gpu_trains_from_a_recording_as_without(monkeypatch, model):
    images = DIGITS.to("cuda")
    asked = recipe(model=model, method=METHODS["granet"])

    def rows():
        state = loop.new_state(asked, images)
        return list(loop.fit(state, asked, images, 2))

    found = rows()
    monkeypatch.setattr(loop, "recorded", lambda function, *_, **__: function)
    for one, other in zip(found, rows(), strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=0.02)
        assert one["sparsity"] == other["sparsity"]
