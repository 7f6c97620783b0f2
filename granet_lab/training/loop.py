"""The training loop, the only one: trunks and branches both go through ``fit``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from granet_lab.randomness import generator, seeded
from granet_lab.sparsity import Context, Masks, batchnorm, prunable
from granet_lab.training.data import Dataset, Split, batches
from granet_lab.training.models import build
from granet_lab.training.recipes import Recipe, learning_rate
from granet_lab.training.sgd import SGD

_EVALUATION_BATCH = 1000


class Diverged(ArithmeticError):
    """The training loss became infinite or NaN."""

    def __init__(self, epoch: int, loss: float) -> None:
        super().__init__(f"training diverged: the loss of epoch {epoch} is {loss}")


@dataclass
class TrainState:
    """A network in the middle of its training.

    Attributes:
        model: the network.
        optimizer: holds the momentum.
        masks: which weights may be other than zero.
        epoch: epochs done.
        step: optimizer steps done.
    """

    model: nn.Module
    optimizer: SGD
    masks: Masks
    epoch: int = 0
    step: int = 0


def unmasked_state(recipe: Recipe, data: Dataset) -> TrainState:
    """The network at initialisation, on the data's device, every weight active.

    Enough to read a checkpoint into: no criterion is asked which weights the method would mask.
    """
    device = data.train.images.device
    model = build(recipe.model, data.input_shape, data.classes, recipe.seed).to(device)
    optimizer = SGD(model.parameters(), recipe.momentum, recipe.weight_decay, recipe.nesterov)
    return TrainState(model, optimizer, Masks.dense(model))


def new_state(recipe: Recipe, data: Dataset) -> TrainState:
    """The network at initialisation, on the data's device, masked as the recipe's method says."""
    state = unmasked_state(recipe, data)
    with threads(recipe.threads):
        seen = context(state, recipe, data, recipe.method.batches)
        state.masks = recipe.method.initial_masks(seen)
    state.masks.apply_(state.model)
    return state


def context(state: TrainState, recipe: Recipe, data: Dataset, batches: int = 1) -> Context:
    """What a score sees of a network in training: its next batches and its own random source.

    There are as many batches as it asks for, at most those of one epoch.
    """
    return Context(
        model=state.model,
        masks=state.masks,
        batches=list(islice(epoch_batches(recipe, data, state.epoch), batches)),
        loss_fn=lambda outputs, targets: loss_of(outputs, targets, recipe),
        generator=generator("scores", recipe.seed, state.step),
    )


def epoch_batches(recipe: Recipe, data: Dataset, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of the epoch with index ``epoch``."""
    return batches(data, recipe.batch_size, recipe.seed, epoch, recipe.augment, recipe.train_size)


def fit(
    state: TrainState, recipe: Recipe, data: Dataset, until: int, lr: float | None = None
) -> Iterator[dict[str, float]]:
    """Train on to epoch ``until``, in place, and report each epoch as it ends.

    Args:
        state: is changed; stop taking rows and it stands at the end of that epoch.
        recipe: everything but the number of epochs.
        data: on the model's device.
        until: epochs done at the end.
        lr: a fixed learning rate; None follows the recipe's schedule.

    Yields:
        One row an epoch: ``epoch`` (done), ``lr``, ``train_loss``, ``train_acc``, ``val_loss``,
        ``val_acc``, ``test_loss``, ``test_acc`` (accuracies in percent), ``sparsity``,
        ``seconds``.

    Raises:
        Diverged: the training loss of an epoch is not finite.
    """
    while state.epoch < until:
        started = time.perf_counter()
        rate = learning_rate(recipe, state.epoch) if lr is None else lr
        row = {"epoch": state.epoch + 1, "lr": rate, **_train_epoch(state, recipe, data, rate)}
        row |= evaluate(state, recipe, data)
        yield row | {"seconds": time.perf_counter() - started}


def evaluate(state: TrainState, recipe: Recipe, data: Dataset) -> dict[str, float]:
    """Loss and accuracy in percent on the validation and test splits, and the sparsity."""
    row: dict[str, float] = {}
    with threads(recipe.threads):
        for name, split in (("val", data.validation), ("test", data.test)):
            row[f"{name}_loss"], row[f"{name}_acc"] = _evaluate_split(state, recipe, data, split)
        row["sparsity"] = state.masks.sparsity
    return row


def reestimate_batchnorm(state: TrainState, recipe: Recipe, data: Dataset) -> None:
    """Measure BatchNorm's statistics anew, in place, on the batches of the next epoch."""
    with threads(recipe.threads), _precision(recipe, data.train.images.device):
        batchnorm.reestimate_(state.model, epoch_batches(recipe, data, state.epoch))


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Run torch's CPU operations on ``n`` threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def loss_of(outputs: Tensor, targets: Tensor, recipe: Recipe) -> Tensor:
    """The training loss: cross-entropy with the recipe's label smoothing."""
    return F.cross_entropy(outputs.float(), targets, label_smoothing=recipe.label_smoothing)


def _train_epoch(state: TrainState, recipe: Recipe, data: Dataset, lr: float) -> dict[str, float]:
    """One pass over the training split; the device is asked for numbers only at its end."""
    model, optimizer = state.model.train(), state.optimizer
    factors = _factors(state)
    device = data.train.images.device
    loss_sum, correct, seen = torch.zeros((), device=device), torch.zeros((), device=device), 0
    with threads(recipe.threads), seeded("training", recipe.seed, state.epoch):
        for images, targets in epoch_batches(recipe, data, state.epoch):
            with _precision(recipe, device):
                outputs = model(images)
            loss = loss_of(outputs, targets, recipe)
            loss.backward()
            optimizer.step(lr, factors)
            loss_sum += loss.detach() * len(targets)
            correct += (outputs.detach().argmax(1) == targets).sum()
            seen += len(targets)
            state.step += 1
    state.epoch += 1
    mean_loss = float(loss_sum) / seen
    if not torch.isfinite(loss_sum):
        raise Diverged(state.epoch, mean_loss)
    return {"train_loss": mean_loss, "train_acc": 100 * float(correct) / seen}


def _factors(state: TrainState) -> list[tuple[nn.Parameter, Tensor]]:
    """The layers that have inactive weights, and their masks as factors for the gradient."""
    weights = prunable(state.model)
    sparse = [name for name, mask in state.masks.items() if not mask.all()]
    return [(weights[n], torch.empty_like(weights[n]).copy_(state.masks[n])) for n in sparse]


@torch.no_grad()
def _evaluate_split(
    state: TrainState, recipe: Recipe, data: Dataset, split: Split
) -> tuple[float, float]:
    state.model.eval()
    loss_sum, correct = 0.0, 0
    for images, targets in zip(
        split.images.split(_EVALUATION_BATCH), split.labels.split(_EVALUATION_BATCH), strict=True
    ):
        with _precision(recipe, images.device):
            outputs = state.model(data.normalise(images)).float()
        loss_sum += float(F.cross_entropy(outputs, targets, reduction="sum"))
        correct += int((outputs.argmax(1) == targets).sum())
    return loss_sum / len(split), 100 * correct / len(split)


def _precision(recipe: Recipe, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16")
