import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune as torch_prune

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


def scalar_net(*weights):
    """y = ... w2 w1 x."""
    net = nn.Sequential(*[nn.Linear(1, 1, bias=False) for _ in weights]).double()
    for layer, weight in zip(net, weights, strict=True):
        nn.init.constant_(layer.weight, weight)
    return net


def numbers(*values):
    """A batch of scalar inputs."""
    return torch.tensor(values, dtype=torch.float64)[:, None], torch.zeros(len(values))


def mean_output(outputs, targets):
    return outputs.mean()


def mean_square(outputs, targets):
    return outputs.square().mean()


def scores_of(name, net, *batches, masks=None, loss_fn=F.cross_entropy):
    """As lists by layer."""
    scores = CRITERIA[name](Context(net, masks, batches=batches, loss_fn=loss_fn))
    return {layer: score.tolist() for layer, score in scores.items()}


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


@pytest.fixture
def two_layers():
    """4 -> 5 -> 3 with a ReLU, without biases; a quarter of the weights inactive and not zero."""
    torch.manual_seed(2)
    net = nn.Sequential(nn.Linear(4, 5, bias=False), nn.ReLU(), nn.Linear(5, 3, bias=False))
    net.double()
    masks = Masks(
        {n: torch.arange(w.numel()).reshape(w.shape) % 4 != 1 for n, w in net.named_parameters()}
    )
    batches = []
    for size in (5, 2):
        inputs = torch.randn(size, 4, dtype=torch.float64)
        batches.append((inputs, torch.randint(3, (size,))))
    return Context(net, masks, batches=batches)


def loss_by_hand(first, second, inputs, targets):
    outputs = (inputs @ first.T).clamp(min=0) @ second.T
    return (outputs.exp().sum(1).log() - outputs[range(len(targets)), targets]).mean()


def gradient_by_hand(weights, inputs, targets):
    leaves = [w.clone().requires_grad_() for w in weights]
    return torch.autograd.grad(loss_by_hand(*leaves, inputs, targets), leaves)


def joined(batches):
    return tuple(torch.cat(parts) for parts in zip(*batches, strict=True))


def magnitude_by_hand(weights, masks, batches):
    return [torch.maximum(w, -w) for w in weights]


def lamp_by_hand(weights, masks, batches):
    found = []
    for weight, mask in zip(weights, masks, strict=True):
        active = [v for v, on in zip(weight.flatten(), mask.flatten(), strict=True) if on]
        shares = [
            w**2 / sum(v**2 for v in active if abs(v) >= abs(w)) if on else 0
            for w, on in zip(weight.flatten(), mask.flatten(), strict=True)
        ]
        found.append(torch.tensor(shares).reshape(weight.shape))
    return found


def taylor_by_hand(weights, masks, batches):
    total = [torch.zeros_like(w) for w in weights]
    for batch in batches:
        for each, w, g in zip(total, weights, gradient_by_hand(weights, *batch), strict=True):
            each += g * g * w * w
    return [each / len(batches) for each in total]


def snip_by_hand(weights, masks, batches):
    gradients = gradient_by_hand(weights, *joined(batches))
    return [(w * g).abs() for w, g in zip(weights, gradients, strict=True)]


def grasp_by_hand(weights, masks, batches):
    """With every column of the Hessian from central differences of the gradient."""
    batch, step = joined(batches), 1e-6
    masked = [g * mask for g, mask in zip(gradient_by_hand(weights, *batch), masks, strict=True)]
    total = [torch.zeros_like(w) for w in weights]
    for layer, gradient in enumerate(masked):
        for place in itertools.product(*map(range, gradient.shape)):
            ends = []
            for sign in (1, -1):
                moved = [w.clone() for w in weights]
                moved[layer][place] += sign * step
                ends.append(gradient_by_hand(moved, *batch))
            for each, above, below in zip(total, *ends, strict=True):
                each += (above - below) / (2 * step) * gradient[place]
    return [w * product for w, product in zip(weights, total, strict=True)]


def fisher_by_hand(weights, masks, batches):
    total, (inputs, targets) = [torch.zeros_like(w) for w in weights], joined(batches)
    for i in range(len(targets)):
        found = gradient_by_hand(weights, inputs[i : i + 1], targets[i : i + 1])
        for each, w, g in zip(total, weights, found, strict=True):
            each += w * w * g * g / 2 / len(targets)
    return total


