from itertools import chain

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet

from granet_lab.models import build
from granet_lab.models.resnet import _Basic, _Subsample
from granet_lab.sparsity import prunable
from granet_lab.sparsity.cost import inference_flops


def pictures(n=4, shape=(3, 32, 32)):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(0))


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def shaken(network):
    """Every parameter and statistic is drawn at random, so that none can hide behind a 0 or 1."""
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, values in network.state_dict().items():
            if values.is_floating_point():
                drawn = torch.rand(values.shape, generator=random)
                values.copy_(
                    drawn + 0.5 if "var" in name else (drawn - 0.5) / values[0].numel() ** 0.5
                )
    return network


def basic_conv(stage, first):
    """(pixels, weights) of the two convolutions of a basic block: 16, 32 or 64 channels."""
    width = 16 * 2**stage
    n_in = width // 2 if first and stage else width
    side = 32 // 2**stage
    return [(side**2, 9 * n_in * width), (side**2, 9 * width * width)]


def bottleneck_convs(stage, first):
    """(pixels, weights) of a bottleneck's convolutions; the 3x3 one halves the resolution."""
    width, side = 64 * 2**stage, 32 // 2**stage
    n_in = (64 if stage == 0 else 2 * width) if first else 4 * width
    before = (2 * side if first and stage else side) ** 2
    convs = [(before, n_in * width), (side**2, 9 * width**2), (side**2, 4 * width**2)]
    return convs + ([(side**2, 4 * width * n_in)] if first else [])


def resnet20_layers(classes):
    blocks = [basic_conv(stage, i == 0) for stage in range(3) for i in range(3)]
    return [(32**2, 27 * 16), *chain(*blocks), (1, 64 * classes)]


def resnet50_layers(classes):
    depths = (3, 4, 6, 3)
    blocks = [bottleneck_convs(s, i == 0) for s, depth in enumerate(depths) for i in range(depth)]
    return [(32**2, 27 * 64), *chain(*blocks), (1, 2048 * classes)]


LAYERS = {"resnet20": resnet20_layers, "resnet50": resnet50_layers}
# By network and classes: parameters as in the literature.
PARAMETERS = {
    ("resnet20", 10): 269_722,
    ("resnet20", 100): 275_572,
    ("resnet50", 10): 23_520_842,
    ("resnet50", 100): 23_705_252,
}
every_resnet = pytest.mark.parametrize("name", LAYERS)


@pytest.mark.parametrize(("name", "classes"), PARAMETERS)
def test_it_has_the_parameters_of_the_literature(name, classes):
    assert parameters(build(name, (3, 32, 32), classes, 0)) == PARAMETERS[name, classes]


@pytest.mark.parametrize(("name", "classes"), PARAMETERS)
def test_convolutions_and_the_linear_layer_can_be_pruned_and_nothing_else(name, classes):
    found = prunable(build(name, (3, 32, 32), classes, 0)).values()
    expected = sorted(weights for _, weights in LAYERS[name](classes))
    assert sorted(p.numel() for p in found) == expected


def test_268336_weights_of_resnet20_can_be_pruned():
    assert sum(weights for _, weights in resnet20_layers(10)) == 268_336


@pytest.mark.parametrize(
    ("name", "classes", "millions"),
    [("resnet20", 10, 40.55), ("resnet50", 10, 1297.8), ("resnet50", 100, 1298.0)],
)
def test_it_takes_the_multiply_adds_of_its_layers(name, classes, millions):
    found = inference_flops(build(name, (3, 32, 32), classes, 0), (3, 32, 32)) / 2
    assert found == sum(pixels * weights for pixels, weights in LAYERS[name](classes))
    assert found / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize(("n_in", "n_out"), [(2, 4), (1, 2), (1, 4), (3, 3)])
def test_a_shortcut_is_every_second_pixel_between_channels_of_zeros(n_in, n_out):
    images = pictures(2, (n_in, 5, 4))
    found = _Subsample(n_in, n_out, 2)(images)
    assert found.shape == (2, n_out, 3, 2)
    before = (n_out - n_in) // 2
    for channel in range(n_out):
        for y in range(3):
            for x in range(2):
                seen = 0 <= channel - before < n_in
                value = images[:, channel - before, 2 * y, 2 * x] if seen else torch.zeros(2)
                assert torch.equal(found[:, channel, y, x], value)


def test_a_block_that_computes_nothing_lets_the_shortcut_through():
    images = pictures(2, (4, 6, 6))
    for block, expected in (
        (_Basic(4, 4, 1), images),
        (_Basic(4, 8, 2), F.pad(images[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))),
    ):
        nn.init.zeros_(block.bn2.weight)
        assert torch.equal(block(images), expected.relu())


def resnet20_by_hand(state, images):
    """What a ResNet-20 with these values computes."""
    left = iter(state.values())

    def conv_and_norm(images, stride=1):
        images = F.conv2d(images, next(left), stride=stride, padding=1)
        scale, shift, mean, variance, _ = (next(left) for _ in range(5))
        return F.batch_norm(images, mean, variance, scale, shift, eps=1e-5)

    images = conv_and_norm(images).relu()
    for stage in range(3):
        for block in range(3):
            stride = 2 if stage and not block else 1
            inner = conv_and_norm(conv_and_norm(images, stride).relu())
            if stride == 2:
                zeros = torch.zeros_like(inner)
                quarter = inner.shape[1] // 4
                zeros[:, quarter : 3 * quarter] = images[:, :, ::2, ::2]
                images = zeros
            images = (inner + images).relu()
    assert images.shape[2:] == (8, 8)
    return images.flatten(2).mean(2) @ next(left).T + next(left)


def test_resnet20_is_the_network_of_the_paper():
    network = shaken(build("resnet20", (3, 32, 32), 10, 0)).eval()
    images = pictures()
    torch.testing.assert_close(network(images), resnet20_by_hand(network.state_dict(), images))


def test_resnet50_is_torchvisions_but_for_the_first_layer():
    network = shaken(build("resnet50", (3, 32, 32), 10, 0)).eval()
    theirs = ResNet(Bottleneck, [3, 4, 6, 3], num_classes=10).eval()
    theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    theirs.maxpool = nn.Identity()
    values = network.state_dict().values()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), values, strict=True)))
    torch.testing.assert_close(network(pictures(2)), theirs(pictures(2)))


@every_resnet
def test_convolutions_begin_with_the_variance_of_he(name):
    for name_, weight in prunable(build(name, (3, 32, 32), 10, 0)).items():
        if weight.ndim == 4 and weight.numel() > 2000:
            fan_out = weight.shape[0] * weight[0, 0].numel()
            assert weight.var().item() == pytest.approx(2 / fan_out, rel=0.15), name_


@every_resnet
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 7), (3, 64, 64)], ids=str)
def test_images_of_any_size_get_a_score_for_each_class(name, shape):
    scores = build(name, shape, 7, 0)(pictures(2, shape))
    assert scores.shape == (2, 7)
    assert scores.isfinite().all()
