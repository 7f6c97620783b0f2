import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune as torch_prune

from granet_lab.sparsity import Context, Masks, Pruning, prunable, prune, regenerate
from granet_lab.sparsity.criteria import CRITERIA
from granet_lab.sparsity.exchange import unwrap_
from granet_lab.sparsity.regrowths import REGROWTHS

SCORERS = {
    **{f"criterion {name}": CRITERIA[name] for name in CRITERIA},
    **{f"regrowth {name}": REGROWTHS[name] for name in REGROWTHS},
}


def full_net():
    """A network with all that scoring must not disturb."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(48, 3),
    )


def images(n, seed=1):
    drawn = torch.Generator().manual_seed(seed)
    return torch.randn(n, 1, 4, 4, generator=drawn), torch.randint(3, (n,), generator=drawn)


def half_masks(net):
    return Masks(
        {n: torch.arange(p.numel()).reshape(p.shape) % 2 == 0 for n, p in prunable(net).items()}
    )


@pytest.fixture
def context():
    net = full_net()
    masks = half_masks(net)
    masks.apply_(net)
    net.train()
    net[3].eval()
    return Context(
        net,
        masks,
        batches=[images(4), images(2, seed=2)],
        generator=torch.Generator().manual_seed(5),
    )


def numpys_state():
    _, key, *place = np.random.get_state()  # noqa: NPY002
    return [*key.tolist(), *place]


def perform(context, operation, name):
    if operation == "score":
        return SCORERS[name](context)
    if operation == "prune":
        return prune(context, Pruning(rate=0.5, criterion=name))
    after = prune(context, Pruning(rate=0.5))
    return regenerate(context, context.masks, after, name)


OPERATIONS = [
    *(("score", name) for name in SCORERS),
    *(("prune", name) for name in CRITERIA),
    *(("regenerate", name) for name in REGROWTHS),
]
STATE = {
    "weights and buffers": lambda c: {n: t.clone() for n, t in c.model.state_dict().items()},
    "gradients": lambda c: {
        n: None if p.grad is None else p.grad.clone() for n, p in c.model.named_parameters()
    },
    "what requires a gradient": lambda c: [p.requires_grad for p in c.model.parameters()],
    "modes": lambda c: [module.training for module in c.model.modules()],
    "masks": lambda c: {n: mask.clone() for n, mask in c.masks.items()},
    "torch's generator": lambda c: torch.get_rng_state(),
    "Python's generator": lambda c: torch.tensor(random.getstate()[1]),
    "NumPy's generator": lambda c: torch.tensor(numpys_state()),
    "the context's generator": lambda c: c.generator.get_state(),
}


@pytest.mark.parametrize("facet", STATE)
@pytest.mark.parametrize(("operation", "name"), OPERATIONS)
def test_an_operation_leaves_untouched(context, operation, name, facet):
    context.model[5].weight.grad = torch.ones(3, 48)
    context.model[0].bias.requires_grad_(False)
    before = STATE[facet](context)
    perform(context, operation, name)
    torch.testing.assert_close(STATE[facet](context), before, rtol=0, atol=0)


@pytest.mark.parametrize("name", SCORERS)
def test_the_same_context_gives_the_same_scores_whatever_was_drawn_between(context, name):
    first = SCORERS[name](context)
    torch.rand(5), random.random(), np.random.rand()  # noqa: NPY002
    again = SCORERS[name](context)
    assert all(torch.equal(first[n], again[n]) for n in first)


@pytest.mark.parametrize("name", SCORERS)
def test_scores_do_not_depend_on_the_mode(context, name):
    training = SCORERS[name](context)
    context.model.eval()
    evaluating = SCORERS[name](context)
    assert all(torch.equal(training[n], evaluating[n]) for n in training)


def test_an_error_in_the_loss_leaves_modes_and_generator_as_they_were(context):
    def broken(outputs, targets):
        raise ArithmeticError

    context.loss_fn = broken
    modes = STATE["modes"](context)
    drawn = torch.get_rng_state()
    with pytest.raises(ArithmeticError):
        context.gradients()
    assert STATE["modes"](context) == modes
    assert torch.equal(torch.get_rng_state(), drawn)


def test_without_masks_every_weight_is_active():
    net = full_net()
    assert Context(net).masks == Masks.dense(net)


def test_masks_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"5\.weight is missing from the masks"):
        Context(full_net(), Masks({"0.weight": torch.ones(3, 1, 3, 3, dtype=torch.bool)}))


def test_weights_are_those_of_the_model_and_detached():
    net = full_net()
    weights = Context(net).weights()
    assert list(weights) == ["0.weight", "5.weight"]
    assert torch.equal(weights["5.weight"], net[5].weight)
    assert not any(weight.requires_grad for weight in weights.values())


def test_gradients_without_batches_are_refused_in_words():
    with pytest.raises(ValueError, match="gradients need data"):
        Context(full_net()).gradients()


def test_gradients_are_those_by_hand():
    # y = 3 * 2 * x, L = y squared: dL/dw1 = 2 y 3 x, dL/dw2 = 2 y 2 x; at x = 1.
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    nn.init.constant_(net[0].weight, 2)
    nn.init.constant_(net[1].weight, 3)
    found = Context(
        net,
        batches=[(torch.ones(1, 1), torch.zeros(1))],
        loss_fn=lambda outputs, targets: outputs.square().mean(),
    ).gradients()
    assert {name: g.item() for name, g in found.items()} == {"0.weight": 36, "1.weight": 24}


def plain_net():
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def test_gradients_of_unequal_batches_are_those_of_all_their_images_together():
    net = plain_net()
    batches = [(x.double(), y) for x, y in (images(3, 1), images(1, 2), images(5, 3))]
    found = Context(net, batches=batches).gradients()
    inputs, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    F.cross_entropy(net(inputs), targets).backward()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, net.get_parameter(name).grad, rtol=1e-12, atol=1e-14)


def test_gradients_reach_inactive_weights():
    net = plain_net()
    masks = half_masks(net)
    masks.apply_(net)
    inputs, targets = images(6)
    found = Context(net, masks, batches=[(inputs.double(), targets)]).gradients()
    assert all(found[name][~mask].ne(0).all() for name, mask in masks.items())


def test_gradients_use_the_loss_of_the_context():
    net, (inputs, targets) = plain_net(), images(4)
    batches = [(inputs.double(), targets)]
    once = Context(net, batches=batches).gradients()
    context = Context(net, batches=batches, loss_fn=lambda o, t: 3 * F.cross_entropy(o, t))
    torch.testing.assert_close(
        context.gradients(), {name: 3 * gradient for name, gradient in once.items()}
    )


def test_gradients_take_batchnorm_with_the_statistics_of_the_batch():
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.BatchNorm1d(3)).double()
    inputs, targets = images(6)
    found = Context(net.eval(), batches=[(inputs.double(), targets)]).gradients()
    F.cross_entropy(net.train()(inputs.double()), targets).backward()
    torch.testing.assert_close(found["1.weight"], net[1].weight.grad)


def test_gradients_can_be_had_where_torch_records_none():
    context = Context(full_net(), batches=[images(4)])
    expected = context.gradients()
    with torch.no_grad():
        found = context.gradients()
    assert torch.equal(found["5.weight"], expected["5.weight"])


def test_gradients_of_frozen_weights_are_had_too():
    net = plain_net().requires_grad_(False)
    inputs, targets = images(4)
    assert Context(net, batches=[(inputs.double(), targets)]).gradients()["1.weight"].any()


def test_a_weight_that_the_loss_does_not_reach_has_gradient_zero():
    class Detour(nn.Sequential):
        def forward(self, inputs):
            return self[0](inputs)

    net = Detour(nn.Linear(2, 3), nn.Linear(7, 7))
    found = Context(net, batches=[(torch.ones(2, 2), torch.tensor([0, 1]))]).gradients()
    assert torch.equal(found["1.weight"], torch.zeros(7, 7))


def test_the_gradient_of_a_tied_weight_sums_over_its_uses():
    # y = w w x, L = y: dL/dw = 2 w x.
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    nn.init.constant_(net[0].weight, 5)
    net[1].weight = net[0].weight
    batches = [(torch.ones(1, 1), torch.zeros(1))]
    found = Context(net, batches=batches, loss_fn=lambda o, t: o.mean()).gradients()
    assert {name: g.item() for name, g in found.items()} == {"0.weight": 10}


def test_batches_from_an_iterator_give_the_gradients_of_their_list():
    net = full_net()
    expected = Context(net, batches=[images(4)]).gradients()
    found = Context(net, batches=iter([images(4)])).gradients()
    assert torch.equal(found["5.weight"], expected["5.weight"])


@pytest.mark.parametrize("recurrent", [False, True])
def test_recurrent_layers_are_run_without_cudnn_which_could_not_be_differentiated(recurrent):
    seen = []

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.LSTM(3, 3) if recurrent else nn.Linear(3, 3)

        def forward(self, inputs):
            seen.append(torch.backends.cudnn.enabled)
            found = self.layer(inputs)
            return found[0] if recurrent else found

    context = Context(Watched(), batches=[(torch.ones(2, 3), torch.tensor([0, 1]))])
    before = torch.backends.cudnn.enabled
    context.gradients()
    assert seen == [before and not recurrent]
    assert torch.backends.cudnn.enabled == before


def in_place(context):
    return {name: w.abs_() for name, w in context.weights().items()}


def backward(context):
    inputs, targets = context.batches[0]
    F.cross_entropy(context.model(inputs), targets).backward()
    return context.weights()


def statistics(context):
    context.model.train()(context.batches[0][0])
    return context.weights()


def evaluation(context):
    context.model.eval()
    return context.weights()


def drawing(context):
    return {name: torch.rand_like(w) for name, w in context.weights().items()}


@pytest.mark.parametrize(
    ("score", "changed"),
    [
        (in_place, "0.weight"),
        (backward, "1.num_batches_tracked"),
        (statistics, "1.num_batches_tracked"),
        (evaluation, "the mode of the network"),
        (drawing, "torch's own generator"),
    ],
)
@pytest.mark.parametrize("operation", ["prune", "regenerate"])
def test_a_score_that_leaves_traces_is_refused(context, define, operation, score, changed):
    registry = {"prune": CRITERIA, "regenerate": REGROWTHS}[operation]
    define(registry, score)
    with pytest.raises(ValueError, match=rf"'{score.__name__}' has changed ({changed})"):
        perform(context, operation, score.__name__)


def test_a_network_that_torch_has_pruned_is_refused_with_the_cure():
    net = full_net()
    torch_prune.l1_unstructured(net[5], "weight", 0.5)
    with pytest.raises(ValueError, match=r"exchange\.unwrap_\(model\), which returns its masks"):
        Context(net)
    Context(net, unwrap_(net))


@pytest.mark.parametrize("batches", [images(4), [images(4)[0]], [(1, 2, 3)]])
def test_batches_that_are_no_pairs_are_refused(batches):
    with pytest.raises(ValueError, match=r"batches must be pairs: batches=\[\(inputs, targets\)"):
        Context(full_net(), batches=batches)


def test_what_is_no_network_and_what_are_no_masks_are_refused():
    with pytest.raises(ValueError, match=r"model must be an nn.Module, not list"):
        Context([full_net()])
    with pytest.raises(ValueError, match="masks must be tensors by name, not a list"):
        Context(full_net(), [images(4)])