def synflow_by_hand(weights, masks, batches):
    """For every weight the sum over the paths through it of the product of their |w|."""
    first, second = (w.abs() * mask for w, mask in zip(weights, masks, strict=True))
    found = [torch.zeros_like(first), torch.zeros_like(second)]
    for i, h, o in itertools.product(range(4), range(5), range(3)):
        flow = 1.0 * first[h, i] * second[o, h]
        found[0][h, i] += flow
        found[1][o, h] += flow
    return found


BY_HAND = {
    "fisher": fisher_by_hand,
    "grasp": grasp_by_hand,
    "lamp": lamp_by_hand,
    "magnitude": magnitude_by_hand,
    "snip": snip_by_hand,
    "synflow": synflow_by_hand,
    "taylor": taylor_by_hand,
}


@pytest.mark.parametrize("name", sorted({*CRITERIA} - {"random"}))
def test_a_criterion_is_its_formula_computed_in_another_way(name, two_layers):
    weights = [two_layers.model[0].weight.detach(), two_layers.model[2].weight.detach()]
    masks = list(two_layers.masks.values())
    expected = BY_HAND[name](weights, masks, two_layers.batches)
    found = list(CRITERIA[name](two_layers).values())
    assert all(score.count_nonzero() > 8 for score in found)
    rtol = 1e-5 if name == "grasp" else 1e-11
    torch.testing.assert_close(found, expected, rtol=rtol, atol=1e-9 if name == "grasp" else 0)


def test_lamp_divides_by_the_squares_of_the_weight_and_all_larger_ones():
    net = nn.Linear(3, 1, bias=False)
    net.weight.data = torch.tensor([[-2.0, 1.0, 3.0]])
    assert scores_of("lamp", net)["weight"] == [[pytest.approx(4 / 13), pytest.approx(1 / 14), 1]]


def test_lamp_does_not_count_inactive_weights_that_are_not_zero():
    net = nn.Linear(3, 1, bias=False)
    net.weight.data = torch.tensor([[-2.0, 1.0, 3.0]])
    masks = Masks({"weight": torch.tensor([[True, True, False]])})
    assert scores_of("lamp", net, masks=masks)["weight"] == [[1, pytest.approx(1 / 5), 0]]


def test_lamp_puts_the_earlier_of_equal_weights_below_the_later():
    net = nn.Linear(4, 1, bias=False)
    net.weight.data = torch.tensor([[2.0, -2.0, 1.0, 2.0]])
    expected = [[pytest.approx(1 / 3), pytest.approx(1 / 2), pytest.approx(1 / 13), 1]]
    assert scores_of("lamp", net)["weight"] == expected


def test_lamp_looks_at_each_layer_by_itself():
    net = scalar_net(1e-9, 5, -1e9)
    assert scores_of("lamp", net) == {name: [[1]] for name in ("0.weight", "1.weight", "2.weight")}


@pytest.mark.parametrize("equal", [False, True])
def test_lamp_over_all_layers_keeps_a_weight_in_each_as_long_as_there_are_enough(equal):
    torch.manual_seed(0)
    widths = [2, 9, 1, 30, 3]
    net = nn.Sequential(*[nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(widths)])
    for i, layer in enumerate(net):
        layer.weight.data = layer.weight.sign() if equal else layer.weight * 1000.0**-i
    total = Masks.dense(net).total
    for keep in [*range(len(net), 20), 50, 100, total - 1]:
        after = prune(Context(net), Pruning(rate=1 - keep / total, criterion="lamp"))
        assert after.active == keep
        assert after.empty_layers() == []


def test_taylor_squares_each_batch_by_itself_and_counts_batches_not_examples():
    # g is 1 for the first batch and 3 for the second, w = 3: (3^2 + 9^2) / 2.
    batches = [numbers(1), numbers(2, 4)]
    assert scores_of("taylor", scalar_net(3), *batches, loss_fn=mean_output) == {"0.weight": [[45]]}


def test_taylor_does_not_let_batches_of_opposite_gradients_cancel():
    batches = [numbers(1), numbers(-1)]
    assert scores_of("taylor", scalar_net(3), *batches, loss_fn=mean_output) == {"0.weight": [[9]]}


