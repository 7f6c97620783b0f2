"""A training loop as people write it, to be compared with.

Pictures go through PIL one by one in a DataLoader, channels come first in memory, one network is
trained at a time in float32, and every step asks for the loss.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from granet_lab.models import build

_MEAN, _STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)


class Pictures(Dataset):
    """Images in memory that become PIL images one by one, as in torchvision's CIFAR10."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, train: bool) -> None:
        self._images, self._labels = images, labels
        random = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
        common = [transforms.ToTensor(), transforms.Normalize(_MEAN, _STD)]
        self._transform = transforms.Compose([*(random if train else []), *common])

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self._transform(Image.fromarray(self._images[i])), int(self._labels[i])


class PlainLoop:
    """A network, its data, its optimizer.

    Args:
        images: uint8, shape (n, height, width, channels).
        labels: of them.
        batch_size: of training and testing.
        workers: processes of the DataLoader.
        device: a torch device.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        batch_size: int = 128,
        workers: int = 2,
        device: str = "cpu",
    ) -> None:
        self.device = device
        network = build("resnet20", (3, 32, 32), 10, seed=0)
        self.model: nn.Module = network.to(device, memory_format=torch.contiguous_format)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4
        )
        loaders = (
            DataLoader(
                Pictures(images, labels, train),
                batch_size,
                shuffle=train,
                drop_last=train,
                num_workers=workers,
                pin_memory=device != "cpu",
            )
            for train in (True, False)
        )
        self._training, self._testing = (_for_ever(loader) for loader in loaders)

    def train(self, steps: int) -> float:
        """So many steps; the mean loss."""
        self.model.train()
        total = 0.0
        for _ in range(steps):
            images, labels = (x.to(self.device) for x in next(self._training))
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.model(images), labels)
            loss.backward()
            self.optimizer.step()
            total += loss.item()
        return total / steps

    @torch.no_grad()
    def test(self, batches: int) -> float:
        """On so many batches; the fraction that is right."""
        self.model.eval()
        hits = images_seen = 0
        for _ in range(batches):
            images, labels = (x.to(self.device) for x in next(self._testing))
            hits += (self.model(images).argmax(1) == labels).sum().item()
            images_seen += len(labels)
        return hits / images_seen


def _for_ever(loader: DataLoader) -> Iterator[list[Tensor]]:
    while True:
        yield from loader
