import numpy as np
import pytest
import torch
from torch import nn

from granet_lab.training.sgd import SGD

SHAPES = [(5, 3), (7,), (4, 3, 2, 2)]
RATES = [0.1, 0.1, 0.03, 0.01] * 5
SETTINGS = [
    {"momentum": 0.0},
    {"momentum": 0.0, "weight_decay": 0.1},
    {"momentum": 0.9},
    {"momentum": 0.9, "weight_decay": 5e-4},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.5, "weight_decay": 0.1, "nesterov": True},
]
settings = pytest.mark.parametrize("options", SETTINGS, ids=str)


def parameters():
    random = torch.Generator().manual_seed(0)
    drawn = [torch.randn(shape, generator=random) for shape in SHAPES]
    drawn[2] = drawn[2].contiguous(memory_format=torch.channels_last)
    return [nn.Parameter(values) for values in drawn]


def gradients(step):
    random = torch.Generator().manual_seed(100 + step)
    return [torch.randn(shape, generator=random) for shape in SHAPES]


def run(optimizer, weights, factors=()):
    for step, lr in enumerate(RATES):
        for weight, gradient in zip(weights, gradients(step), strict=True):
            weight.grad = torch.empty_like(weight).copy_(gradient)
        optimizer.step(lr, factors)


def one_weight(**options):
    """Weight 1, gradient 0.5, learning rate 0.1, weight decay 0.1: the values of two steps."""
    weight = nn.Parameter(torch.ones(1))
    optimizer = SGD([weight], weight_decay=0.1, **options)
    found = []
    for _ in range(2):
        weight.grad = torch.full((1,), 0.5)
        optimizer.step(0.1)
        found.append(weight.item())
    return found


def test_two_steps_by_hand_without_momentum():
    assert one_weight() == pytest.approx([0.94, 0.94 - 0.1 * 0.594], rel=1e-6)


def test_two_steps_by_hand_with_momentum():
    assert one_weight(momentum=0.9) == pytest.approx(
        [0.94, 0.94 - 0.1 * (0.9 * 0.6 + 0.594)], rel=1e-6
    )


def test_two_steps_by_hand_with_nesterov():
    first = 1 - 0.1 * (0.6 + 0.9 * 0.6)
    gradient = 0.5 + 0.1 * first
    second = first - 0.1 * (gradient + 0.9 * (0.9 * 0.6 + gradient))
    assert one_weight(momentum=0.9, nesterov=True) == pytest.approx([first, second], rel=1e-6)


@settings
def test_every_step_is_that_of_torchs_sgd(options):
    ours, theirs = parameters(), parameters()
    optimizer, reference = SGD(ours, **options), torch.optim.SGD(theirs, lr=1, **options)
    for step, lr in enumerate(RATES):
        reference.param_groups[0]["lr"] = lr
        for a, b, gradient in zip(ours, theirs, gradients(step), strict=True):
            a.grad, b.grad = (torch.empty_like(a).copy_(gradient) for _ in "ab")
        optimizer.step(lr)
        reference.step()
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@settings
def test_the_steps_follow_the_formula_in_float64(options):
    decay, momentum = options.get("weight_decay", 0), options["momentum"]
    weights = [p.detach().double().numpy() for p in parameters()]
    velocity = [np.zeros_like(w) for w in weights]
    for step, lr in enumerate(RATES):
        for i, gradient in enumerate(gradients(step)):
            g = gradient.double().numpy() + decay * weights[i]
            velocity[i] = momentum * velocity[i] + g
            update = g + momentum * velocity[i] if options.get("nesterov") else velocity[i]
            weights[i] = weights[i] - lr * update
    found = parameters()
    run(SGD(found, **options), found)
    for parameter, expected in zip(found, weights, strict=True):
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-5, atol=1e-5)


@settings
def test_masked_weights_and_their_momentum_are_exactly_zero_after_many_steps(options):
    weights, random = parameters(), torch.Generator().manual_seed(3)
    active = [torch.rand(w.shape, generator=random) < 0.3 for w in weights]
    for weight, mask in zip(weights, active, strict=True):
        weight.data[~mask] = 0
    optimizer = SGD(weights, **options)
    factors = [
        (weight, torch.empty_like(weight).copy_(mask))
        for weight, mask in zip(weights, active, strict=True)
    ]
    run(optimizer, weights, factors)
    for weight, mask in zip(weights, active, strict=True):
        assert not weight[~mask].any()
        assert weight[mask].all()
        if options["momentum"]:
            assert not optimizer.state[weight]["momentum_buffer"][~mask].any()
            assert optimizer.state[weight]["momentum_buffer"][mask].all()


@settings
def test_active_weights_move_as_if_nothing_were_masked(options):
    free, masked = parameters(), parameters()
    run(SGD(free, **options), free)
    mask = torch.rand(5, 3, generator=torch.Generator().manual_seed(3)) < 0.5
    masked[0].data[~mask] = 0
    run(SGD(masked, **options), masked, [(masked[0], mask.float())])
    assert torch.equal(masked[0][mask], free[0][mask])
    assert torch.equal(masked[1], free[1])


