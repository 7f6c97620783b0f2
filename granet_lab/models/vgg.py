"""VGG networks with batch normalisation, for small images."""

from __future__ import annotations

from torch import Tensor, nn

from granet_lab.models.named import Shape, model

# Channels of the convolutions of each stage: configuration E of Simonyan & Zisserman.
_VGG19 = ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4)


class _VGG(nn.Module):
    def __init__(self, stages: tuple[tuple[int, ...], ...], shape: Shape, classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        layers: list[nn.Module] = []
        for i, stage in enumerate(stages):
            for n_out in stage:
                layers += [
                    nn.Conv2d(channels, n_out, 3, padding=1, bias=False),
                    nn.BatchNorm2d(n_out),
                    nn.ReLU(inplace=True),
                ]
                channels = n_out
            # Images smaller than 16 pixels have nothing left to pool at the end.
            if i < len(stages) - 1 and min(height, width) > 1:
                layers.append(nn.MaxPool2d(2))
                height, width = height // 2, width // 2
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).mean((2, 3)))


@model
def vgg19(input_shape: Shape, classes: int) -> nn.Module:
    """VGG-19 with batch normalisation and one linear layer: 16 convolutions of 64 to 512 channels.

    Simonyan & Zisserman, "Very Deep Convolutional Networks", ICLR 2015, configuration E, as the
    pruning literature uses it on CIFAR: average pooling in place of the last maximum and of the
    large linear layers. 20.0 million parameters, 398 million multiply-adds at 32x32.
    """
    return _VGG(_VGG19, input_shape, classes)
