import pytest
import torch

from granet_lab.models import MODELS, build
from granet_lab.sparsity import prunable

every_model = pytest.mark.parametrize("name", MODELS)
every_shape = pytest.mark.parametrize(
    ("shape", "classes"), [((1, 8, 8), 10), ((3, 32, 32), 7)], ids=str
)


def pictures(n=6, shape=(1, 8, 8)):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(0))


def same_weights(one, other):
    found, expected = one.state_dict(), other.state_dict()
    assert found.keys() == expected.keys()
    return all(torch.equal(found[key], expected[key]) for key in found)


@every_shape
@every_model
def test_a_model_gives_a_finite_score_for_each_image_and_class(name, shape, classes):
    scores = build(name, shape, classes, seed=0)(pictures(6, shape))
    assert scores.shape == (6, classes)
    assert scores.isfinite().all()


@every_model
def test_the_same_seed_gives_the_same_network(name):
    torch.rand(3)
    first = build(name, (1, 8, 8), 10, seed=4)
    torch.rand(5)
    assert same_weights(build(name, (1, 8, 8), 10, seed=4), first)


@every_model
def test_another_seed_gives_another_network(name):
    one, other = (prunable(build(name, (1, 8, 8), 10, seed)) for seed in (0, 1))
    assert not any(torch.equal(one[layer], other[layer]) for layer in one)


@every_model
def test_building_leaves_torchs_own_generator_alone(name):
    before = torch.get_rng_state()
    build(name, (1, 8, 8), 10, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


@every_model
def test_a_loss_has_a_gradient_for_every_parameter(name):
    network = build(name, (1, 8, 8), 10, seed=0)
    network(pictures()).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@every_model
def test_in_evaluation_an_image_is_scored_alone(name):
    network = build(name, (1, 8, 8), 10, seed=0).eval()
    torch.testing.assert_close(network(pictures())[:2], network(pictures()[:2]))


@every_model
def test_weights_lie_channels_last_in_memory(name):
    for weight in prunable(build(name, (3, 32, 32), 10, seed=0)).values():
        if weight.ndim == 4:
            assert weight.is_contiguous(memory_format=torch.channels_last)


def test_convnet_has_14458_parameters_of_which_14288_can_be_pruned():
    network = build("convnet", (1, 8, 8), 10, seed=0)
    assert sum(p.numel() for p in network.parameters()) == 14_458
    assert sum(p.numel() for p in prunable(network).values()) == 14_288


def test_mlp_has_two_hidden_layers_of_100():
    shapes = [tuple(w.shape) for w in prunable(build("mlp", (1, 8, 8), 10, seed=0)).values()]
    assert shapes == [(100, 64), (100, 100), (10, 100)]


def test_an_unknown_model_is_told_the_known_ones():
    with pytest.raises(ValueError, match=r"^unknown model 'resnet': choose from .*convnet.*mlp"):
        build("resnet", (1, 8, 8), 10, seed=0)
