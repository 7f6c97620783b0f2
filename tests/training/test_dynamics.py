from dataclasses import replace
from itertools import pairwise

import pytest
import torch

import granet_lab as gl
from granet_lab import datasets, models
from granet_lab.sparsity import cost, prunable
from granet_lab.sparsity.methods import METHODS
from granet_lab.sparsity.regrowths import REGROWTHS
from granet_lab.training import loop
from granet_lab.training.dynamics import Dynamics

DIGITS = datasets.load("digits")
CHANGING = [n for n in METHODS if METHODS[n]().changes and not METHODS[n]().rounds]


@pytest.fixture
def follow(recipe, monkeypatch):
    """Trains with a method, and what it looked like after every step."""

    def follow(method, until=4):
        asked = replace(recipe, method=method)
        state, seen = loop.new_state(asked, DIGITS), []
        plan = method.plan(asked.epochs, loop.steps_per_epoch(asked, DIGITS))
        whole = Dynamics.after

        def after(self, factors):
            found = whole(self, factors)
            weights = {n: w.detach().clone() for n, w in prunable(state.model).items()}
            speeds = {
                n: state.optimizer.state[w]["momentum_buffer"].clone()
                for n, w in prunable(state.model).items()
            }
            seen.append((state.step, state.masks, weights, speeds))
            return found

        monkeypatch.setattr(Dynamics, "after", after)
        rows = list(loop.fit(state, asked, DIGITS, until))
        monkeypatch.undo()
        return plan, seen, rows, state

    return follow


@pytest.mark.parametrize("name", CHANGING)
def test_the_sparsity_is_exact_after_every_update_and_steady_between(follow, name):
    plan, seen, rows, state = follow(METHODS[name]())
    total, before = state.masks.total, None
    for step, masks, _, _ in seen:
        if plan.due(step) and step <= plan.stop:
            assert total - masks.active == round(plan.sparsity(step) * total)
        if not plan.due(step):
            assert before is None or masks == before
        before = masks
    assert rows[-1]["sparsity"] == state.masks.sparsity


@pytest.mark.parametrize("name", CHANGING)
def test_an_inactive_weight_is_zero_after_every_step_and_so_is_its_momentum(follow, name):
    _, seen, _, _ = follow(METHODS[name]())
    for _, masks, weights, speeds in seen:
        for layer, mask in masks.items():
            assert not weights[layer][~mask].any()
            assert not speeds[layer][~mask].any()


@pytest.mark.parametrize("name", ["granet", "rigl", "set"])
def test_what_comes_back_starts_at_rest_from_zero(follow, name):
    method = METHODS[name](0.8, interval=3)
    plan, seen, _, _ = follow(method)
    born = 0
    for (_, before, _, _), (step, masks, weights, speeds) in pairwise(seen):
        if not plan.due(step):
            continue
        for layer, mask in masks.items():
            new = mask & ~before[layer]
            born += int(new.sum())
            assert not weights[layer][new].any()
            assert not speeds[layer][new].any()
    assert born > 0


def test_regrowing_nothing_is_gradual_magnitude_pruning(follow):
    one = follow(gl.methods.granet(0.9, regrow_fraction=0, regrow_end=0))
    other = follow(gl.methods.gmp(0.9))
    for (_, masks, weights, _), (_, expected, also, _) in zip(one[1], other[1], strict=True):
        assert masks == expected
        assert all(torch.equal(weights[n], also[n]) for n in weights)


def test_rising_from_a_sparsity_to_the_same_is_rigl(follow):
    method = gl.methods.granet(0.8, initial_sparsity=0.8, interval=5)
    assert method == gl.methods.rigl(0.8, interval=5)
    # As a schedule that has to be followed, not as the method that it comes down to.
    rising = gl.methods.granet(0.8, interval=5)
    for name, value in (("initial_sparsity", 0.8), ("criterion", "random"), ("scope", "erk")):
        object.__setattr__(rising, name, value)
    one, other = follow(rising), follow(method)
    assert one[0].sparsity(12) == 0.8
    changes = 0
    for (step, masks, weights, _), (_, expected, also, _) in zip(one[1], other[1], strict=True):
        assert masks == expected
        assert all(torch.equal(weights[n], also[n]) for n in weights)
        changes += one[0].due(step)
    assert changes == len([5, 10, 15])


def test_the_gradient_of_an_update_is_that_of_its_step(follow, monkeypatch):
    """Of all positions that are free, those of the largest dense gradient come back."""
    shown = []

    def noting(context):
        found = context.gradients()
        shown.append((context.known, found))
        return {name: g.abs() for name, g in found.items()}

    noting.batches = 1
    monkeypatch.setitem(REGROWTHS._entries, "noting", noting)
    follow(gl.methods.rigl(0.8, regrow="noting", interval=4))
    assert len(shown) == 3  # none at the very end
    for known, found in shown:
        assert known is not None
        assert all(torch.equal(known[name], found[name]) for name in known)
        assert all(gradient.any() for gradient in known.values())


