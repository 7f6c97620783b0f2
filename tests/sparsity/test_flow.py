import pytest
import torch
from torch import nn

from granet_lab.sparsity import Context, Masks, Pruning, prune
from granet_lab.sparsity.criteria import CRITERIA
from granet_lab.sparsity.flow import synaptic_flow


def chain(layers, size, width=3):
    """Linear layers without biases, their weights about ``size`` and random."""
    torch.manual_seed(0)
    net = nn.Sequential(*[nn.Linear(width, width, bias=False) for _ in range(layers)])
    for parameter in net.parameters():
        nn.init.uniform_(parameter, 0.5 * size, 1.5 * size)
    return net


def context_of(net, *shape, masks=None):
    return Context(net, masks, batches=[(torch.zeros(1, *shape), torch.zeros(1))])


def synflow(context):
    return CRITERIA["synflow"](context)


def joined(scores):
    return torch.cat([score.flatten() for score in scores.values()])


def multiplied(net, factor):
    with torch.no_grad():
        for parameter in net.parameters():
            parameter *= factor
    return net


def plain_flow(net, *shape):
    """What arrives at the outputs of a network of positive weights, in its own precision."""
    with torch.no_grad():
        return net(torch.ones(1, *shape, dtype=next(net.parameters()).dtype)).sum().item()


def test_the_flow_is_the_sum_of_the_outputs_for_ones_by_hand():
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    net[0].weight.data = torch.tensor([[1.0, -2.0], [-3.0, -4.0]])
    net[0].bias.data = torch.tensor([-5.0, 6.0])
    net[2].weight.data = torch.tensor([[-1.0, 10.0]])
    net[2].bias.data = torch.tensor([-0.5])
    flow, weights = synaptic_flow(context_of(net, 2))
    assert flow.item() == 1 * (1 + 2) + 10 * (3 + 4)
    assert weights["0.weight"].tolist() == [[1, 2], [3, 4]]
    assert weights["2.weight"].tolist() == [[1, 10]]


def test_inactive_weights_pass_nothing_on_whatever_their_values():
    net = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Linear(1, 1, bias=False))
    net[0].weight.data = torch.tensor([[3.0, 100.0]])
    net[1].weight.data = torch.tensor([[5.0]])
    masks = Masks({"0.weight": torch.tensor([[True, False]]), "1.weight": torch.tensor([[True]])})
    context = context_of(net, 2, masks=masks)
    assert synaptic_flow(context)[0].item() == 15
    assert synflow(context)["0.weight"].tolist() == [[15, 0]]


def test_batchnorm_passes_on_with_the_statistics_it_has():
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1, eps=0, affine=False))
    nn.init.constant_(net[0].weight, 6)
    net[1].running_var.fill_(4)
    net[1].running_mean.zero_()
    assert synaptic_flow(context_of(net.train(), 1))[0].item() == 3


@pytest.mark.parametrize("layers", [110, 150])
def test_a_flow_too_small_for_single_precision_gives_scores_to_every_weight(layers):
    net = chain(layers, 0.1)
    assert plain_flow(net, 3) == 0
    scores = synflow(context_of(net, 3))
    assert joined(scores).min() > 0
    totals = [score.sum().item() for score in scores.values()]
    assert totals == [pytest.approx(totals[0], rel=1e-9)] * layers


def test_a_flow_too_small_for_double_precision_gives_scores_to_every_weight():
    net = chain(300, 0.01)
    assert plain_flow(chain(300, 0.01).double(), 3) == 0
    scores = joined(synflow(context_of(net, 3)))
    assert scores.min() > 0
    assert scores.isfinite().all()


def test_a_flow_too_small_for_double_precision_ranks_as_one_that_is_not():
    small, fitting = chain(300, 0.01).double(), multiplied(chain(300, 0.01).double(), 32)
    assert plain_flow(small, 3) == 0
    assert 1e-100 < plain_flow(fitting, 3) < 1e100
    found, expected = (joined(synflow(context_of(net, 3))) for net in (small, fitting))
    assert torch.equal(found.argsort(), expected.argsort())
    shares = found / found.sum()
    torch.testing.assert_close(shares, expected / expected.sum(), rtol=1e-9, atol=0)


def test_a_flow_too_small_for_double_precision_is_pruned_as_one_that_is_not(monkeypatch):
    monkeypatch.setattr(CRITERIA["synflow"], "rounds", 3)
    small, fitting = chain(300, 0.01).double(), multiplied(chain(300, 0.01).double(), 32)
    found, expected = (
        prune(context_of(net, 3), Pruning(rate=0.5, criterion="synflow"))
        for net in (small, fitting)
    )
    assert found == expected
    assert found.empty_layers() == []