def test_snip_is_the_size_of_gradient_times_weight_by_hand():
    # L = (ab)^2 at a = 2, b = -3: dL/da = 2ab^2 = 36, dL/db = 2a^2b = -24.
    scores = scores_of("snip", scalar_net(2, -3), numbers(1), loss_fn=mean_square)
    assert scores == {"0.weight": [[72]], "1.weight": [[72]]}


def test_snip_takes_the_gradient_of_all_batches_together():
    # g = (1 - 2 - 6) / 3 over the three examples, w = 3.
    batches = [numbers(1), numbers(-2, -6)]
    scores = scores_of("snip", scalar_net(3), *batches, loss_fn=mean_output)
    assert scores["0.weight"] == [[pytest.approx(7)]]


def test_grasp_is_the_weight_times_the_hessian_gradient_product_by_hand():
    # L = (ab)^2 at a = 2, b = 3: g = (36, 24), H = ((18, 24), (24, 8)), Hg = (1224, 1056).
    scores = scores_of("grasp", scalar_net(2, 3), numbers(1), loss_fn=mean_square)
    assert scores == {"0.weight": [[2448]], "1.weight": [[3168]]}


def test_grasp_can_be_negative():
    # L = log(ab) at a = 2, b = 4: g = (1/a, 1/b), H = -diag(1/a^2, 1/b^2), w Hg = -1/w^2.
    scores = scores_of("grasp", scalar_net(2, 4), numbers(1), loss_fn=lambda o, t: o.log().mean())
    assert scores == {"0.weight": [[-1 / 4]], "1.weight": [[-1 / 16]]}


def test_grasp_leaves_out_the_gradient_of_inactive_weights():
    # As above, but with g = (36, 0): Hg = (648, 864).
    masks = Masks({"0.weight": torch.tensor([[True]]), "1.weight": torch.tensor([[False]])})
    scores = scores_of("grasp", scalar_net(2, 3), numbers(1), masks=masks, loss_fn=mean_square)
    assert scores == {"0.weight": [[1296]], "1.weight": [[2592]]}


def test_grasp_predicts_how_the_gradient_flow_changes_when_a_weight_shrinks(two_layers):
    # Wang et al. 2020, equation 6: the change of g^T g is 2 d^T H g; here d = -w / 10^6.
    net, batch, part = two_layers.model, joined(two_layers.batches), 1e-6
    scores = CRITERIA["grasp"](Context(net, batches=[batch]))
    weights = [net[0].weight.detach(), net[2].weight.detach()]

    def flow():
        return sum((g * g).sum() for g in gradient_by_hand(weights, *batch)).item()

    whole = flow()
    for weight, score in zip(weights, scores.values(), strict=True):
        for place in itertools.product(*map(range, weight.shape)):
            kept = weight[place].item()
            weight[place] = kept * (1 - part)
            change = flow() - whole
            weight[place] = kept
            predicted = -2 * part * score[place].item()
            assert change == pytest.approx(predicted, rel=1e-3, abs=1e-12)


def test_grasp_removes_first_what_holds_the_gradient_flow_back(two_layers):
    net, batch = two_layers.model, joined(two_layers.batches)
    context = Context(net, batches=[batch])
    scores = CRITERIA["grasp"](context)
    lowest = min(score.min().item() for score in scores.values())
    after = prune(context, Pruning(rate=1 / 35, criterion="grasp"))
    removed = torch.cat([scores[name][~mask] for name, mask in after.items()])
    assert lowest < 0
    assert removed.tolist() == [lowest]


def test_fisher_is_half_the_squared_weight_times_the_mean_square_of_single_gradients():
    # L = (3x)^2: g = 2 * 3 x^2, so 6, 24 and 6 for x = 1, 2, -1; 9 / 2 * (36 + 576 + 36) / 3.
    scores = scores_of("fisher", scalar_net(3), numbers(1), numbers(2, -1), loss_fn=mean_square)
    assert scores["0.weight"] == [[pytest.approx(972)]]


def test_fisher_takes_batchnorm_and_dropout_as_in_evaluation():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Dropout(0.5)).double()
    net[1].running_mean += 0.5
    net[1].running_var *= 4
    inputs, targets = torch.randn(6, 3, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 1, 0])
    scores = CRITERIA["fisher"](Context(net.train(), batches=[(inputs, targets)]))
    weight, total = net[0].weight.detach().requires_grad_(), 0
    for x, y in zip(inputs, targets, strict=True):
        hidden = (weight @ x + net[0].bias.detach() - 0.5) / (4 + net[1].eps) ** 0.5
        (g,) = torch.autograd.grad(hidden.exp().sum().log() - hidden[y], weight)
        total += g**2 / 6
    expected = weight.detach() ** 2 * total / 2
    torch.testing.assert_close(scores["0.weight"], expected, rtol=1e-11, atol=0)


