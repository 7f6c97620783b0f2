import copy
from functools import cache

import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune
from torchvision.models import resnet18

from granet_lab.sparsity import Context, Masks, Pruning, prunable, prune, prune_to
from granet_lab.sparsity.exchange import (
    from_torch,
    plain_state_dict,
    to_semi_structured_,
    to_torch_,
    unwrap_,
)


def make_resnet():
    return resnet18(num_classes=4)


def make_lstm():
    return nn.LSTM(3, 5, num_layers=2, batch_first=True)


def make_transformer():
    return nn.TransformerEncoderLayer(8, 2, dim_feedforward=12, batch_first=True)


def make_tied():
    net = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    net[2].weight = net[0].weight
    return net


INPUTS = {make_resnet: (2, 3, 32, 32), make_lstm: (2, 4, 3), make_transformer: (2, 4, 8)}
networks = pytest.mark.parametrize("make", INPUTS, ids=lambda make: make.__name__)


def outputs(make, model, grad=True):
    """In evaluation mode; without gradients the transformer takes another path, the fast one."""
    torch.manual_seed(1)
    inputs = torch.randn(INPUTS[make])
    with torch.set_grad_enabled(grad):
        found = model.eval()(inputs)
    return found if isinstance(found, torch.Tensor) else found[0]


@cache
def made(make, seed):
    torch.manual_seed(seed)
    return make()


def seeded(make, seed=0):
    return copy.deepcopy(made(make, seed))


def half(model):
    """Masks by chance."""
    generator = torch.Generator().manual_seed(0)
    found = {n: torch.rand(p.shape, generator=generator) < 0.5 for n, p in prunable(model).items()}
    return Masks(found)


def pruned_by_torch(make):
    """A network that torch has pruned, its large layers left out, and one with zeros instead."""
    model, plain = seeded(make), seeded(make)
    for name, weight in prunable(plain).items():
        if weight.numel() > 100_000:
            continue
        path, _, own = name.rpartition(".")
        torch_prune.l1_unstructured(model.get_submodule(path), own, amount=0.3)
        mask = getattr(model.get_submodule(path), f"{own}_mask")
        plain.get_parameter(name).data.mul_(mask)
    return model, plain


def is_plain(model):
    names = [*dict(model.named_parameters()), *dict(model.named_buffers())]
    hooks = [hook for module in model.modules() for hook in module._forward_pre_hooks.values()]
    return not any(n.endswith(("_orig", "_mask")) for n in names) and not hooks


@networks
def test_torchs_masks_are_found_under_the_plain_names(make):
    model, plain = pruned_by_torch(make)
    masks = from_torch(model)
    assert set(masks) == set(prunable(plain))
    for name, weight in prunable(plain).items():
        assert torch.equal(masks[name], weight != 0)
        assert masks[name].dtype == torch.bool
    assert masks.check(plain) == masks


def test_layers_that_torch_has_not_pruned_are_dense():
    model = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 2))
    torch_prune.random_unstructured(model[0], "weight", amount=3)
    masks = from_torch(model)
    assert masks.counts() == {"0.weight": 5, "1.weight": 4}
    assert from_torch(nn.Linear(2, 3)) == Masks.dense(nn.Linear(2, 3))


def test_prunings_of_torch_one_after_the_other_make_one_mask():
    model = nn.Linear(4, 2)
    model.weight.data = torch.tensor([[1.0, 2, 3, 4], [8, 7, 6, 5]])
    torch_prune.l1_unstructured(model, "weight", amount=2)
    torch_prune.ln_structured(model, "weight", amount=1, n=1, dim=0)
    assert from_torch(model)["weight"].int().tolist() == [[0, 0, 0, 0], [1, 1, 1, 1]]


@networks
def test_unwrapping_makes_torchs_pruning_permanent(make):
    model, plain = pruned_by_torch(make)
    expected, found = outputs(make, model), from_torch(model)
    masks = unwrap_(model)
    assert masks == found
    assert is_plain(model)
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(outputs(make, model), expected)
    assert torch.equal(outputs(make, plain), expected)
    assert list(masks) == list(prunable(model))


def test_the_masks_of_an_unwrapped_network_are_in_the_order_of_its_parameters():
    model = nn.LSTM(3, 5)
    torch_prune.l1_unstructured(model, "weight_ih_l0", amount=7)
    assert list(unwrap_(model)) == list(prunable(model))


