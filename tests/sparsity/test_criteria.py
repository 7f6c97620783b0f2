import pytest
import torch
from torch import nn

from granet_lab.sparsity import Context, Masks, Pruning, criterion, prune
from granet_lab.sparsity.criteria import CRITERIA
from granet_lab.sparsity.regrowths import REGROWTHS


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 4))


@pytest.fixture
def context(net):
    return Context(net, batches=[(torch.randn(5, 1, 3, 3), torch.tensor([0, 1, 2, 3, 0]))])


@pytest.fixture
def own_criteria(monkeypatch):
    monkeypatch.setattr(CRITERIA, "_entries", dict(CRITERIA._entries))


@pytest.mark.parametrize("name", CRITERIA)
def test_a_criterion_scores_every_prunable_weight(name, context):
    scores = CRITERIA[name](context)
    assert {n: s.shape for n, s in scores.items()} == {
        "0.weight": (2, 1, 2, 2),
        "3.weight": (4, 8),
    }
    assert all(score.isfinite().all() for score in scores.values())
    assert not any(score.requires_grad for score in scores.values())


def test_magnitude_is_the_absolute_value():
    net = nn.Linear(3, 1, bias=False)
    net.weight.data = torch.tensor([[-2.0, 0.0, 1.5]])
    assert CRITERIA["magnitude"](Context(net))["weight"].tolist() == [[2.0, 0.0, 1.5]]


def test_random_scores_lie_between_0_and_1(context):
    noise = torch.cat([s.flatten() for s in CRITERIA["random"](context).values()])
    assert noise.min() >= 0
    assert noise.max() < 1
    assert len(noise.unique()) == len(noise)


def test_random_scores_follow_from_the_generator_and_not_from_the_weights(net):
    first = CRITERIA["random"](Context(net, generator=torch.Generator().manual_seed(1)))
    nn.init.zeros_(net[3].weight)
    again = CRITERIA["random"](Context(net, generator=torch.Generator().manual_seed(1)))
    other = CRITERIA["random"](Context(net, generator=torch.Generator().manual_seed(2)))
    assert torch.equal(first["3.weight"], again["3.weight"])
    assert not torch.equal(first["3.weight"], other["3.weight"])


def test_random_criterion_and_random_regrowth_draw_different_noise(context):
    kept, regrown = CRITERIA["random"](context), REGROWTHS["random"](context)
    assert all(not torch.equal(kept[name], regrown[name]) for name in kept)


def test_a_users_criterion_is_registered_and_decides_what_is_kept(net, own_criteria):
    @criterion
    def last(context):
        return {
            name: torch.arange(w.numel(), dtype=w.dtype).reshape(w.shape)
            for name, w in context.weights().items()
        }

    after = prune(Context(net), Pruning(rate=0.5, criterion="last", scope="uniform"))
    assert after["0.weight"].flatten().tolist() == [False] * 4 + [True] * 4
    assert after["3.weight"].flatten().tolist() == [False] * 16 + [True] * 16


def test_a_users_criterion_sees_the_masks(net, own_criteria):
    seen = []

    @criterion
    def curious(context):
        seen.append(context.masks)
        return context.weights()

    masks = Masks.dense(net)
    prune(Context(net, masks), Pruning(rate=0.5, criterion="curious"))
    assert seen == [masks]


def test_a_users_criterion_may_not_take_the_name_of_another(own_criteria):
    with pytest.raises(ValueError, match=r"criterion 'magnitude' is already defined in granet_lab"):

        @criterion
        def magnitude(context):
            return context.weights()


def test_an_unknown_criterion_raises_an_error_that_lists_the_valid_ones():
    with pytest.raises(ValueError, match="unknown criterion 'luck'") as raised:
        CRITERIA["luck"]
    assert all(name in str(raised.value) for name in CRITERIA)
