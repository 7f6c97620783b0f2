import copy
import functools

import pytest
import torch
import torchvision
from drawing import within
from torch import nn

from granet_lab.sparsity import Context, Masks, Pruning, prunable, prune, regenerate
from granet_lab.sparsity.criteria import CRITERIA
from granet_lab.sparsity.regrowths import REGROWTHS

pytestmark = pytest.mark.filterwarnings("ignore:pruning left no weight")


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Linear(6, 8)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, inputs):
        return self.head(self.encoder(self.embedding(inputs)).mean(1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 8, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(16, 3)

    def forward(self, inputs):
        return self.head(self.lstm(inputs)[0][:, -1])


class Tied(nn.Module):
    """An encoder and a decoder that are one parameter."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(6, 6)
        self.decoder = nn.Linear(6, 6)
        self.decoder.weight = self.encoder.weight
        self.head = nn.Linear(6, 3)

    def forward(self, inputs):
        return self.head(self.decoder(self.encoder(inputs).relu()).relu())


def small_resnet18():
    """Without the last two blocks, which have three quarters of the weights."""
    net = torchvision.models.resnet18(num_classes=3)
    net.layer4, net.fc = nn.Identity(), nn.Linear(256, 3)
    return net


# How to make a network of three classes, and the shape of its inputs.
ARCHITECTURES = {
    "resnet18": (small_resnet18, (3, 32, 32)),
    "mobilenet_v2": (
        lambda: torchvision.models.mobilenet_v2(num_classes=3, width_mult=0.25),
        (3, 32, 32),
    ),
    "transformer": (Attention, (5, 6)),
    "lstm": (Recurrent, (5, 6)),
    "tied": (Tied, (6,)),
}

SCORERS = [registry[name] for registry in (CRITERIA, REGROWTHS) for name in registry]


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch):
    monkeypatch.setattr(CRITERIA["synflow"], "rounds", 3)


@functools.cache
def fresh(name):
    torch.manual_seed(0)
    make, shape = ARCHITECTURES[name]
    drawn = torch.Generator().manual_seed(1)
    return make(), torch.randn(4, *shape, generator=drawn)


def sparse(name):
    """A network of which every fifth weight is inactive, in its context."""
    net, inputs = fresh(name)
    return some_context(copy.deepcopy(net), inputs)


def some_context(net, inputs):
    masks = Masks(
        {n: torch.arange(p.numel()).reshape(p.shape) % 5 != 2 for n, p in prunable(net).items()}
    )
    masks.apply_(net)
    targets = torch.tensor([0, 1, 2, 0])
    return Context(net, masks, batches=[(inputs[:2], targets[:2]), (inputs[2:], targets[2:])])


def check_applied(context, masks):
    """The network with these masks has exact zeros, trains, and answers."""
    net = context.model
    expected = {n: p.detach() * masks[n] for n, p in prunable(net).items()}
    masks.apply_(net)
    for name, weight in prunable(net).items():
        assert torch.equal(weight, expected[name])
    inputs, targets = context.batches[0]
    nn.functional.cross_entropy(net.train()(inputs), targets).backward()
    assert any(p.grad.any() for p in net.parameters())
    assert net.eval()(inputs).isfinite().all()


def check_criterion(context, name):
    before, seen = context.masks, []
    score = CRITERIA[name]

    def watched(context):
        found = score(context)
        seen.append({n: s.shape for n, s in found.items() if s.isfinite().all()})
        return found

    watched.rounds = score.rounds
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CRITERIA._entries, name, watched)
        after = prune(context, Pruning(rate=0.9, criterion=name))
    assert seen == [{n: p.shape for n, p in prunable(context.model).items()}] * score.rounds
    assert before.active - after.active == round(0.9 * before.active)
    assert within(after, before)
    check_applied(context, after)


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_criterion_prunes_exactly_the_rate_of(architecture, name):
    check_criterion(sparse(architecture), name)


@pytest.mark.slow
@pytest.mark.parametrize("name", CRITERIA)
def test_a_criterion_prunes_exactly_the_rate_of_resnet50(name):
    torch.manual_seed(0)
    net = torchvision.models.resnet50(num_classes=3)
    check_criterion(some_context(net, torch.randn(4, 3, 32, 32)), name)


def regrown(context, name, scope):
    before = context.masks
    after = prune(context, Pruning(rate=0.9))
    after.apply_(context.model)
    grown = regenerate(context, before, after, name, scope=scope)
    assert within(after, grown)
    return grown


@pytest.mark.parametrize("name", REGROWTHS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_regrowth_brings_back_as_many_weights_in_every_layer_of(architecture, name):
    context = sparse(architecture)
    grown = regrown(context, name, "layer")
    assert grown.counts() == context.masks.counts()
    assert all(score.isfinite().all() for score in REGROWTHS[name](context).values())
    check_applied(context, grown)


@pytest.mark.parametrize("name", REGROWTHS)
@pytest.mark.parametrize("architecture", [*ARCHITECTURES][1:])
def test_a_regrowth_over_all_layers_brings_back_as_many_weights_of(architecture, name):
    context = sparse(architecture)
    grown = regrown(context, name, "global")
    assert grown.active == context.masks.active
    check_applied(context, grown)


@pytest.mark.parametrize("architecture", ["resnet18", "mobilenet_v2"])
def test_every_layer_of_a_convolutional_network_gets_a_synaptic_flow(architecture):
    scores = CRITERIA["synflow"](sparse(architecture))
    assert all(score.any() for score in scores.values())


@pytest.mark.parametrize("score", SCORERS)
def test_a_tied_weight_is_scored_and_counted_once(score):
    context = sparse("tied")
    scores = score(context)
    assert list(scores) == ["encoder.weight", "head.weight"]
    assert context.masks.sizes() == {"encoder.weight": 36, "head.weight": 18}


def test_a_tied_weight_is_zero_wherever_it_is_used():
    context = sparse("tied")
    after = prune(context, Pruning(rate=0.9, criterion="synflow"))
    after.apply_(context.model)
    assert context.model.decoder.weight is context.model.encoder.weight
    assert not context.model.decoder.weight[~after["encoder.weight"]].any()


def test_the_synaptic_flow_through_a_tied_weight_is_that_of_both_its_uses():
    # R = |v| w w: |w| dR/d|w| = 2 R.
    net = nn.Sequential(*[nn.Linear(1, 1, bias=False) for _ in range(3)])
    nn.init.constant_(net[0].weight, -3)
    net[1].weight = net[0].weight
    nn.init.constant_(net[2].weight, 5)
    scores = CRITERIA["synflow"](Context(net, batches=[(torch.zeros(1, 1), torch.zeros(1))]))
    assert {name: score.item() for name, score in scores.items()} == {
        "0.weight": 90,
        "2.weight": 45,
    }


def test_scoring_a_recurrent_network_leaves_it_using_its_own_weights():
    context = sparse("lstm")
    for score in SCORERS:
        score(context)
    net, (inputs, _) = context.model.eval(), context.batches[0]
    before = net(inputs)
    with torch.no_grad():
        net.lstm.weight_ih_l0 += 1
    assert not torch.equal(net(inputs), before)