@pytest.mark.parametrize("size", [0.5, 1e-200])
def test_without_any_path_to_the_outputs_every_weight_scores_zero(size):
    net = chain(3, size).double()
    masks = {name: mask.clone() for name, mask in Masks.dense(net).items()}
    masks["1.weight"][:] = False
    context = context_of(net, 3, masks=Masks(masks))
    flow, _ = synaptic_flow(context)
    assert flow.item() == 0
    assert joined(synflow(context)).tolist() == [0] * 27


def test_weights_of_zero_score_zero():
    net = chain(3, 0.0)
    assert joined(synflow(context_of(net, 3))).tolist() == [0] * 27


@pytest.mark.filterwarnings("ignore:pruning left no weight")
def test_without_any_path_the_weights_can_still_be_pruned():
    net = chain(3, 0.5)
    masks = {name: mask.clone() for name, mask in Masks.dense(net).items()}
    masks["1.weight"][:] = False
    after = prune(context_of(net, 3, masks=Masks(masks)), Pruning(rate=0.5, criterion="synflow"))
    assert after.active == 9


def test_a_weight_on_no_path_scores_zero_and_the_others_do_not():
    net = chain(3, 0.5)
    masks = {name: mask.clone() for name, mask in Masks.dense(net).items()}
    masks["1.weight"][2] = False
    scores = synflow(context_of(net, 3, masks=Masks(masks)))
    assert scores["1.weight"].ne(0).tolist() == [[True] * 3, [True] * 3, [False] * 3]
    assert scores["2.weight"].ne(0).tolist() == [[True, True, False]] * 3


def test_a_flow_beyond_double_precision_ranks_as_one_that_is_not():
    large, fitting = multiplied(chain(300, 1.0).double(), 1e3), chain(300, 1.0).double()
    assert plain_flow(large, 3) == float("inf")
    found, expected = (joined(synflow(context_of(net, 3))) for net in (large, fitting))
    assert found.isfinite().all()
    assert torch.equal(found.argsort(), expected.argsort())


def test_flows_at_the_end_of_double_precision_rank_as_others():
    fitting = chain(300, 0.1).double()
    for exponent in (-1074, -1040, -1000):
        tiny = chain(300, 0.1).double()
        factor = (2.0**exponent / plain_flow(fitting, 3)) ** (1 / 300)
        found, expected = (
            joined(synflow(context_of(net, 3))) for net in (multiplied(tiny, factor), fitting)
        )
        assert torch.equal(found.argsort(), expected.argsort())


def test_a_deep_and_sparse_network_has_a_flow():
    net = chain(300, 0.05, width=100)
    masks = {name: torch.zeros_like(mask) for name, mask in Masks.dense(net).items()}
    for mask in masks.values():
        mask[0, 0] = True
    scores = synflow(context_of(net, 100, masks=Masks(masks)))
    assert all(score[0, 0] > 0 and score.count_nonzero() == 1 for score in scores.values())


def test_weights_of_nan_are_refused_by_name():
    net = chain(2, 0.5)
    net[0].weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"'synflow' scores 0\.weight with NaN"):
        prune(context_of(net, 3), Pruning(rate=0.5, criterion="synflow"))


def test_inactive_weights_of_infinity_are_no_part_of_the_flow():
    net = chain(2, 0.5)
    net[0].weight.data[0, 0] = float("inf")
    masks = {name: mask.clone() for name, mask in Masks.dense(net).items()}
    masks["0.weight"][0, 0] = False
    scores = synflow(context_of(net, 3, masks=Masks(masks)))
    assert joined(scores).isfinite().all()
    assert scores["0.weight"][0, 0] == 0


def test_biases_and_running_means_are_on_no_path():
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 1))
    flows = []
    for shift in (0.0, -7.0):
        for values in (net[0].bias, net[1].bias, net[1].running_mean, net[3].bias):
            nn.init.constant_(values, shift)
        flows.append(synaptic_flow(context_of(net, 2))[0].item())
    assert flows[0] == flows[1] > 0


def test_integers_as_inputs_are_refused_in_words():
    net = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2))
    with pytest.raises(ValueError, match=r"needs inputs that are numbers, not torch\.int64"):
        synflow(Context(net, batches=[(torch.zeros(1, dtype=torch.int64), torch.zeros(1))]))


def test_a_module_with_a_forward_of_its_own_keeps_it():
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU6())
    net[1].forward = own = lambda inputs: inputs - 1
    synaptic_flow(context_of(net, 3))
    assert net[1].forward is own


def test_without_batches_there_is_no_shape_and_the_flow_is_refused():
    with pytest.raises(ValueError, match="the flow needs the inputs' shape"):
        synaptic_flow(Context(chain(2, 0.5)))
    with pytest.raises(ValueError, match="the flow needs the inputs' shape"):
        synflow(Context(chain(2, 0.5)))


