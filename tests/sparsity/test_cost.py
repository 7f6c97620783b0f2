import pytest
import torch
import torchvision
from torch import nn

from granet_lab.sparsity import Masks, allocate, cost, prunable


@pytest.fixture
def net():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, stride=2),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 6, 3, groups=2),
        nn.Flatten(),
        nn.Linear(24, 5),
    )


def test_positions_and_operations_by_hand(net):
    found = cost.layer_costs(net, (3, 8, 8))
    assert {name: (layer.weights, layer.positions) for name, layer in found.items()} == {
        "0.weight": (3 * 4 * 9, 16),
        "2.weight": (2 * 6 * 9, 4),
        "4.weight": (24 * 5, 1),
    }
    assert cost.inference_flops(net, (3, 8, 8)) == 2 * (108 * 16 + 108 * 4 + 120)


def test_masks_and_sparsities_take_away_in_proportion(net):
    masks = Masks.dense(net)
    half = torch.zeros(4, 3, 3, 3, dtype=torch.bool)
    half[:2] = True
    masks = Masks({**masks, "0.weight": half})
    expected = 2 * (54 * 16 + 108 * 4 + 120)
    assert cost.inference_flops(net, (3, 8, 8), masks) == expected
    assert cost.inference_flops(net, (3, 8, 8), sparsity={"0.weight": 0.5}) == expected
    assert cost.parameters(net, masks) == cost.parameters(net) - 54
    assert cost.parameters(net) == 108 + 4 + 8 + 108 + 6 + 120 + 5


def test_training_takes_three_times_as_much_summed_over_the_masks(net):
    masks = Masks({name: torch.zeros_like(mask) for name, mask in Masks.dense(net).items()})
    dense = cost.inference_flops(net, (3, 8, 8))
    assert cost.training_flops(net, (3, 8, 8), [(10, None), (90, masks)]) == 3 * 10 * dense


def test_the_network_stays_as_it_was(net):
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    cost.layer_costs(net, (3, 8, 8))
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(module.training and not module._forward_hooks for module in net.modules())


@pytest.mark.parametrize(
    ("sparsity", "relative", "within"),
    [(0.5, 5.84 / 8.2, 0.005), (0.8, 0.42, 0.01), (0.9, 0.24, 0.01)],
)
def test_resnet50_costs_what_was_published(sparsity, relative, within):
    """Liu et al. 2021 for 50%, Evci et al. 2020 (RigL) for 80% and 90%, all with ERK."""
    model = torchvision.models.resnet50(weights=None)
    dense = cost.inference_flops(model, (3, 224, 224))
    assert dense == pytest.approx(8.2e9, rel=0.005)
    shapes = {name: tuple(p.shape) for name, p in prunable(model).items()}
    erk = allocate(shapes, sparsity, "erk")
    found = cost.inference_flops(model, (3, 224, 224), sparsity=erk)
    assert found / dense == pytest.approx(relative, abs=within)


def test_recurrent_and_attention_layers_count_their_projections():
    lstm = cost.layer_costs(nn.LSTM(5, 7, num_layers=2, batch_first=True), (4, 5))
    assert {layer.positions for layer in lstm.values()} == {4}
    assert lstm["weight_ih_l0"].weights == 4 * 7 * 5
    block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    found = cost.layer_costs(block, (3, 8))
    assert {layer.positions for layer in found.values()} == {3}
    assert found["self_attn.in_proj_weight"].flops(192) == 2 * 192 * 3


def test_a_tied_weight_counts_for_each_of_its_uses():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.second(self.first(x))

    (found,) = cost.layer_costs(Tied(), (4,)).values()
    assert (found.weights, found.positions) == (16, 2)


def test_a_weight_of_another_kind_of_layer_is_named():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.matrix = nn.Parameter(torch.ones(4, 4))

        def forward(self, x):
            return x @ self.matrix

    with pytest.raises(ValueError, match="how often matrix is used"):
        cost.layer_costs(Own(), (4,))


