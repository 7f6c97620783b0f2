"""Recipe: all that fixes a training run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from granet_lab import checks, datasets, models
from granet_lab.datasets import Dataset
from granet_lab.sparsity.methods import SparseTraining, dense

PRECISIONS = ("fp32", "tf32", "bf16")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that fixes a training run: equal recipes give equal weights, bit for bit on a CPU.

    Attributes:
        dataset: a dataset's name; "folder:PATH" for a tree of images, "stream:PATH" for one that
            does not fit in memory; looked for in ``data/datasets``, then from here.
        model: a model's name; "torchvision:NAME"; or "package.module:function" for a function of
            one's own, from the shape of an image and the number of classes to a network.
        epochs: length of the run.
        batch_size: images in a step; a last batch that is not full is left out.
        lr: learning rate of SGD at the start.
        milestones: epochs at which the learning rate is multiplied by ``gamma``.
        gamma: factor of each decay.
        momentum: of SGD.
        nesterov: whether the momentum is Nesterov's.
        weight_decay: L2 penalty, added to the gradient.
        warmup_epochs: the learning rate rises linearly over the first epochs: lr (t + 1) / n.
        label_smoothing: of the cross-entropy, 0 to 1.
        augment: None or an augmentation's name, "resized_crop_flip" for a stream.
        precision: "fp32"; "tf32", for which a GPU rounds what it multiplies to ten bits, while a
            CPU has no units for that and computes as with "fp32"; or "bf16" for autocast.
        train_size: train on the first so many images of the training split; None: all.
        method: how the network is sparse while it trains, see ``granet_lab.methods``.
        seed: of initialisation, batch order, augmentation and random scores.
        threads: CPU threads of the run. Part of the recipe, because float sums depend on it.
        image_size: side in pixels to which the images of a folder are resized; None: as they are.
        norm_decay: whether parameters of fewer than two dimensions, those of BatchNorm and biases,
            are decayed like the others.

    Raises:
        ValueError: a value outside its range or an unknown name.
    """

    dataset: str
    model: str
    epochs: int
    batch_size: int
    lr: float
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    warmup_epochs: int = 0
    label_smoothing: float = 0.0
    augment: str | None = None
    precision: str = "fp32"
    train_size: int | None = None
    method: SparseTraining = field(default_factory=dense)
    seed: int = 0
    threads: int = 1
    image_size: int | None = None
    norm_decay: bool = True

    def __post_init__(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        if self.image_size is not None:
            put("image_size", checks.count("image_size", self.image_size, minimum=1))
        datasets.check(self.dataset, self.image_size, self.augment)
        models.check(self.model)
        checks.choice("precision", self.precision, PRECISIONS)
        for name in ("epochs", "batch_size", "threads"):
            put(name, checks.count(name, getattr(self, name), minimum=1))
        for name in ("warmup_epochs", "seed"):
            put(name, checks.count(name, getattr(self, name)))
        for name in ("lr", "gamma", "momentum", "weight_decay"):
            put(name, checks.real(name, getattr(self, name), minimum=0))
        put("label_smoothing", checks.fraction("label_smoothing", self.label_smoothing))
        put("milestones", _milestones(self.milestones))
        for name in ("nesterov", "norm_decay"):
            put(name, checks.flag(name, getattr(self, name)))
        if self.train_size is not None:
            put("train_size", checks.count("train_size", self.train_size, minimum=1))
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        if not isinstance(self.method, SparseTraining):
            raise ValueError(
                f"method must be one of granet_lab.methods, e.g. methods.static(0.9), "
                f"not {self.method!r}"
            )
        self.method.check(self.epochs)

    def short(self, factor: float = 10) -> Recipe:
        """The same schedule in a fraction of the epochs, for a first look.

        Epochs, decays, warm-up and the method's schedule are divided by ``factor`` and rounded,
        all else stays. Accuracies are lower than those of the whole recipe: what is published is
        not what to expect of it.

        Raises:
            ValueError: nothing is left of the schedule.
        """
        if checks.real("factor", factor) < 1:
            raise ValueError(f"factor must be at least 1, not {factor}")

        def less(epochs: int) -> int:
            return round(epochs / factor)

        method = self.method
        if method.rounds:
            rounds = method.rounds
            rounds = replace(rounds, cycle=less(rounds.cycle), rewind=less(rounds.rewind))
            method, epochs = replace(method, rounds=rounds), rounds.epochs
        else:
            interval, stop = (
                None if value is None else max(1, less(value))
                for value in (method.interval, method.stop)
            )
            # What is pruned all at once stays so.
            start = stop if method.start == method.stop else less(method.start)
            method = replace(method, start=start, interval=interval, stop=stop)
            epochs = less(self.epochs)
        return replace(
            self,
            epochs=epochs,
            milestones=tuple(sorted({less(epoch) for epoch in self.milestones})),
            warmup_epochs=less(self.warmup_epochs),
            method=method,
        )

    def images(self, device: str = "cpu") -> Dataset:
        """The dataset on a device; kept for the next time."""
        return datasets.load(self.dataset, device, self.image_size)

    def network(self) -> nn.Module:
        """The network at initialisation, on the CPU, every weight active."""
        images = self.images()
        return models.build(self.model, images.input_shape, images.classes, self.seed)


def _milestones(epochs: Iterable[int]) -> tuple[int, ...]:
    if not isinstance(epochs, Iterable) or isinstance(epochs, str):
        raise ValueError(f"milestones must be a tuple of epochs, not {epochs!r}")
    found = tuple(checks.count("milestones", epoch) for epoch in epochs)
    if list(found) != sorted(set(found)):
        raise ValueError(f"milestones must be ascending epochs, not {found}")
    return found


def learning_rate(recipe: Recipe, epoch: int) -> float:
    """The learning rate of the epoch with index ``epoch`` (0 is the first), a pure function."""
    rounds = recipe.method.rounds
    epoch = rounds.position(epoch) if rounds else epoch
    decays = sum(milestone <= epoch for milestone in recipe.milestones)
    warmup = min(1.0, (epoch + 1) / recipe.warmup_epochs) if recipe.warmup_epochs else 1.0
    return recipe.lr * recipe.gamma**decays * warmup


def under(recipe: Recipe, method: SparseTraining) -> Recipe:
    """The recipe with another method; rounds take its epochs for each training.

    Raises:
        ValueError: a schedule that does not fit the recipe.
    """
    if method.rounds is None:
        return replace(recipe, method=method)
    rounds = replace(method.rounds, cycle=recipe.epochs)
    method = replace(method, rounds=rounds)
    return replace(recipe, method=method, epochs=rounds.epochs)
