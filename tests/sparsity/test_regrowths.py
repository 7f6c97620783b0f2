import pytest
import torch
import torch.nn.functional as F
from torch import nn

from granet_lab.sparsity import Context, Masks, Pruning, prune, regenerate, regrowth
from granet_lab.sparsity.regrowths import REGROWTHS

NAMES = ["0.weight", "2.weight"]


@pytest.fixture
def net():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)).double()


@pytest.fixture
def batch():
    drawn = torch.Generator().manual_seed(4)
    inputs = torch.randn(7, 6, generator=drawn, dtype=torch.float64)
    return inputs, torch.randint(4, (7,), generator=drawn)


@pytest.fixture
def before(net):
    """Two thirds of the weights, the others zero."""
    masks = Masks(
        {n: (torch.arange(w.numel()) % 3 > 0).reshape(w.shape) for n, w in weights(net).items()}
    )
    masks.apply_(net)
    return masks


def weights(net):
    return {"0.weight": net[0].weight.detach(), "2.weight": net[2].weight.detach()}


def gradient_by_hand(net, batch):
    """dL/dw of the two layers, without nn.Module and Context."""
    inputs, targets = batch
    first, second = (w.clone().requires_grad_() for w in weights(net).values())
    hidden = (inputs @ first.T + net[0].bias.detach()).clamp(min=0)
    outputs = hidden @ second.T + net[2].bias.detach()
    loss = (outputs.logsumexp(1) - outputs.gather(1, targets[:, None])[:, 0]).mean()
    loss.backward()
    return {"0.weight": first.grad, "2.weight": second.grad}


@pytest.mark.parametrize("name", REGROWTHS)
def test_a_regrowth_scores_every_prunable_weight(name, net, batch):
    scores = REGROWTHS[name](Context(net, batches=[batch]))
    assert {n: s.shape for n, s in scores.items()} == {"0.weight": (5, 6), "2.weight": (4, 5)}
    assert all(score.isfinite().all() for score in scores.values())


def test_the_gradient_regrowth_is_the_absolute_gradient_by_hand(net, before, batch):
    scores = REGROWTHS["gradient"](Context(net, before, batches=[batch]))
    for name, expected in gradient_by_hand(net, batch).items():
        torch.testing.assert_close(scores[name], expected.abs(), rtol=1e-12, atol=1e-14)


def test_gradient_regrowth_takes_the_largest_gradients_among_all_zero_positions(net, before, batch):
    context = Context(net, before, batches=[batch])
    after = prune(context, Pruning(rate=0.5, scope="uniform"))
    grown = regenerate(context, before, after, "gradient")
    by_hand = gradient_by_hand(net, batch)
    returned_at_once = 0
    for name in NAMES:
        zero = (~after[name]).nonzero().tolist()
        removed = before.counts()[name] - after.counts()[name]
        ranked = sorted(zero, key=lambda place, g=by_hand[name]: -g[tuple(place)].abs())
        new = (grown[name] & ~after[name]).nonzero().tolist()
        assert sorted(new) == sorted(ranked[:removed])
        returned_at_once += int((grown[name] & before[name] & ~after[name]).sum())
    assert returned_at_once > 0


@pytest.fixture
def unequal_batches():
    drawn = torch.Generator().manual_seed(5)
    return [
        (
            torch.randn(size, 6, generator=drawn, dtype=torch.float64),
            torch.randint(4, (size,), generator=drawn),
        )
        for size in (7, 1, 4)
    ]


def test_the_momentum_regrowth_is_that_of_the_gradients_by_hand(net, before, unequal_batches):
    scores = REGROWTHS["momentum"](Context(net, before, batches=unequal_batches))
    for name, score in scores.items():
        v = torch.zeros_like(score)
        for batch in unequal_batches:
            v = 0.9 * v + gradient_by_hand(net, batch)[name]
        assert v[~before[name]].any()
        torch.testing.assert_close(score, v.abs(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("inputs", "expected"), [([1, -2, 3], 2.01), ([1, -2], 1.1), ([-4], 4)])
def test_the_momentum_regrowth_by_hand(inputs, expected):
    # y = w x, L = y: g = x for every batch of one example.
    net = nn.Linear(1, 1, bias=False)
    batches = [(torch.tensor([[float(x)]]), torch.zeros(1)) for x in inputs]
    context = Context(net, batches=batches, loss_fn=lambda outputs, targets: outputs.mean())
    assert REGROWTHS["momentum"](context)["weight"].item() == pytest.approx(expected)


def test_the_momentum_regrowth_looks_at_the_order_of_the_batches(net, unequal_batches):
    first = REGROWTHS["momentum"](Context(net, batches=unequal_batches))
    turned = REGROWTHS["momentum"](Context(net, batches=unequal_batches[::-1]))
    assert not torch.allclose(first["0.weight"], turned["0.weight"])


def test_gradient_regrowth_looks_at_weights_that_are_not_yet_zeroed(net, batch):
    context = Context(net, batches=[batch])
    first = REGROWTHS["gradient"](context)
    prune(context, Pruning(rate=0.9)).apply_(net)
    assert not torch.equal(REGROWTHS["gradient"](context)["0.weight"], first["0.weight"])


def test_gradient_regrowth_without_batches_is_refused_in_words(net):
    context = Context(net)
    after = prune(context, Pruning(rate=0.5))
    with pytest.raises(ValueError, match="gradients need data"):
        regenerate(context, context.masks, after, "gradient")


def test_gradients_of_nan_are_refused_with_regrowth_and_layer(net, batch):
    context = Context(
        net, batches=[batch], loss_fn=lambda o, t: F.cross_entropy(o, t) * float("nan")
    )
    after = prune(context, Pruning(rate=0.5))
    with pytest.raises(ValueError, match=r"'gradient' scores 0\.weight with NaN"):
        regenerate(context, context.masks, after, "gradient")


def test_random_regrowth_follows_from_the_generator(net, before):
    def grown(seed):
        context = Context(net, before, generator=torch.Generator().manual_seed(seed))
        after = prune(context, Pruning(rate=0.5))
        return regenerate(context, before, after, "random")

    assert grown(1) == grown(1)
    assert grown(1) != grown(2)


def test_the_kinds_of_regrowth_differ_on_a_sparse_network(net, before, batch):
    context = Context(net, before, batches=[batch])
    after = prune(context, Pruning(rate=0.5))
    by_gradient = regenerate(context, before, after, "gradient")
    assert by_gradient != regenerate(context, before, after, "random")


def test_a_users_regrowth_is_registered_and_decides_what_returns(net, before, monkeypatch):
    monkeypatch.setattr(REGROWTHS, "_entries", dict(REGROWTHS._entries))

    @regrowth
    def first(context):
        return {name: torch.zeros_like(w) for name, w in context.weights().items()}

    context = Context(net, before)
    pruning = Pruning(rate=0.5, scope="uniform", regrow="first")
    after = prune(context, pruning)
    grown = regenerate(context, before, after, pruning.regrow)
    for name in NAMES:
        zero = (~after[name]).flatten().nonzero().flatten().tolist()
        removed = before.counts()[name] - after.counts()[name]
        new = (grown[name] & ~after[name]).flatten().nonzero().flatten().tolist()
        assert new == zero[:removed]


def test_an_unknown_regrowth_raises_an_error_that_lists_the_valid_ones(net):
    context = Context(net)
    with pytest.raises(ValueError, match="unknown regrowth 'hope'") as raised:
        regenerate(context, context.masks, context.masks, "hope")
    assert all(name in str(raised.value) for name in REGROWTHS)