def test_synflow_by_hand():
    # Paths 1 -> h -> 1 for two h: 2 * 5 and 3 * 7.
    net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    net[0].weight.data = torch.tensor([[-2.0], [3.0]])
    net[2].weight.data = torch.tensor([[5.0, -7.0]])
    scores = scores_of("synflow", net, (torch.zeros(4, 1), torch.zeros(4)))
    assert scores == {"0.weight": [[10], [21]], "2.weight": [[10, 21]]}


def test_synflow_on_three_layers_is_the_sum_over_all_paths():
    torch.manual_seed(0)
    widths = [3, 4, 2, 3]
    layers = [nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(widths)]
    net = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2]).double()
    expected = [torch.zeros_like(layer.weight) for layer in layers]
    for path in itertools.product(*map(range, widths)):
        places = [(after, before) for before, after in itertools.pairwise(path)]
        flow = 1.0
        for layer, place in zip(layers, places, strict=True):
            flow *= abs(layer.weight[place].item())
        for total, place in zip(expected, places, strict=True):
            total.data[place] += flow
    found = CRITERIA["synflow"](Context(net, batches=[(torch.zeros(2, 3), torch.zeros(2))]))
    for score, total in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(score, total.detach(), rtol=1e-12, atol=0)


def test_synflow_is_conserved_from_layer_to_layer():
    # Tanaka et al. 2020, theorem 2: what goes into a layer comes out, R in all of them.
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 2, padding=1, bias=False),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5, bias=False),
    )
    scores = CRITERIA["synflow"](Context(net, batches=[(torch.zeros(2, 2, 8, 8), torch.zeros(2))]))
    with torch.no_grad():
        for parameter in net.double().parameters():
            parameter.abs_()
        flow = net(torch.ones(1, 2, 8, 8, dtype=torch.float64)).sum().item()
    assert [score.sum().item() for score in scores.values()] == [pytest.approx(flow, rel=1e-12)] * 3


RATES = [0, 0.1, 0.25, 0.5, 0.77, 0.9, 0.99, 1]


@pytest.fixture
def conv_and_linear():
    """18, 72 and 80 weights."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 4, 3), nn.Flatten())
    return net.append(nn.Linear(16, 5))


@pytest.mark.filterwarnings("ignore:pruning left no weight")
@pytest.mark.parametrize("rate", RATES)
def test_magnitude_over_all_layers_gives_the_masks_of_torchs_pruning(conv_and_linear, rate):
    net = conv_and_linear
    after = prune(Context(net), Pruning(rate=rate))
    modules = [(net[0], "weight"), (net[2], "weight"), (net[4], "weight")]
    torch_prune.global_unstructured(
        modules, pruning_method=torch_prune.L1Unstructured, amount=float(rate)
    )
    for (module, _), mask in zip(modules, after.values(), strict=True):
        assert torch.equal(mask, module.weight_mask.bool())


@pytest.mark.filterwarnings("ignore:pruning left no weight")
@pytest.mark.parametrize("rate", RATES)
def test_magnitude_in_one_layer_gives_the_mask_of_torchs_pruning(conv_and_linear, rate):
    net = conv_and_linear
    for place in (0, 2, 4):
        name = f"{place}.weight"
        after = prune(Context(net), Pruning(rate=rate, layers=name))[name]
        pruned = torch_prune.l1_unstructured(net[place], "weight", amount=float(rate))
        assert torch.equal(after, pruned.weight_mask.bool())
        torch_prune.remove(pruned, "weight")


@pytest.mark.parametrize("rate", [0, 0.5])
def test_magnitude_in_each_layer_gives_the_masks_of_torchs_pruning(conv_and_linear, rate):
    after = prune(Context(conv_and_linear), Pruning(rate=rate, scope="uniform"))
    for place in (0, 2, 4):
        pruned = torch_prune.l1_unstructured(conv_and_linear[place], "weight", amount=float(rate))
        assert torch.equal(after[f"{place}.weight"], pruned.weight_mask.bool())
