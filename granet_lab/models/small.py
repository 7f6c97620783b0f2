"""Networks that train in seconds on a laptop."""

from __future__ import annotations

import math

from torch import Tensor, nn

from granet_lab.models.named import Shape, model


class _ConvBlock(nn.Sequential):
    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__(
            nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(n_out),
            nn.ReLU(inplace=True),
        )


class _ConvNet(nn.Module):
    def __init__(self, n_in: int, classes: int) -> None:
        super().__init__()
        self.block1 = _ConvBlock(n_in, 16, stride=2)
        self.block2 = _ConvBlock(16, 32, stride=1)
        self.block3 = _ConvBlock(32, 32, stride=2)
        self.classifier = nn.Linear(32, classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.block3(self.block2(self.block1(images)))
        return self.classifier(features.mean((2, 3)))


@model
def convnet(input_shape: Shape, classes: int) -> nn.Module:
    """Three 3x3 convolutions (16, 32, 32; strides 2, 1, 2), average pooling, a linear classifier.

    With BatchNorm. 14,458 parameters on one-channel images in ten classes, 14,288 of them
    prunable.
    """
    return _ConvNet(input_shape[0], classes)


@model
def mlp(input_shape: Shape, classes: int) -> nn.Module:
    """Two hidden layers of 100 ReLUs: the smallest network that is worth pruning."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(input_shape), 100),
        nn.ReLU(),
        nn.Linear(100, 100),
        nn.ReLU(),
        nn.Linear(100, classes),
    )
