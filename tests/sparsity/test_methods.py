import pytest
import torch
from torch import nn

from granet_lab.sparsity import Context, Masks, methods
from granet_lab.sparsity.allocation import SCHEMES, allocate
from granet_lab.sparsity.criteria import CRITERIA
from granet_lab.sparsity.methods import METHODS, SparseTraining


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3), nn.Flatten(), nn.Linear(16, 10))


def seen(net, seed=0):
    return Context(net, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", METHODS)
def test_a_method_starts_at_its_initial_sparsity(name, net):
    method = METHODS[name]()
    masks = method.initial_masks(seen(net))
    assert masks.check(net).total - masks.active == round(method.initial_sparsity * masks.total)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_a_value(name):
    assert METHODS[name]() == METHODS[name]()
    assert hash(METHODS[name]()) == hash(METHODS[name]())


def test_static_has_the_counts_of_erk_by_hand(net):
    # Sizes 216, 1152, 160; 153 of 1528 stay, in proportion 17 : 30 : 26 = 35.6, 62.9, 54.5.
    masks = methods.static(0.9).initial_masks(seen(net))
    assert masks.counts() == {"0.weight": 36, "1.weight": 63, "3.weight": 54}


def test_static_has_the_sparsities_of_the_allocation(net):
    masks = methods.static(0.7).initial_masks(seen(net))
    shapes = {name: tuple(mask.shape) for name, mask in masks.items()}
    found = {name: 1 - masks.counts()[name] / masks.sizes()[name] for name in masks}
    assert found == pytest.approx(allocate(shapes, 0.7, "erk"))


def test_static_draws_other_masks_for_another_seed(net):
    static = methods.static(0.9)
    assert static.initial_masks(seen(net, 1)) == static.initial_masks(seen(net, 1))
    assert static.initial_masks(seen(net, 1)) != static.initial_masks(seen(net, 2))


@pytest.mark.parametrize("scope", ["global", *SCHEMES])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_static_is_exact_for_every_criterion_and_scope(criterion, scope, net):
    context = Context(net, batches=[(torch.randn(2, 3, 5, 5), torch.tensor([0, 1]))])
    masks = methods.static(0.6, criterion, scope).initial_masks(context)
    assert masks.total - masks.active == round(0.6 * masks.total)


def test_static_by_magnitude_keeps_the_largest_weights(net):
    masks = methods.static(0.5, criterion="magnitude", scope="global").initial_masks(seen(net))
    weights = {name: net.get_parameter(name).detach().abs() for name in masks}
    kept = torch.cat([weights[n][masks[n]] for n in masks])
    dropped = torch.cat([weights[n][~masks[n]] for n in masks])
    assert kept.min() >= dropped.max()


def test_dense_masks_no_weight(net):
    assert methods.dense().initial_masks(seen(net)) == Masks.dense(net)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("scope", ["global", *SCHEMES])
def test_static_at_sparsity_0_is_dense_whatever_would_have_chosen(criterion, scope):
    assert methods.static(0, criterion, scope) == methods.dense()


def test_methods_are_called_by_their_names():
    assert methods.dense().name == "dense"
    assert methods.static(0.9).name == "static"


@pytest.mark.parametrize("epoch", [0, 1, 60])
def test_the_sparsity_of_a_static_network_is_the_same_in_every_epoch(epoch):
    assert methods.static(0.9).sparsity(epoch, 60) == 0.9
    assert methods.dense().sparsity(epoch, 60) == 0


@pytest.mark.parametrize("sparsity", [-0.1, 1.1, None])
def test_a_sparsity_outside_0_to_1_is_refused(sparsity):
    with pytest.raises(ValueError, match="sparsity"):
        methods.static(sparsity)


@pytest.mark.parametrize("sparsity", [0, 0.9])
def test_unknown_names_are_refused_and_the_valid_ones_listed(sparsity):
    with pytest.raises(ValueError, match=r"unknown criterion 'luck': choose from .*magnitude"):
        methods.static(sparsity, criterion="luck")
    with pytest.raises(ValueError, match="unknown scope 'layer': choose from global, er, erk"):
        SparseTraining(initial_sparsity=sparsity, scope="layer")
