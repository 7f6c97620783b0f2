import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from granet_lab.sparsity import Masks, prunable
from granet_lab.training.sgd import SGD


@pytest.fixture
def net():
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)
    )


def tied():
    net = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    net[2].weight = net[0].weight
    return net


def two_layers():
    """Of 6 weights 4 are active, of 4 none."""
    first = torch.tensor([[True, False, True], [True, True, False]])
    return Masks({"first": first, "second": torch.zeros(2, 2, dtype=torch.bool)})


def half(net):
    """Every other weight of each layer."""
    flags = {n: torch.arange(p.numel()).reshape(p.shape) % 2 == 0 for n, p in prunable(net).items()}
    return Masks(flags)


def test_prunable_are_weights_of_two_or_more_dimensions(net):
    assert list(prunable(net)) == ["0.weight", "4.weight"]


def test_a_tied_weight_is_prunable_once():
    assert list(prunable(tied())) == ["0.weight"]
    assert Masks.dense(tied()).total == 9


def test_dense_masks_are_all_ones_and_fit(net):
    masks = Masks.dense(net)
    assert masks.sparsity == 0
    assert masks.check(net) is not None
    assert all(mask.all() for mask in masks.values())


@pytest.mark.parametrize(
    "mask", [torch.ones(2, 2), torch.ones(2, 2, dtype=torch.uint8), np.ones((2, 2), bool), [True]]
)
def test_a_mask_that_is_no_boolean_tensor_is_refused_by_name(mask):
    with pytest.raises(ValueError, match="mask of head must be a boolean tensor"):
        Masks({"head": mask})


def test_no_masks_at_all_are_refused():
    with pytest.raises(ValueError, match="no masks"):
        Masks({})


def test_a_network_without_prunable_weights_is_refused():
    with pytest.raises(ValueError, match="no parameter of two or more dimensions"):
        Masks.dense(nn.BatchNorm1d(3))


def test_a_missing_mask_is_named(net):
    with pytest.raises(ValueError, match=r"4\.weight is missing from the masks"):
        Masks({"0.weight": Masks.dense(net)["0.weight"]}).check(net)


def test_a_mask_too_many_is_named(net):
    with pytest.raises(ValueError, match=r"9\.weight is missing from the model"):
        Masks({**Masks.dense(net), "9.weight": torch.ones(1, 1, dtype=torch.bool)}).check(net)


def test_a_mask_of_the_wrong_shape_is_named_with_both_shapes(net):
    wrong = {**Masks.dense(net), "4.weight": torch.ones(8, 2, dtype=torch.bool)}
    with pytest.raises(ValueError, match=r"4\.weight has shape \(8, 2\), its parameter \(2, 8\)"):
        Masks(wrong).check(net)


def test_masks_cannot_be_assigned_to():
    masks = two_layers()
    with pytest.raises(TypeError):
        masks["first"] = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(TypeError):
        del masks["first"]


def test_masks_do_not_follow_the_dict_that_they_were_made_from():
    made_from = {"first": torch.ones(2, 3, dtype=torch.bool)}
    masks = Masks(made_from)
    made_from["second"] = torch.ones(2, 3)
    assert list(masks) == ["first"]


def test_counts_are_those_by_hand():
    masks = two_layers()
    assert masks.counts() == {"first": 4, "second": 0}
    assert masks.sizes() == {"first": 6, "second": 4}
    assert (masks.active, masks.total) == (4, 10)
    assert masks.sparsity == pytest.approx(0.6)
    assert masks.empty_layers() == ["second"]


def test_masks_are_equal_if_all_their_flags_are():
    other = {name: mask.clone() for name, mask in two_layers().items()}
    assert two_layers() == Masks(other)
    other["first"][0, 1] = True
    assert two_layers() != Masks(other)
    assert two_layers() != Masks({"first": two_layers()["first"]})


