"""The training loop of one network: trunks and branches both go through ``fit``.

For several networks at once see :mod:`granet_lab.training.stacked`.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from granet_lab.datasets import Dataset, batches
from granet_lab.models import build
from granet_lab.randomness import generator, seeded
from granet_lab.sparsity import Context, Masks, batchnorm
from granet_lab.sparsity.context import Batch, Weights
from granet_lab.sparsity.plan import Plan
from granet_lab.sparsity.tally import Tally
from granet_lab.training import distributed, rewinding
from granet_lab.training.arithmetic import arithmetic, autocast
from granet_lab.training.dynamics import Dynamics, factors_of
from granet_lab.training.evaluation import evaluate
from granet_lab.training.recipe import Recipe, learning_rate
from granet_lab.training.recording import Function, recorded
from granet_lab.training.sgd import SGD
from granet_lab.training.state import Diverged, Pulse, TrainState


def unmasked_state(recipe: Recipe, data: Dataset) -> TrainState:
    """The network at initialisation, on the data's device, every weight active.

    Enough to read a checkpoint into: no criterion is asked which weights the method would mask.
    """
    model = build(recipe.model, data.input_shape, data.classes, recipe.seed).to(data.device)
    spared = [] if recipe.norm_decay else [p for p in model.parameters() if p.ndim < 2]
    optimizer = SGD(
        model.parameters(), recipe.momentum, recipe.weight_decay, recipe.nesterov, spared
    )
    masks = Masks.dense(model)
    changing = recipe.method.changes
    state = TrainState(model, optimizer, masks, Tally.begin(masks), changing=changing)
    _mark_rewind(state, recipe)
    return state


def new_state(recipe: Recipe, data: Dataset) -> TrainState:
    """The network at initialisation, on the data's device, masked as the recipe's method says.

    Raises:
        ValueError: the run is too short for the method's schedule.
    """
    plan(recipe, data)
    state = unmasked_state(recipe, data)
    with arithmetic(recipe, data.device):
        seen = context(state, recipe, data, recipe.method.batches)
        state.masks = recipe.method.initial_masks(seen)
    state.masks.apply_(state.model)
    state.tally = Tally.begin(state.masks)
    _mark_rewind(state, recipe)
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


def _mark_rewind(state: TrainState, recipe: Recipe) -> None:
    """Make the state the one that the method's rounds start from, if they do from weights."""
    if recipe.method.rounds and recipe.method.rounds.rewind_weights:
        state.rewind = rewinding.snapshot(state)


def begin_epoch(state: TrainState, recipe: Recipe, data: Dataset) -> None:
    """What the method's rounds ask for before an epoch."""
    method = recipe.method
    if not method.rounds:
        return
    if state.epoch == method.rounds.rewind:
        _mark_rewind(state, recipe)
    if method.rounds.begins(state.epoch):
        with arithmetic(recipe, data.device):
            rewinding.begin(state, method, context(state, recipe, data, method.update_batches))


def _seen_after_step(
    state: TrainState, recipe: Recipe, data: Dataset, batch: Batch, gradients: Weights
) -> Context:
    """What an update sees: the batch of the step and its gradient, if one is enough."""
    needed = recipe.method.update_batches
    if needed > 1:
        return context(state, recipe, data, needed)
    return replace(context(state, recipe, data, 0), batches=[batch], known=gradients)


def steps_per_epoch(recipe: Recipe, data: Dataset) -> int:
    """Optimizer steps in one epoch."""
    return len(data.train.first(recipe.train_size)) // recipe.batch_size


def plan(recipe: Recipe, data: Dataset) -> Plan:
    """When the recipe's method updates its masks.

    Raises:
        ValueError: the run is too short for the method's schedule.
    """
    return recipe.method.plan(recipe.epochs, steps_per_epoch(recipe, data))


