import pytest
import torch
from torch import nn
from torchvision.models import vgg19_bn

from granet_lab.models import build
from granet_lab.sparsity import prunable
from granet_lab.sparsity.cost import inference_flops

# Channels of the convolutions and the side of their images, of 32 pixels at first.
STAGES = [(32, [64] * 2), (16, [128] * 2), (8, [256] * 4), (4, [512] * 4), (2, [512] * 4)]


def layers(classes, channels=3):
    """(pixels, weights) of each convolution and of the linear layer."""
    found = []
    for side, widths in STAGES:
        for width in widths:
            found.append((side**2, 9 * channels * width))
            channels = width
    return [*found, (1, channels * classes)]


def pictures(n=2, shape=(3, 32, 32)):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("classes", "count"), [(10, 20_035_018), (100, 20_081_188)])
def test_it_has_the_parameters_of_the_literature(classes, count):
    network = build("vgg19", (3, 32, 32), classes, 0)
    assert sum(p.numel() for p in network.parameters()) == count
    norms = 2 * sum(width for _, widths in STAGES for width in widths)
    assert sum(weights for _, weights in layers(classes)) + norms + classes == count


def test_sixteen_convolutions_and_the_linear_layer_can_be_pruned():
    found = [p.numel() for p in prunable(build("vgg19", (3, 32, 32), 10, 0)).values()]
    assert found == [weights for _, weights in layers(10)]
    assert len(found) == 17


def test_it_takes_398_million_multiply_adds():
    found = inference_flops(build("vgg19", (3, 32, 32), 10, 0), (3, 32, 32)) / 2
    assert found == sum(pixels * weights for pixels, weights in layers(10))
    assert found / 1e6 == pytest.approx(398.1, abs=0.05)


def test_it_is_torchvisions_with_an_average_in_place_of_the_last_maximum():
    ours = build("vgg19", (3, 32, 32), 10, 0)
    images = pictures(4)
    for _ in range(3):
        ours(images)  # so that BatchNorm has seen something
    ours.eval()
    theirs = vgg19_bn(init_weights=False).features[:-1].eval()
    for layer in theirs:
        if isinstance(layer, nn.Conv2d):
            layer.bias = None
    values = ours.features.state_dict().values()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), values, strict=True)))
    features = theirs(images)
    assert features.shape == (4, 512, 2, 2)
    expected = ours.classifier(features.flatten(2).mean(2))
    torch.testing.assert_close(ours(images), expected)


@pytest.mark.parametrize(
    ("shape", "pools"),
    [((1, 8, 8), 3), ((3, 16, 16), 4), ((3, 32, 32), 4), ((3, 8, 40), 3), ((3, 5, 5), 2)],
    ids=str,
)
def test_small_images_are_pooled_while_there_is_something_to_pool(shape, pools):
    network = build("vgg19", shape, 7, 0)
    assert sum(isinstance(layer, nn.MaxPool2d) for layer in network.modules()) == pools
    scores = network(pictures(2, shape))
    assert scores.shape == (2, 7)
    assert scores.isfinite().all()


def test_convolutions_begin_with_the_variance_of_he():
    for name, weight in prunable(build("vgg19", (3, 32, 32), 10, 0)).items():
        if weight.ndim == 4:
            assert weight.var().item() == pytest.approx(2 / (9 * weight.shape[0]), rel=0.1), name