def test_only_the_shape_of_the_inputs_matters():
    net = chain(3, 0.5)
    few = Context(net, batches=[(torch.zeros(1, 3), torch.zeros(1))])
    many = Context(net, batches=[(torch.randn(7, 3) * 1e9, torch.zeros(7)), (torch.ones(2, 3), 0)])
    assert torch.equal(joined(synflow(few)), joined(synflow(many)))


# What cuts a flow of several hundred off, or turns it into statistics of itself.
CLOSED = {
    "relu6": lambda: nn.ReLU6(),
    "relu6 in place": lambda: nn.ReLU6(inplace=True),
    "hardtanh": lambda: nn.Hardtanh(),
    "tanh": lambda: nn.Tanh(),
    "sigmoid": lambda: nn.Sigmoid(),
    "hardsigmoid": lambda: nn.Hardsigmoid(),
    "batchnorm of the batch": lambda: nn.BatchNorm1d(30, track_running_stats=False),
    "layernorm": lambda: nn.LayerNorm(30),
    "layernorm without weights": lambda: nn.LayerNorm(30, elementwise_affine=False),
    "groupnorm": lambda: nn.GroupNorm(3, 30),
    "rmsnorm": lambda: nn.RMSNorm(30),
}


def closed_net(make):
    torch.manual_seed(0)
    sizes = [(20, 30), (30, 30), (30, 30), (30, 5)]
    net = nn.Sequential()
    for size in sizes:
        net.append(nn.Linear(*size))
        net.append(make())
    multiplied(net, 10)
    return net[:-1]


@pytest.mark.parametrize("name", CLOSED)
def test_bounds_and_norms_leave_no_layer_without_scores(name):
    scores = synflow(context_of(closed_net(CLOSED[name]), 20))
    assert len(scores) == 4
    assert all(score.min() > 0 for score in scores.values())


@pytest.mark.parametrize("name", CLOSED)
def test_bounds_and_norms_pass_the_flow_on_as_if_they_were_not_there(name):
    net = closed_net(CLOSED[name])
    expected, _ = synaptic_flow(context_of(net[::2], 20))
    found, _ = synaptic_flow(context_of(net, 20))
    assert found.item() == expected.item()


class Normed(nn.Module):
    """With all that the flow must give back as it was."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 4, 3)
        self.batchnorm = nn.BatchNorm2d(4)
        self.relu6 = nn.ReLU6(inplace=True)
        self.dropout = nn.Dropout(0.5)
        self.norm = nn.LayerNorm(4)
        self.group = nn.GroupNorm(2, 4)
        self.head = nn.Linear(4, 3)
        self.broken = False

    def forward(self, inputs):
        hidden = self.group(self.relu6(self.batchnorm(self.conv(inputs))))
        if self.broken:
            raise ArithmeticError
        return self.head(self.dropout(self.norm(hidden.mean((2, 3)))))


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_the_flow_leaves_the_network_as_it_was(broken, training):
    net = Normed().train(training)
    net.dropout.train(not training)
    net.broken = broken
    images, mode = torch.randn(5, 1, 6, 6), [module.training for module in net.modules()]
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    parameters, drawn = dict(net.named_parameters()), torch.get_rng_state()
    context = Context(net, batches=[(images, torch.zeros(5))])
    if broken:
        with pytest.raises(ArithmeticError):
            synaptic_flow(context)
    else:
        synaptic_flow(context)
    assert not any("forward" in vars(module) for module in net.modules())
    assert [module.training for module in net.modules()] == mode
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in state.items())
    assert {name: id(p) for name, p in net.named_parameters()} == {
        name: id(p) for name, p in parameters.items()
    }
    assert all(p.grad is None for p in net.parameters())
    assert torch.equal(torch.get_rng_state(), drawn)


def test_the_outputs_after_the_flow_are_those_before():
    net, images = Normed().eval(), torch.randn(2, 1, 6, 6)
    before = net(images)
    synaptic_flow(Context(net, batches=[(images, torch.zeros(2))]))
    assert torch.equal(net(images), before)


def test_a_module_used_twice_is_left_as_it_was():
    shared = nn.ReLU6()
    net = nn.Sequential(nn.Linear(3, 3), shared, nn.Linear(3, 3), shared)
    synaptic_flow(context_of(net, 3))
    assert "forward" not in vars(shared)
    assert shared(torch.tensor(9.0)) == 6


def test_a_recurrent_network_that_returns_its_state_has_a_flow():
    torch.manual_seed(0)
    scores = synflow(context_of(nn.LSTM(3, 4, batch_first=True), 5, 3))
    assert all(score.isfinite().all() and score.any() for score in scores.values())
