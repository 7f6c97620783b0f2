import copy
from dataclasses import replace

import pytest
import torch

import granet_lab as gl
from granet_lab import datasets
from granet_lab.training import loop
from granet_lab.training.recipe import under
from granet_lab.training.stacked import Stack, fit, kind
from granet_lab.training.state import Diverged

DIGITS = datasets.load("digits")
# Nothing that a stack's networks may differ in is the same in two of these.
DIFFERENT = (
    {"method": gl.methods.dense(), "seed": 0},
    {"method": gl.methods.static(0.9), "seed": 1, "lr": 0.02, "weight_decay": 0.0},
    {"method": gl.methods.granet(0.9, initial_sparsity=0.5), "seed": 2, "norm_decay": False},
    {"method": gl.methods.rigl(0.8), "seed": 3, "warmup_epochs": 2, "augment": "crop"},
    {"method": gl.methods.gmp(0.9), "seed": 4, "milestones": (1, 2), "gamma": 0.5},
    {"method": gl.methods.set_(0.7), "seed": 5, "augment": "crop_flip"},
)


def recipes(model="convnet", **values):
    small = {"epochs": 8, "milestones": (2,), "train_size": 200, "model": model}
    return [gl.recipes.digits(**{**small, **values, **one}) for one in DIFFERENT]


def state_of(recipe, epochs=0, images=DIGITS):
    state = loop.new_state(recipe, images)
    for _ in loop.fit(state, recipe, images, epochs) if epochs else ():
        pass
    return state


def stacked(states, asked, width, epochs=2, images=DIGITS, **how):
    """Rows by recipe, after training all together."""
    stack = Stack(asked[0], images, width)
    lanes = {
        stack.enter(state, recipe, **how): recipe
        for state, recipe in zip(states, asked, strict=True)
    }
    rows = {recipe: [] for recipe in asked}
    for _ in range(epochs):
        for lane, row in stack.train_epoch().items():
            rows[lanes[lane]].append(row)
    for lane in lanes:
        stack.leave(lane)
    return rows


def without_seconds(rows):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def equal(one, other):
    a, b = one.tensors(), other.tensors()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("model", ["convnet", "mlp"])
def test_a_lane_is_trained_as_the_network_is_alone(model):
    asked = recipes(model)
    alone = {recipe: list(loop.fit(state_of(recipe), recipe, DIGITS, 2)) for recipe in asked}
    rows = stacked([state_of(recipe) for recipe in asked], asked, 6)
    for recipe in asked:
        for found, expected in zip(rows[recipe], alone[recipe], strict=True):
            assert found.keys() == expected.keys()
            for name in ("epoch", "lr", "sparsity", "pruned", "regrown", "flops"):
                assert found[name] == expected[name], (recipe.method.name, name)
            for name in ("train_loss", "val_loss", "test_loss"):
                assert found[name] == pytest.approx(expected[name], rel=1e-3)
            for name in ("train_acc", "val_acc", "test_acc"):
                assert found[name] == pytest.approx(expected[name], abs=1.01)


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_one_step_is_that_of_the_network_alone(momentum, nesterov, smoothing):
    asked = recipes(
        momentum=momentum,
        nesterov=nesterov,
        label_smoothing=smoothing,
        train_size=50,
        epochs=60,
    )
    asked = [replace(recipe, method=gl.methods.static(0.5), milestones=()) for recipe in asked]
    before = [state_of(recipe, epochs=3) for recipe in asked]
    alone, together = copy.deepcopy(before), copy.deepcopy(before)
    for state, recipe in zip(alone, asked, strict=True):
        next(loop.fit(state, recipe, DIGITS, 60))
    stacked(together, asked, 6, epochs=1)
    for one, other, start in zip(alone, together, before, strict=True):
        expected, found, old = one.tensors(), other.tensors(), start.tensors()
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            if not value.is_floating_point():
                assert torch.equal(value, found[name])
                continue
            moved = torch.linalg.vector_norm(value - old[name])
            assert torch.linalg.vector_norm(value - found[name]) <= 1e-4 * moved + 1e-7, name


