import pytest
import torch
from torch import nn

from granet_lab.sparsity.batchnorm import reestimate_

TARGETS = torch.zeros(1)


def batches(*inputs):
    return [(torch.tensor(values, dtype=torch.float32), TARGETS) for values in inputs]


ONE = batches([[1, 10], [2, 20], [6, 60]])  # means 3 and 30, unbiased variances 7 and 700
TWO = [*ONE, *batches([[5, 0], [7, 4]])]  # means 6 and 2, unbiased variances 2 and 8


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("momentum", [0.1, 0.9, None])
def test_one_batch_gives_exactly_its_mean_and_unbiased_variance(momentum):
    norm = nn.BatchNorm1d(2, momentum=momentum)
    norm(torch.randn(5, 2))  # statistics of something else
    reestimate_(norm, ONE)
    assert norm.running_mean.tolist() == [3, 30]
    assert norm.running_var.tolist() == pytest.approx([7, 700])


@pytest.mark.parametrize("momentum", [0.1, None])
def test_several_batches_give_the_mean_of_each_ones_mean_and_variance(momentum):
    norm = nn.BatchNorm1d(2, momentum=momentum)
    norm(torch.randn(5, 2))
    reestimate_(norm, TWO)
    assert norm.running_mean.tolist() == pytest.approx([(3 + 6) / 2, (30 + 2) / 2])
    assert norm.running_var.tolist() == pytest.approx([(7 + 2) / 2, (700 + 8) / 2])


def test_batches_may_come_from_an_iterator():
    norm, other = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    reestimate_(norm, TWO)
    reestimate_(other, iter(TWO))
    assert same(state(norm), state(other))


def test_images_are_measured_over_examples_and_pixels():
    norm = nn.BatchNorm2d(1)
    reestimate_(norm, [(torch.tensor([[[[1.0, 2], [3, 4]]], [[[5, 6], [7, 8]]]]), TARGETS)])
    assert norm.running_mean.tolist() == pytest.approx([4.5])
    assert norm.running_var.tolist() == pytest.approx([6])  # 42 / 7


def test_a_later_layer_is_measured_on_what_normalised_batches_give():
    # The first puts out -a, 0, a with a^2 = 1.5 (the biased variance is 1); times 2 plus 1.
    first, linear, second = nn.BatchNorm1d(1, eps=1e-12), nn.Linear(1, 1), nn.BatchNorm1d(1)
    nn.init.constant_(linear.weight, 2)
    nn.init.constant_(linear.bias, 1)
    reestimate_(nn.Sequential(first, linear, second), batches([[1], [2], [3]]))
    assert (first.running_mean.item(), first.running_var.item()) == pytest.approx((2, 1))
    assert (second.running_mean.item(), second.running_var.item()) == pytest.approx((1, 4 * 1.5))


def test_dropout_has_no_effect_and_draws_no_random_numbers():
    norm = nn.BatchNorm1d(2)
    model = nn.Sequential(nn.Dropout(0.9), norm)
    model.train()
    before = torch.random.get_rng_state()
    reestimate_(model, ONE)
    assert norm.running_mean.tolist() == [3, 30]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("modes", [(True, True, True), (False,) * 3, (True, False, True)])
def test_every_module_is_left_in_the_mode_it_was_found_in(modes):
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(2), nn.BatchNorm1d(2))
    for module, training in zip(model, modes, strict=True):
        module.training = training
    reestimate_(model, TWO)
    assert model.training
    assert tuple(module.training for module in model) == modes
    assert model[1].running_mean.tolist() == pytest.approx([4.5, 16])  # also if it was frozen


@pytest.mark.parametrize("momentum", [0.1, 0.37, None])
def test_momentum_is_left_as_it_was_found(momentum):
    norm = nn.BatchNorm1d(2, momentum=momentum)
    reestimate_(norm, TWO)
    assert norm.momentum == momentum


def test_all_but_means_and_variances_stays():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.ReLU(), nn.Linear(2, 1))
    for _ in range(3):
        model(torch.randn(4, 2))
    before = state(model)
    parameters = dict(model.named_parameters())
    reestimate_(model, TWO)
    after = state(model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"1.running_mean", "1.running_var"}
    assert after["1.num_batches_tracked"] == 3
    assert all(parameter is parameters[n] for n, parameter in model.named_parameters())
    assert all(parameter.grad is None for parameter in parameters.values())


def test_measuring_twice_gives_the_same():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    reestimate_(model, TWO)
    once = state(model)
    reestimate_(model, TWO)
    assert same(state(model), once)


def test_a_network_without_batchnorm_is_not_run():
    def never():
        raise AssertionError("batches were asked for")
        yield

    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    before = state(model)
    reestimate_(model, never())
    reestimate_(model, [])
    assert same(state(model), before)


def test_batchnorm_without_running_statistics_stays_without():
    norm = nn.BatchNorm1d(2, track_running_stats=False)
    reestimate_(norm, TWO)
    assert norm.running_mean is None
    model = nn.Sequential(norm, nn.BatchNorm1d(2))
    reestimate_(model, ONE)
    assert norm.running_mean is None
    assert not torch.equal(model[1].running_var, torch.ones(2))


@pytest.mark.parametrize("none", [[], (), iter([])])
def test_no_batches_are_refused_and_the_statistics_untouched(none):
    norm = nn.BatchNorm1d(2)
    norm(torch.randn(5, 2))
    before = state(norm)
    with pytest.raises(ValueError, match="cannot be measured without batches"):
        reestimate_(norm, none)
    assert same(state(norm), before)
    assert (norm.training, norm.momentum) == (True, 0.1)


@pytest.mark.parametrize("position", [0, 1])
def test_an_error_on_the_way_leaves_modes_momentum_and_counts_as_they_were(position):
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(2), nn.BatchNorm1d(2).eval())
    model(torch.randn(4, 2))
    data = [*TWO]
    data.insert(position, (torch.zeros(3, 7), TARGETS))
    with pytest.raises(RuntimeError):
        reestimate_(model, data)
    assert [module.training for module in model.modules()] == [True, True, True, False]
    assert [norm.momentum for norm in model[1:]] == [0.1, 0.1]
    assert [int(norm.num_batches_tracked) for norm in model[1:]] == [1, 0]


def test_no_graph_is_recorded_and_gradients_may_still_be_taken():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    reestimate_(model, TWO)
    assert not model[1].running_mean.requires_grad
    model(TWO[0][0]).sum().backward()
    assert model[0].weight.grad is not None


def test_an_error_on_the_way_leaves_the_statistics_as_they_were():
    net = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2))
    net(torch.randn(7, 2))
    before = state(net)
    single = [(torch.ones(1, 2), TARGETS)]  # has no variance: BatchNorm refuses it
    with pytest.raises(ValueError, match="more than 1 value"):
        reestimate_(net, [*ONE, *single])
    assert same(state(net), before)


def test_a_layer_that_is_not_called_keeps_its_statistics():
    class Detour(nn.Sequential):
        def forward(self, inputs):
            return self[0](inputs)

    net = Detour(nn.BatchNorm1d(2), nn.BatchNorm1d(2))
    net[1](torch.randn(7, 2))
    before = state(net[1])
    reestimate_(net, ONE)
    assert same(state(net[1]), before)
    assert net[0].running_mean.tolist() == [3, 30]