def test_apply_zeroes_the_inactive_weights_and_no_others(net):
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    masks = half(net)
    masks.apply_(net)
    for name, parameter in net.named_parameters():
        flags = masks.get(name, torch.tensor(True))
        assert torch.equal(parameter, torch.where(flags, before[name], 0.0))


def test_apply_zeroes_what_is_not_finite(net):
    nn.init.constant_(net[4].weight, math.nan)
    half(net).apply_(net)
    assert (net[4].weight[:, 1::2] == 0).all()


def test_apply_with_masks_of_another_network_is_refused_and_changes_nothing(net):
    before = net[0].weight.detach().clone()
    masks = Masks({**half(net), "4.weight": torch.zeros(1, 1, dtype=torch.bool)})
    with pytest.raises(ValueError, match=r"4\.weight"):
        masks.apply_(net)
    assert torch.equal(net[0].weight, before)


def one_step(net, optimizer, **arguments):
    net(torch.ones(3, 1, 4, 4) * torch.arange(1.0, 4).reshape(3, 1, 1, 1)).square().sum().backward()
    optimizer.step(**arguments)


def stepped(kind, net):
    if kind == "project":
        optimizer = SGD(net.parameters(), momentum=0.9)
        one_step(net, optimizer, lr=0.1)
    elif kind == "torch.SGD":
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        one_step(net, optimizer)
    else:
        optimizer = torch.optim.Adam(net.parameters(), amsgrad=True)
        one_step(net, optimizer)
    return optimizer


@pytest.mark.parametrize("kind", ["project", "torch.SGD", "torch.Adam"])
def test_apply_zeroes_the_momentum_of_inactive_weights_and_no_other(net, kind):
    optimizer = stepped(kind, net)
    before = {
        name: {key: value.clone() for key, value in optimizer.state[p].items()}
        for name, p in net.named_parameters()
    }
    assert any(value[~half(net)["4.weight"]].any() for value in _shaped(before["4.weight"], (2, 8)))
    masks = half(net)
    masks.apply_(net, optimizer)
    for name, parameter in net.named_parameters():
        for key, value in optimizer.state[parameter].items():
            old = before[name][key]
            flags = masks[name] if name in masks and value.shape == parameter.shape else True
            assert torch.equal(value, torch.where(torch.as_tensor(flags), old, 0.0)), (name, key)


def _shaped(state, shape):
    return [value for value in state.values() if value.shape == shape]


@pytest.mark.parametrize("kind", [SGD, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)])
def test_apply_takes_an_optimizer_that_has_not_stepped(net, kind):
    half(net).apply_(net, kind(net.parameters()))
    assert (net[4].weight[:, 1::2] == 0).all()


def test_apply_zeroes_a_tied_weight_wherever_it_is_used():
    net = tied()
    Masks({"0.weight": torch.eye(3, dtype=torch.bool)}).apply_(net)
    assert net[2].weight.count_nonzero() == 3


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_masks_survive_a_file(tmp_path, layout):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)).to(memory_format=layout)
    masks = half(net)
    masks.save(tmp_path / "masks.safetensors")
    assert Masks.load(tmp_path / "masks.safetensors") == masks


def test_masks_that_share_one_tensor_survive_a_file(tmp_path):
    flags = torch.tensor([[True, False]])
    Masks({"a": flags, "b": flags}).save(tmp_path / "masks.safetensors")
    assert Masks.load(tmp_path / "masks.safetensors")["b"].tolist() == [[True, False]]


def test_a_file_that_holds_no_masks_is_refused(tmp_path):
    save_file({"weight": torch.ones(2, 2)}, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="mask of weight must be a boolean tensor"):
        Masks.load(tmp_path / "weights.safetensors")


def test_the_masks_of_a_network_of_zeros_are_found(net):
    pruned = Masks({n: torch.rand(m.shape) < 0.5 for n, m in Masks.dense(net).items()})
    pruned.apply_(net)
    assert Masks.nonzero(net) == pruned