def test_a_network_that_is_not_pruned_is_unwrapped_as_it_is():
    model = seeded(make_lstm)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert unwrap_(model) == Masks.dense(model)
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)


@networks
@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no grad"])
def test_torchs_pruning_by_masks_gives_the_same_outputs(make, grad):
    model = seeded(make)
    masks = half(model)
    wrapped = seeded(make)
    to_torch_(wrapped, masks)
    masks.apply_(model)
    assert torch.equal(outputs(make, wrapped, grad), outputs(make, model, grad))
    assert not is_plain(wrapped)


@networks
def test_masks_come_back_from_torch_as_they_went(make):
    model = seeded(make)
    masks = half(model)
    to_torch_(model, masks)
    assert from_torch(model) == masks
    assert unwrap_(model) == masks
    assert is_plain(model)
    assert all(not weight[~masks[name]].any() for name, weight in prunable(model).items())


def test_to_torch_leaves_the_weights_themselves_and_dense_layers_alone():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    weight = model[0].weight.detach().clone()
    dense = model[1].weight
    masks = Masks({"0.weight": torch.eye(2).bool(), "1.weight": torch.ones(2, 2).bool()})
    to_torch_(model, masks)
    assert list(model.state_dict()) == ["0.weight_orig", "0.weight_mask", "1.weight"]
    assert torch.equal(model[0].weight_orig, weight)
    assert model[1].weight is dense
    assert torch.equal(model[0].weight, weight * torch.eye(2))


def test_to_torch_takes_a_parameter_of_the_network_itself():
    model = nn.Linear(3, 2)
    masks = half(model)
    to_torch_(model, masks)
    assert from_torch(model) == masks


def test_to_torch_refuses_masks_that_do_not_fit():
    with pytest.raises(ValueError, match=r"masks do not fit the model: 0\.weight is missing"):
        to_torch_(nn.Sequential(nn.Linear(2, 2)), Masks.dense(nn.Linear(2, 2)))


@networks
def test_a_plain_state_dict_of_torchs_pruning_loads_into_a_network_that_never_was(make):
    model, _ = pruned_by_torch(make)
    fresh = seeded(make, seed=7)
    fresh.load_state_dict(plain_state_dict(model), strict=True)
    assert torch.equal(outputs(make, fresh), outputs(make, model))
    assert not is_plain(model)


@networks
def test_a_plain_state_dict_of_masks_loads_into_a_network_that_never_was(make):
    model = seeded(make)
    masks = half(model)
    state = plain_state_dict(model, masks)
    fresh = seeded(make, seed=7)
    fresh.load_state_dict(state, strict=True)
    assert all(model.get_parameter(name)[~mask].any() for name, mask in masks.items())  # untouched
    masks.apply_(model)
    assert torch.equal(outputs(make, fresh), outputs(make, model))
    assert list(state) == list(model.state_dict())


def test_a_plain_state_dict_is_a_copy():
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    for tensor in plain_state_dict(model).values():
        tensor.zero_()
        assert not tensor.requires_grad
    assert torch.equal(model.weight, before)


def test_without_masks_the_zeros_are_those_of_the_weights():
    model = nn.Linear(2, 2)
    found = plain_state_dict(model)
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())


def test_a_plain_state_dict_undoes_torchs_pruning_of_a_bias():
    model = nn.Linear(2, 3)
    torch_prune.random_unstructured(model, "bias", amount=2)
    state = plain_state_dict(model)
    assert state.keys() == {"weight", "bias"}
    assert torch.equal(state["bias"], model.bias)


def test_a_plain_state_dict_refuses_masks_that_do_not_fit():
    with pytest.raises(ValueError, match=r"masks do not fit the model: 0\.weight is missing"):
        plain_state_dict(nn.Sequential(nn.Linear(2, 2)), Masks.dense(nn.Linear(2, 2)))


@pytest.mark.parametrize("verb", [from_torch, unwrap_])
def test_biases_that_torch_has_pruned_are_refused_by_name(verb):
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    torch_prune.random_unstructured(model[0], "weight", amount=2)
    torch_prune.random_unstructured(model[1], "bias", amount=1)
    with pytest.raises(ValueError, match=r"1\.bias is pruned, but has only one dimension"):
        verb(model)
    assert hasattr(model[0], "weight_orig")  # nothing is unwrapped


