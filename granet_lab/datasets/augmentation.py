"""Augmentation of a whole batch at once, on the images' device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from granet_lab.randomness import moved
from granet_lab.registry import Registry

AUGMENTATIONS: Registry = Registry("augmentation")
augmentation = AUGMENTATIONS.register


@augmentation
def crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """Pad with zeros by an eighth of the height (4 of 32 pixels) and crop at a random place."""
    n, _, height, width = images.shape
    pad = max(1, height // 8)
    padded = F.pad(images, (pad, pad, pad, pad))
    draw = moved(torch.randint(0, 2 * pad + 1, (2, n, 1), generator=generator), images.device)
    rows = draw[0] + torch.arange(height, device=images.device)
    columns = draw[1] + torch.arange(width, device=images.device)
    picture = torch.arange(n, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[picture, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )


@augmentation
def crop_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """:func:`crop`, then mirror every image left to right with probability one half."""
    images = crop(images, generator)
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    mirrored = moved(mirrored, images.device)[:, None, None, None]
    return torch.where(mirrored, images.flip(3), images)