@pytest.mark.parametrize("model", ["convnet", "mlp", "resnet20"])
def test_a_lane_does_not_depend_on_what_else_is_in_the_stack(model):
    asked = recipes(model, train_size=100)
    states = [state_of(recipe) for recipe in asked]
    every, few, lone = copy.deepcopy(states), copy.deepcopy(states[:3]), copy.deepcopy(states[:1])
    rows = stacked(every, asked, 6)
    fewer = stacked(few[::-1], asked[:3][::-1], 4)
    alone = stacked(lone, asked[:1], 2)
    for i in range(3):
        assert without_seconds(rows[asked[i]]) == without_seconds(fewer[asked[i]])
        assert equal(every[i], few[i])
    assert without_seconds(rows[asked[0]]) == without_seconds(alone[asked[0]])
    assert equal(every[0], lone[0])


def test_each_step_of_a_lane_may_choose_which_weights_get_their_gradient():
    asked = recipes(model="mlp", train_size=100)[:2]
    asked[1] = replace(asked[1], method=gl.methods.gsm(0.9))
    alone, together = state_of(asked[1]), state_of(asked[1])
    rows = list(loop.fit(alone, asked[1], DIGITS, 8))
    found = stacked([state_of(asked[0]), together], asked, 2, epochs=8)[asked[1]]
    assert [row["sparsity"] for row in found] == [row["sparsity"] for row in rows]
    assert found[0]["train_loss"] == pytest.approx(rows[0]["train_loss"], rel=1e-4)
    assert [row["test_acc"] for row in found] == pytest.approx(
        [row["test_acc"] for row in rows], abs=1.5
    )
    for name, mask in together.masks.items():
        weight = together.model.get_parameter(name)
        assert not weight[~mask].any()


@pytest.mark.parametrize("name", ["granet", "lottery"])
def test_a_lane_that_can_no_longer_be_ranked_has_diverged_and_the_others_go_on(name):
    base = gl.recipes.digits(model="mlp", epochs=2, milestones=(), train_size=200)
    method = gl.methods.granet(0.9, interval=2)
    if name == "lottery":
        rounds = gl.methods.lottery(0.8).rounds
        method = gl.methods.lottery(0.8, rounds=replace(rounds, cycle=2, rewind=1))
    asked = under(base, method), replace(base, seed=1)
    states = [state_of(recipe) for recipe in asked]
    alone = state_of(asked[1])
    expected = stacked([alone], asked[1:], 2, epochs=1)[asked[1]]
    if name == "lottery":
        states[0].epoch = 2  # a round begins
    with torch.no_grad():
        next(states[0].model.parameters()).fill_(float("inf"))
    stack = Stack(asked[0], DIGITS, 2)
    lanes = [stack.enter(*pair) for pair in zip(states, asked, strict=True)]
    rows = stack.train_epoch()
    assert isinstance(rows[lanes[0]], Diverged)
    assert rows[lanes[0]].epoch == (3 if name == "lottery" else 1)
    assert without_seconds([rows[lanes[1]]]) == without_seconds(expected)
    assert equal(states[1], alone)


def test_fit_is_a_lane_like_any_other():
    asked = recipes()[2:4]
    states = [state_of(recipe) for recipe in asked]
    rows = stacked(states, asked, 4)
    lone = state_of(asked[0])
    found = list(fit(lone, asked[0], DIGITS, 2))
    assert without_seconds(found) == without_seconds(rows[asked[0]])
    assert equal(lone, states[0])
    with torch.no_grad():
        next(lone.model.parameters()).fill_(float("nan"))
    with pytest.raises(Diverged):
        list(fit(lone, asked[0], DIGITS, 4))


def test_inactive_weights_stay_exactly_zero():
    asked = [replace(r, method=gl.methods.static(0.9)) for r in recipes()]
    states = [state_of(recipe) for recipe in asked]
    stacked(states, asked, 6)
    for state in states:
        weights = dict(state.model.named_parameters())
        for name, mask in state.masks.items():
            assert not weights[name][~mask].any()
            assert not state.optimizer.state[weights[name]]["momentum_buffer"][~mask].any()


def test_a_lane_has_an_epoch_and_a_learning_rate_of_its_own():
    asked = recipes()[:2]
    states = [state_of(asked[0], epochs=3), state_of(asked[1])]
    stack = Stack(asked[0], DIGITS, 2)
    late = stack.enter(states[0], asked[0])
    fixed = stack.enter(states[1], asked[1], lr=0.007, follow=False)
    rows = stack.train_epoch()
    assert (rows[late]["epoch"], rows[fixed]["epoch"]) == (4, 1)
    assert rows[late]["lr"] == pytest.approx(0.01)
    assert rows[fixed]["lr"] == 0.007
    assert "flops" in rows[late]
    assert "flops" not in rows[fixed]


