from dataclasses import replace

import torch

import granet_lab as gl
from granet_lab import datasets
from granet_lab.sparsity import prunable
from granet_lab.training import loop

DIGITS = datasets.load("digits")
ROUNDS = gl.methods.Rounds(count=2, cycle=3, rewind=1)


def trained(recipe, method, until):
    asked = replace(recipe, method=method, epochs=ROUNDS.epochs, milestones=(2,))
    state = loop.new_state(asked, DIGITS)
    rows = list(loop.fit(state, asked, DIGITS, until))
    return asked, state, rows


def weights(state):
    return {name: w.detach().clone() for name, w in prunable(state.model).items()}


def test_a_lottery_ticket_has_the_weights_of_the_early_epoch_where_its_mask_is(recipe):
    method = gl.methods.lottery(0.75, ROUNDS)
    asked, early, _ = trained(recipe, method, until=1)
    asked, state, _ = trained(recipe, method, until=3)
    loop.begin_epoch(state, asked, DIGITS)
    total = state.masks.total
    assert total - state.masks.active == round(0.5 * total)
    for name, weight in weights(state).items():
        expected = weights(early)[name] * state.masks[name]
        assert torch.equal(weight, expected)
    speeds = [(early, early.masks), (state, state.masks)]
    found = [
        {n: s.optimizer.state[w]["momentum_buffer"] * m[n] for n, w in prunable(s.model).items()}
        for s, m in speeds
    ]
    assert all(torch.equal(found[0][n] * state.masks[n], found[1][n]) for n in found[0])


def test_the_mask_of_a_ticket_is_that_of_the_trained_magnitudes(recipe):
    method = gl.methods.lottery(0.75, ROUNDS)
    asked, state, _ = trained(recipe, method, until=3)
    expected = gl.prune_to(gl.Context(state.model), 0.5)
    loop.begin_epoch(state, asked, DIGITS)
    assert state.masks == expected


def test_under_learning_rate_rewinding_the_weights_go_on(recipe):
    method = gl.methods.lr_rewinding(0.75, ROUNDS)
    asked, state, _ = trained(recipe, method, until=3)
    before = weights(state)
    loop.begin_epoch(state, asked, DIGITS)
    for name, weight in weights(state).items():
        assert torch.equal(weight, before[name] * state.masks[name])


def test_the_learning_rate_starts_over_with_each_round(recipe):
    method = gl.methods.lottery(0.75, ROUNDS)
    _, state, rows = trained(recipe, method, until=7)
    assert [round(row["lr"], 6) for row in rows] == [0.1, 0.1, 0.01, 0.1, 0.01, 0.1, 0.01]
    assert [round(row["sparsity"], 2) for row in rows] == [0, 0, 0, 0.5, 0.5, 0.75, 0.75]
    assert rows[3]["flops"] < 0.55 * rows[2]["flops"]
    assert state.epoch == 7