def epoch_batches(recipe: Recipe, data: Dataset, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of the epoch with index ``epoch``."""
    return batches(data, recipe.batch_size, recipe.seed, epoch, recipe.augment, recipe.train_size)


def fit(
    state: TrainState,
    recipe: Recipe,
    data: Dataset,
    until: int,
    lr: float | None = None,
    follow: bool = True,
    record: bool = True,
    pulse: Pulse = None,
) -> Iterator[dict[str, Any]]:
    """Train on to epoch ``until``, in place, and report each epoch as it ends.

    Args:
        state: is changed; stop taking rows and it stands at the end of that epoch.
        recipe: everything but the number of epochs.
        data: on the model's device.
        until: epochs done at the end.
        lr: a fixed learning rate; None follows the recipe's schedule.
        follow: whether the masks change as the recipe's method says; else they stay.
        record: whether a GPU may repeat the step from a recording.
        pulse: is called after every step and every block of images that is evaluated; what it
            raises ends the training.

    Yields:
        One row an epoch: ``epoch`` (done), ``lr``, ``train_loss``, ``train_acc``, ``val_loss``,
        ``val_acc``, ``test_loss``, ``test_acc`` (accuracies in percent), ``sparsity``,
        ``seconds``; if the masks follow the method, also what :func:`sparseness` tells, and
        ``flops``, the operations of the epoch's training (NaN for layers of unknown cost).

    Raises:
        Diverged: the training loss of an epoch is not finite.
        ValueError: the run is too short for the method's schedule.
    """
    changes = dynamics(state, recipe, data) if follow else None
    step = functools.partial(learn, state.model, recipe)
    if record:  # a CPU gains a few percent by it with a network alone
        step = recorded(step, data.device, state.model.buffers(), state.model, where=("cuda",))
    while state.epoch < until:
        started = time.perf_counter()
        if changes is not None:
            begin_epoch(state, recipe, data)
            changes.begin_epoch()
        rate = learning_rate(recipe, state.epoch) if lr is None else lr
        row = {"epoch": state.epoch + 1, "lr": rate}
        row |= _train_epoch(state, recipe, data, rate, changes, step, pulse)
        row |= evaluate(state, recipe, data, pulse)
        if changes is not None:
            row |= sparseness(state) | {"flops": changes.flops()}
        yield row | {"seconds": time.perf_counter() - started}


def dynamics(state: TrainState, recipe: Recipe, data: Dataset) -> Dynamics:
    """What changes the masks of a network as the recipe's method says.

    Raises:
        ValueError: the run is too short for the method's schedule.
    """
    seen = functools.partial(_seen_after_step, state, recipe, data)
    with arithmetic(recipe, data.device):
        return Dynamics(state, plan(recipe, data), data.input_shape, seen)


def sparseness(state: TrainState) -> dict[str, Any]:
    """What :class:`Tally` counted since this was last asked, and ``layers``, their sparsities."""
    return state.tally.row() | {"layers": state.masks.sparsities()}


def reestimate_batchnorm(state: TrainState, recipe: Recipe, data: Dataset) -> None:
    """Measure BatchNorm's statistics anew, in place, on the batches of the next epoch."""
    with arithmetic(recipe, data.device), autocast(recipe, data.device):
        batchnorm.reestimate_(state.model, epoch_batches(recipe, data, state.epoch))


def loss_of(outputs: Tensor, targets: Tensor, recipe: Recipe) -> Tensor:
    """The training loss: cross-entropy with the recipe's label smoothing."""
    return F.cross_entropy(outputs.float(), targets, label_smoothing=recipe.label_smoothing)


def _train_epoch(
    state: TrainState,
    recipe: Recipe,
    data: Dataset,
    lr: float,
    dynamics: Dynamics | None,
    step: Function,
    pulse: Pulse,
) -> dict[str, float]:
    """One pass over the training split; the device is asked for numbers only at its end."""
    model, optimizer = state.model.train(), state.optimizer
    parameters = list(model.parameters())
    factors = factors_of(state)
    sums, seen = torch.zeros(2, device=data.device), 0
    with arithmetic(recipe, data.device), seeded("training", recipe.seed, state.epoch):
        for whole in epoch_batches(recipe, data, state.epoch):
            images, targets = distributed.share(*whole)
            told, *gradients = step(images, targets)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            distributed.average_gradients_(model)
            if dynamics is not None:
                factors = dynamics.before(whole, factors)
            optimizer.step(lr, factors)
            state.step += 1
            if dynamics is not None:
                factors = dynamics.after(factors)
            sums += told
            seen += len(targets)
            if pulse is not None:
                pulse()
    state.epoch += 1
    loss, hits, images = distributed.total(torch.cat([sums, sums.new_tensor([seen])])).tolist()
    if not math.isfinite(loss):
        raise Diverged(state.epoch, loss / images)
    return {"train_loss": loss / images, "train_acc": 100 * hits / images}


def learn(
    model: nn.Module, recipe: Recipe, images: Tensor, targets: Tensor
) -> tuple[Tensor | None, ...]:
    """The sums of losses and of hits over a batch, and the gradient for each parameter."""
    for parameter in model.parameters():
        parameter.grad = None
    with autocast(recipe, images.device):
        outputs = model(images)
    loss = loss_of(outputs, targets, recipe)
    loss.backward()
    hits = (outputs.detach().argmax(1) == targets).sum()
    told = torch.stack([loss.detach() * len(targets), hits])
    return told, *(parameter.grad for parameter in model.parameters())