def test_gradients_are_dropped_after_a_step():
    weights = parameters()
    run(SGD(weights, momentum=0.9), weights)
    assert [weight.grad for weight in weights] == [None] * 3


def test_a_learning_rate_of_zero_moves_the_momentum_alone():
    weight = nn.Parameter(torch.ones(3))
    optimizer = SGD([weight], momentum=0.9)
    weight.grad = torch.full((3,), 2.0)
    optimizer.step(0.0)
    assert weight.tolist() == [1, 1, 1]
    assert optimizer.state[weight]["momentum_buffer"].tolist() == [2, 2, 2]


def test_momentum_begins_at_zero_and_is_found_by_parameter():
    weights = parameters()
    state = SGD(weights, momentum=0.9).state
    assert list(state) == weights
    assert not any(values["momentum_buffer"].any() for values in state.values())


def test_without_momentum_nothing_is_remembered():
    weights = parameters()
    optimizer = SGD(weights, weight_decay=0.1)
    run(optimizer, weights)
    assert optimizer.state == {}


def test_the_memory_layout_of_weights_and_momentum_is_kept():
    weights = parameters()
    optimizer = SGD(weights, momentum=0.9)
    run(optimizer, weights)
    for tensor in (weights[2], optimizer.state[weights[2]]["momentum_buffer"]):
        assert tensor.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("options", [{"momentum": 0.0}, {"momentum": 0.9, "weight_decay": 0.1}])
def test_a_parameter_without_a_gradient_is_left_alone(options):
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = SGD([used, unused], **options)
    used.grad = torch.ones(2)
    optimizer.step(0.1)
    assert unused.tolist() == [1, 1]
    assert used.tolist() != [1, 1]


def test_a_gradient_of_another_memory_layout_moves_the_same_weights():
    weight = nn.Parameter(torch.zeros(2, 3))
    gradient = torch.arange(6.0).reshape(3, 2).T
    weight.grad = gradient
    SGD([weight]).step(1.0)
    assert torch.equal(weight.detach(), -gradient)


def test_a_strided_view_is_refused():
    view = nn.Parameter(torch.zeros(2, 6)[:, ::2])
    with pytest.raises(ValueError, match="strided view"):
        SGD([view])


def test_a_step_without_any_gradient_changes_nothing():
    weight = nn.Parameter(torch.ones(2))
    SGD([weight], momentum=0.9).step(1.0)
    assert weight.tolist() == [1, 1]


def drawn(dtype, steps=8):
    """Weights of three shapes, the gradients of some steps, and which parameters are spared."""
    random = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, generator=random, dtype=dtype) for shape in SHAPES]
    some = [
        [torch.randn(shape, generator=random, dtype=dtype) for shape in SHAPES]
        for _ in range(steps)
    ]
    return weights, some


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("spared", [(), (1,), (0, 2), (0, 1, 2)], ids=str)
@settings
def test_spared_parameters_are_a_group_without_decay_of_torchs_sgd(options, spared, dtype):
    weights, gradients = drawn(dtype)
    ours, theirs = ([nn.Parameter(w.clone()) for w in weights] for _ in "ab")
    optimizer = SGD(ours, **options, undecayed=[ours[i] for i in spared])
    groups = [
        {"params": [p for i, p in enumerate(theirs) if i not in spared]},
        {"params": [theirs[i] for i in spared], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    reference = torch.optim.SGD(groups, lr=0.05, **options, fused=True)
    for step in gradients:
        for a, b, gradient in zip(ours, theirs, step, strict=True):
            a.grad, b.grad = gradient.clone(), gradient.clone()
        optimizer.step(0.05)
        reference.step()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)


def test_only_what_is_not_spared_is_pulled_to_zero():
    decayed, spared = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = SGD([decayed, spared], weight_decay=0.5, undecayed=[spared])
    for weight in (decayed, spared):
        weight.grad = torch.zeros(2)
    optimizer.step(0.1)
    assert decayed.tolist() == pytest.approx([0.95] * 2)
    assert spared.tolist() == [1, 1]
    assert decayed.grad is spared.grad is None


def test_spared_parameters_are_told_apart_by_what_they_are_not_by_their_values():
    twins = [nn.Parameter(torch.ones(2)) for _ in range(3)]
    optimizer = SGD(twins, weight_decay=0.5, undecayed=twins[1:2])
    for weight in twins:
        weight.grad = torch.zeros(2)
    optimizer.step(1.0)
    assert [weight[0].item() for weight in twins] == [0.5, 1.0, 0.5]


@settings
def test_masked_weights_stay_zero_among_spared_parameters_too(options):
    weights = parameters()
    masks = [torch.rand(w.shape, generator=torch.Generator().manual_seed(4)) < 0.5 for w in weights]
    for weight, mask in zip(weights, masks, strict=True):
        weight.data[~mask] = 0
    factors = [(w, torch.empty_like(w).copy_(mask)) for w, mask in zip(weights, masks, strict=True)]
    run(SGD(weights, **options, undecayed=weights[:1]), weights, factors)
    for weight, mask in zip(weights, masks, strict=True):
        assert not weight[~mask].any()
        assert weight[mask].all()