def test_global_sparse_momentum_moves_only_the_most_salient(recipe):
    asked = replace(recipe, method=gl.methods.gsm(0.9), weight_decay=0.0, momentum=0.0)
    state = loop.new_state(asked, DIGITS)
    before = {n: w.detach().clone() for n, w in prunable(state.model).items()}
    batch = next(loop.epoch_batches(asked, DIGITS, 0))
    outputs = state.model(batch[0])
    loop.loss_of(outputs, batch[1], asked).backward()
    plan = asked.method.plan(4, 4)
    dynamics = Dynamics(state, plan, DIGITS.input_shape, None)
    factors = dynamics.before(batch, [])
    scores = torch.cat([(w * w.grad).abs().flatten() for w in prunable(state.model).values()])
    state.optimizer.step(0.1, factors)
    moved = torch.cat(
        [(w.detach() != before[n]).flatten() for n, w in prunable(state.model).items()]
    )
    count = state.masks.total - round(0.9 * state.masks.total)
    assert moved.sum() <= count
    assert set(moved.nonzero().flatten().tolist()) <= set(scores.topk(count).indices.tolist())


@pytest.mark.parametrize("name", CHANGING)
def test_what_can_no_longer_be_ranked_has_diverged(recipe, name):
    asked = replace(recipe, method=METHODS[name](0.9), lr=1e9)
    state = loop.new_state(asked, DIGITS)
    with pytest.raises(loop.Diverged) as error:
        list(loop.fit(state, asked, DIGITS, until=4))
    assert 1 <= error.value.epoch <= 4


@pytest.mark.parametrize("name", ["gmp", "granet", "set", "gsm"])
def test_a_weight_that_the_loss_does_not_depend_on_has_no_gradient_and_is_pruned_like_any(
    recipe, name, monkeypatch
):
    def lame(input_shape, classes):
        net = models.MODELS["mlp"](input_shape, classes)
        net[1].unused = torch.nn.Linear(5, 7)
        net[1].weight.requires_grad_(False)
        return net

    monkeypatch.setattr(models.MODELS, "_entries", {**models.MODELS._entries, "lame": lame})
    asked = replace(recipe, model="lame", method=METHODS[name](0.8))
    state = loop.new_state(asked, DIGITS)
    rows = list(loop.fit(state, asked, DIGITS, until=4))
    assert state.masks.total - state.masks.active == round(0.8 * state.masks.total)
    assert rows[-1]["flops"] != rows[-1]["flops"]  # not known: nobody calls the unused layer


def test_global_sparse_momentum_leaves_what_is_masked_at_zero(recipe):
    asked = replace(recipe, method=gl.methods.gsm(0.8, initial_sparsity=0.5))
    state = loop.new_state(asked, DIGITS)
    for _ in loop.fit(state, asked, DIGITS, until=4):
        for name, weight in prunable(state.model).items():
            assert not weight[~state.masks[name]].any()


def test_the_operations_of_training_follow_the_masks(follow):
    _, seen, rows, state = follow(gl.methods.gmp(0.9, interval=3, stop=3))
    costs = cost.layer_costs(state.model, DIGITS.input_shape)
    dense = {name: c.weights for name, c in costs.items()}

    def each(active):
        return 3 * 50 * sum(c.flops(active[name]) for name, c in costs.items())

    # The step after an update is the first one under its masks.
    active = [dense, *(masks.counts() for _, masks, _, _ in seen)][:-1]
    by_hand = [sum(each(active[4 * e + i]) for i in range(4)) for e in range(4)]
    assert [row["flops"] for row in rows] == pytest.approx(by_hand)


def test_history_counts_what_was_pruned_and_what_came_back(lab, recipe):
    run = lab.train(replace(recipe, method=gl.methods.granet(0.8, interval=4)), progress=False)
    history = run.history
    total = run.load(0).masks.total
    pruned = history.pruned.iloc[1:].cumsum() / total
    assert pruned.tolist() == pytest.approx(history.sparsity.iloc[1:].tolist())
    assert (history.regrown.iloc[1:-1] > 0).all()
    assert history.regrown.iloc[-1] == 0
    assert history.exploration.tolist() == [1] * 5
    assert history.training_flops[0] == 0
    for epoch in range(5):
        layers = history.filter(like="sparsity/").iloc[epoch].to_dict()
        found = run.load(epoch).masks.sparsities()
        assert layers == {f"sparsity/{name}": sparsity for name, sparsity in found.items()}
    assert history.training_flops.iloc[1:].is_monotonic_increasing


def test_a_branch_keeps_the_masks_that_pruning_left(lab, recipe):
    asked = replace(recipe, method=gl.methods.granet(0.8, interval=2))
    for trial in gl.grid(asked, epoch=2, rate=0.5, recovery_epochs=2):
        table = lab.measure(trial, workers=1, progress=False)
        layers = lab.layers([trial])
        assert (layers.sparsity_regenerated == layers.sparsity_pruned).all()
        assert table.method[0] == "granet"
        assert table.sparsity[0] == pytest.approx(
            1 - 0.5 * (1 - lab.run(asked).load(2).masks.sparsity), abs=1e-3
        )


def test_a_run_too_short_for_its_schedule_is_refused_before_anything_is_written(lab, recipe):
    rare = replace(recipe, method=gl.methods.rigl(0.8, interval=17))
    with pytest.raises(ValueError, match="interval 17 is longer than the run of 16 steps"):
        lab.train(rare, progress=False)
    assert not list(lab.path.iterdir())