def test_contradictions_are_refused(net):
    with pytest.raises(ValueError, match="not both"):
        cost.inference_flops(net, (3, 8, 8), Masks.dense(net), {"0.weight": 0.5})
    with pytest.raises(ValueError, match="unknown layer 'x'"):
        cost.inference_flops(net, (3, 8, 8), sparsity={"x": 0.5})
    with pytest.raises(ValueError, match=r"sparsity of 0\.weight must lie in"):
        cost.inference_flops(net, (3, 8, 8), sparsity={"0.weight": 1.5})


class Doing(nn.Linear):
    """Does something with what a linear map gives."""

    def __init__(self, something):
        super().__init__(4, 4)
        self.something = something

    def forward(self, x):
        return self.something(super().forward(x))


@pytest.mark.parametrize(
    "look",
    [
        lambda x: x if float(x.max()) < 1e9 else -x,
        lambda x: x[x > 0],
        lambda x: x[:, (x > 0)[0]],
        torch.nonzero,
    ],
)
def test_a_network_that_looks_at_its_numbers_cannot_be_counted_and_says_so(look):
    with pytest.raises(ValueError, match=r"cannot be counted: .* depends on the numbers \(aten"):
        cost.inference_flops(nn.Sequential(Doing(look)), (4,))


@pytest.mark.parametrize(
    "something",
    [
        lambda x: x[:, torch.tensor([0, 2])],
        lambda x: x[:, torch.tensor([True, False, True, False])],
        lambda x: x.view(-1, int(torch.tensor(x.shape[1:]).prod())),
        lambda x: x[:, : int(torch.tensor(float(x.shape[1])).sqrt())],
        lambda x: x.repeat_interleave(torch.tensor([1, 2, 1, 2]), 1),
        lambda x: x[:, x.argsort(1)[0]],
    ],
)
def test_what_depends_on_shapes_and_constants_is_counted(something):
    assert cost.inference_flops(Doing(something), (4,)) == 2 * 16


def test_layers_that_are_called_by_keyword_are_counted():
    class Keywords(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.lstm = nn.LSTM(8, 8, batch_first=True)
            self.back = nn.ConvTranspose1d(8, 8, 3)

        def forward(self, x):
            x = self.attention(query=x, key=x, value=x)[0]
            x = self.lstm(input=x)[0]
            return self.back(input=x.transpose(1, 2))

    found = cost.layer_costs(Keywords(), (3, 8))
    assert {layer.positions for layer in found.values()} == {3}
    assert len(found) == 5


def test_a_weight_that_is_made_of_others_is_named():
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    with pytest.raises(ValueError, match=r"how often parametrizations\.weight\.original"):
        cost.layer_costs(normed, (4,))


def test_short_memory_is_not_taken_for_a_network_that_cannot_be_counted():
    def full(x):
        raise torch.OutOfMemoryError("full")

    with pytest.raises(torch.OutOfMemoryError):
        cost.layer_costs(Doing(full), (4,))


def test_constants_and_draws_of_a_network_are_no_hindrance_and_change_nothing():
    noisy = Doing(lambda x: x * torch.ones(4) + torch.rand(4))
    state = torch.get_rng_state()
    assert cost.inference_flops(noisy, (4,)) == 2 * 16
    assert torch.equal(torch.get_rng_state(), state)


def test_a_buffer_that_counts_calls_is_not_changed():
    class Counting(nn.Linear):
        def forward(self, x):
            self.calls += 1
            return super().forward(x)

    counting = Counting(4, 4)
    counting.register_buffer("calls", torch.zeros(()))
    cost.layer_costs(counting, (4,))
    assert counting.calls == 0


def test_double_precision_counts_alike(net):
    single = cost.layer_costs(net, (3, 8, 8))
    assert cost.layer_costs(net.double(), (3, 8, 8)) == single


def test_a_network_without_weights_to_prune_costs_nothing():
    assert cost.layer_costs(nn.Flatten(), (3, 8, 8)) == {}