def test_a_lane_that_leaves_keeps_its_values_and_makes_room():
    asked = recipes()[:3]
    states = [state_of(recipe) for recipe in asked]
    stack = Stack(asked[0], DIGITS, 2)
    first, second = (stack.enter(states[i], asked[i]) for i in range(2))
    with pytest.raises(ValueError, match="no room for more than 2 networks"):
        stack.enter(states[2], asked[2])
    stack.train_epoch()
    stack.leave(first)
    kept = {name: value.clone() for name, value in states[0].tensors().items()}
    third = stack.enter(states[2], asked[2])
    assert set(stack.lanes) == {second, third}
    stack.train_epoch()
    assert all(torch.equal(value, kept[name]) for name, value in states[0].tensors().items())
    alone = state_of(asked[2])
    stacked([alone], [asked[2]], 2, epochs=1)
    assert equal(alone, states[2])


def test_what_leaves_goes_on_alone():
    recipe = recipes()[0]
    state = state_of(recipe)
    stacked([state], [recipe], 2, epochs=1)
    (row,) = loop.fit(state, recipe, DIGITS, 2)
    assert row["epoch"] == 2
    expected = list(loop.fit(state_of(recipe), recipe, DIGITS, 2))[1]
    assert row["test_loss"] == pytest.approx(expected["test_loss"], rel=1e-2)


def test_one_that_diverges_does_not_harm_the_others():
    asked = recipes()[:2]
    states = [state_of(recipe) for recipe in asked]
    stack = Stack(asked[0], DIGITS, 2)
    lanes = [stack.enter(*pair, follow=False) for pair in zip(states, asked, strict=True)]
    with torch.no_grad():
        next(states[1].model.parameters()).fill_(float("nan"))
    rows = stack.train_epoch()
    assert isinstance(rows[lanes[1]], Diverged)
    assert rows[lanes[1]].epoch == 1
    alone = state_of(asked[0])
    expected = stacked([alone], asked[:1], 2, epochs=1, follow=False)[asked[0]]
    assert without_seconds([rows[lanes[0]]]) == without_seconds(expected)


def test_rounds_rewind_in_a_stack_as_alone():
    base = gl.recipes.digits(model="mlp", epochs=2, milestones=(), train_size=200)
    rounds = gl.methods.lottery(0.8).rounds
    method = gl.methods.lottery(0.8, rounds=replace(rounds, cycle=2, rewind=1))
    recipe = under(base, method)
    state, expected = state_of(recipe), state_of(recipe)
    alone = list(loop.fit(expected, recipe, DIGITS, recipe.epochs))
    rows = stacked([state], [recipe], 2, epochs=recipe.epochs)[recipe]
    assert [row["sparsity"] for row in rows] == [row["sparsity"] for row in alone]
    assert rows[-1]["test_acc"] == pytest.approx(alone[-1]["test_acc"], abs=2)


def test_another_kind_of_network_is_refused():
    asked = recipes()[0]
    stack = Stack(asked, DIGITS, 2)
    for change in ({"batch_size": 25}, {"momentum": 0.5}, {"train_size": 100}, {"model": "mlp"}):
        other = replace(asked, **change)
        assert kind(other) != kind(asked)
        with pytest.raises(ValueError, match="another kind"):
            stack.enter(state_of(other), other)
    assert not stack.lanes


@pytest.mark.parametrize("width", [0, 1, 3])
def test_a_width_is_even(width):
    with pytest.raises(ValueError, match=f"even number of networks, not {width}"):
        Stack(recipes()[0], DIGITS, width)


def test_bf16_lanes_are_close_to_the_network_alone():
    asked = recipes(precision="bf16")[:2]
    alone = {r: list(loop.fit(state_of(r), r, DIGITS, 2)) for r in asked}
    rows = stacked([state_of(r) for r in asked], asked, 2)
    for r in asked:
        assert rows[r][-1]["train_loss"] == pytest.approx(alone[r][-1]["train_loss"], rel=0.05)


def test_nobody_is_trained_in_an_empty_stack():
    assert Stack(recipes()[0], DIGITS, 2).train_epoch() == {}
