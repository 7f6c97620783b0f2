"""Images as tensors on the device, and the batches that networks learn from."""

from granet_lab.datasets import cifar as cifar
from granet_lab.datasets import digits as digits
from granet_lab.datasets.augmentation import AUGMENTATIONS, augmentation
from granet_lab.datasets.batching import batches
from granet_lab.datasets.dataset import Dataset, Split, from_arrays
from granet_lab.datasets.named import DATASETS, add_dataset, check, dataset, load

__all__ = [
    "AUGMENTATIONS",
    "DATASETS",
    "Dataset",
    "Split",
    "add_dataset",
    "augmentation",
    "batches",
    "check",
    "dataset",
    "from_arrays",
    "load",
]
