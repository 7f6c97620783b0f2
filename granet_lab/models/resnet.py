"""Residual networks for small images."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from granet_lab.models.named import Shape, model


def _conv(n_in: int, n_out: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, size, stride, padding=size // 2, bias=False)


class _Subsample(nn.Module):
    """A shortcut without parameters: every second pixel, and zeros for the new channels."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (n_out - n_in) // 2
        self.after = n_out - n_in - self.before

    def forward(self, images: Tensor) -> Tensor:
        seen = images[:, :, :: self.stride, :: self.stride]
        return F.pad(seen, (0, 0, 0, 0, self.before, self.after))


class _Basic(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(self, n_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(n_in, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        same = stride == 1 and n_in == width
        self.shortcut = nn.Identity() if same else _Subsample(n_in, width, stride)

    def forward(self, images: Tensor) -> Tensor:
        inner = self.relu(self.bn1(self.conv1(images)))
        return self.relu(self.bn2(self.conv2(inner)) + self.shortcut(images))


class _Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut, which is projected where shapes change."""

    expansion = 4

    def __init__(self, n_in: int, width: int, stride: int) -> None:
        super().__init__()
        n_out = self.expansion * width
        self.conv1 = _conv(n_in, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _conv(width, n_out, 1)
        self.bn3 = nn.BatchNorm2d(n_out)
        self.relu = nn.ReLU(inplace=True)
        same = stride == 1 and n_in == n_out
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(_conv(n_in, n_out, 1, stride), nn.BatchNorm2d(n_out))
        )

    def forward(self, images: Tensor) -> Tensor:
        inner = self.relu(self.bn1(self.conv1(images)))
        inner = self.relu(self.bn2(self.conv2(inner)))
        return self.relu(self.bn3(self.conv3(inner)) + self.shortcut(images))


class _ResNet(nn.Module):
    """Stages of blocks, each but the first at half the resolution and twice the width."""

    def __init__(
        self,
        block: type[_Basic | _Bottleneck],
        depths: tuple[int, ...],
        width: int,
        n_in: int,
        classes: int,
    ) -> None:
        super().__init__()
        self.conv = _conv(n_in, width, 3)
        self.bn = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        channels, stages = width, []
        for stage, depth in enumerate(depths):
            blocks = []
            for i in range(depth):
                stride = 2 if stage > 0 and i == 0 else 1
                blocks.append(block(channels, width * 2**stage, stride))
                channels = block.expansion * width * 2**stage
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.classifier = nn.Linear(channels, classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        features = self.stages(self.relu(self.bn(self.conv(images))))
        return self.classifier(features.mean((2, 3)))


@model
def resnet20(input_shape: Shape, classes: int) -> nn.Module:
    """ResNet-20 for CIFAR: three stages of three basic blocks, 16, 32 and 64 channels.

    He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2, with their
    shortcuts without parameters (option A). 269,722 parameters on colour images in ten classes,
    268,336 of them prunable; 40.6 million multiply-adds at 32x32.
    """
    return _ResNet(_Basic, (3, 3, 3), 16, input_shape[0], classes)


@model
def resnet50(input_shape: Shape, classes: int) -> nn.Module:
    """ResNet-50 with a stem for small images: one 3x3 convolution, no pooling.

    Four stages of 3, 4, 6 and 3 bottleneck blocks (He et al., CVPR 2016, table 1), 64 to 512
    channels, projections where shapes change. For the network with a 7x7 stem for ImageNet, see
    "torchvision:resnet50".
    """
    return _ResNet(_Bottleneck, (3, 4, 6, 3), 64, input_shape[0], classes)