def test_tied_weights_are_refused_by_torchs_pruning_under_both_names():
    model = seeded(make_tied)
    with pytest.raises(ValueError, match=r"cannot prune 0\.weight: it is shared with 2\.weight"):
        to_torch_(model, half(model))
    assert is_plain(model)


def test_if_a_weight_is_shared_no_other_is_pruned():
    model = nn.Sequential(nn.Linear(3, 3), *make_tied())
    with pytest.raises(ValueError, match=r"1\.weight: it is shared with 3\.weight"):
        to_torch_(model, half(model))
    assert is_plain(model)


def test_tied_weights_that_are_dense_do_not_matter_to_torchs_pruning():
    model = nn.Sequential(nn.Linear(3, 3), *make_tied())
    masks = prune(Context(model), Pruning(rate=0.5, layers="first"))
    to_torch_(model, masks)
    assert from_torch(model) == masks


def test_tied_weights_are_zero_under_both_names_in_a_plain_state_dict():
    model = seeded(make_tied)
    masks = half(model)
    state = plain_state_dict(model, masks)
    expected = model[0].weight * masks["0.weight"]
    assert torch.equal(state["0.weight"], expected)
    assert torch.equal(state["2.weight"], expected)
    fresh = make_tied()
    fresh.load_state_dict(state, strict=True)
    masks.apply_(model)
    x = torch.randn(5, 3)
    assert torch.equal(fresh(x), model(x))


def test_a_layer_that_is_called_twice_has_plain_names_in_both_places():
    layer = nn.Linear(3, 3)
    model = nn.Sequential(layer, nn.Tanh(), layer)
    torch_prune.l1_unstructured(layer, "weight", amount=4)
    state = plain_state_dict(model)
    assert state.keys() == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert torch.equal(state["2.weight"], layer.weight)


def two_of_four(model):
    masks = prune_to(Context(model), 0.5, scope="uniform", granularity="2:4")
    masks.apply_(model)
    return model


def test_kernels_for_two_of_four_need_a_gpu_and_say_so():
    model = two_of_four(nn.Sequential(nn.Linear(64, 64)))
    before = model[0].weight
    with pytest.raises(ValueError, match=r"need a GPU of compute capability 8\.0, not cpu"):
        to_semi_structured_(model)
    assert model[0].weight is before


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Linear(64, 64),
        lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()),
        lambda: two_of_four(nn.Sequential(nn.Conv2d(4, 4, 1))),  # no linear layer
        lambda: nn.LayerNorm(4),
    ],
)
def test_kernels_for_two_of_four_need_such_weights(make):
    with pytest.raises(ValueError, match="no linear layer is 2:4 sparse: prune with granularity="):
        to_semi_structured_(make())


def test_a_single_group_of_three_is_not_two_of_four():
    model = two_of_four(nn.Linear(64, 64))
    with torch.no_grad():
        model.weight[5, 8:12] = torch.tensor([1.0, 2.0, 0.0, 3.0])
    with pytest.raises(ValueError, match="no linear layer is 2:4 sparse"):
        to_semi_structured_(model)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_layers_with_two_of_four_weights_are_converted_and_compute_the_same():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 128), nn.Linear(128, 64))
    two_of_four(model[:3])
    model = model.half().cuda().eval()
    x = torch.randn(64, 128, device="cuda", dtype=torch.float16)
    with torch.no_grad():
        expected = model(x)
        assert to_semi_structured_(model) == ["0.weight", "2.weight"]
        torch.testing.assert_close(model(x), expected, rtol=1e-2, atol=1e-2)


def test_one_use_of_a_shared_weight_pruned_by_torch_is_refused():
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    torch_prune.l1_unstructured(tied[0], "weight", 0.5)
    for verb in (from_torch, unwrap_):
        with pytest.raises(ValueError, match="weight is pruned, but shared with"):
            verb(tied)


def test_a_layer_that_is_called_twice_is_unwrapped_once():
    layer = nn.Linear(3, 3)
    net = nn.Sequential(layer, nn.Tanh(), layer)
    torch_prune.l1_unstructured(layer, "weight", 4)
    masks = unwrap_(net)
    assert is_plain(net)
    assert masks.counts() == {"0.weight": 5}
    assert torch.equal(masks["0.weight"], layer.weight != 0)
