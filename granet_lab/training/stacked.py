"""A stack: several networks of one architecture, trained in one pass.

A small network leaves a large device idle, and on any device most of its step is overhead. In a
stack every operation is done for all networks at once (``torch.func.vmap``: convolutions become
grouped ones), while each lane has weights, masks, momentum, learning rate, batches and epoch of its
own. What happens in a lane does not depend on the others: on a CPU not by a bit (``stackable``).
"""

from __future__ import annotations

import math
import time
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from granet_lab.datasets import Dataset, Split
from granet_lab.models import build
from granet_lab.sparsity import prunable
from granet_lab.sparsity.context import Batch
from granet_lab.training import evaluation, loop
from granet_lab.training.arithmetic import arithmetic
from granet_lab.training.dynamics import Dynamics, shown
from granet_lab.training.lanes import Lanes
from granet_lab.training.networks import Networks, side_by_side
from granet_lab.training.recipe import Recipe, learning_rate
from granet_lab.training.recording import recorded
from granet_lab.training.state import Diverged, Pulse, TrainState


def kind(recipe: Recipe) -> Hashable:
    """What the lanes of a stack have in common: the shapes of all tensors, and the arithmetic."""
    return (
        recipe.dataset,
        recipe.image_size,
        recipe.model,
        recipe.batch_size,
        recipe.train_size,
        recipe.precision,
        recipe.threads,
        recipe.momentum,
        recipe.nesterov,
        recipe.label_smoothing,
    )


@dataclass(eq=False)
class Lane:
    """A network in a stack.

    Attributes:
        state: the network; its tensors are the stack's memory while it is in there.
        recipe: its own.
        lr: a fixed learning rate; None follows the recipe's schedule.
        dynamics: changes its masks as the recipe's method says; None: they stay.
    """

    state: TrainState
    recipe: Recipe
    lr: float | None = None
    dynamics: Dynamics | None = None

    @property
    def rate(self) -> float:
        """The learning rate of its next epoch."""
        return learning_rate(self.recipe, self.state.epoch) if self.lr is None else self.lr


class Stack:
    """Networks that are trained together.

    Args:
        recipe: of one of them; what is not in :func:`kind` may differ.
        data: on the device where they are trained.
        width: for how many there is room, an even number: a CPU takes several channels at a time,
            and rounds differently what is left over; one network alone differently again.
        record: whether the step may be repeated from a recording.

    Raises:
        ValueError: an odd width, or none.
    """

    def __init__(self, recipe: Recipe, data: Dataset, width: int, record: bool = True) -> None:
        if width < 2 or width % 2:
            raise ValueError(f"width must be an even number of networks, not {width}")
        self.width = width
        self._recipe, self._data = recipe, data
        self._places: list[Lane | None] = [None] * width
        self._lost: dict[Lane, Diverged] = {}
        network = build(recipe.model, data.input_shape, data.classes, seed=0)
        self._memory = Lanes(network, width, data.device, recipe.momentum, recipe.nesterov)
        self._networks = Networks(network, self._memory, recipe)
        self._learn, self._judge = self._networks.gradient, self._networks.judge
        if record:
            buffers, one = self._memory.buffers.values(), self._networks.network
            self._learn = recorded(self._learn, data.device, buffers, one)
            # So few and long calls that a CPU gains nothing.
            self._judge = recorded(self._judge, data.device, network=one, where=("cuda",))

    @property
    def lanes(self) -> list[Lane]:
        """The networks that are in the stack."""
        return [lane for _, lane in self._occupied()]

    def enter(
        self, state: TrainState, recipe: Recipe, lr: float | None = None, follow: bool = True
    ) -> Lane:
        """Give a network a place; from now on its tensors are the stack's memory.

        Args:
            state: is changed as it is trained.
            recipe: its own.
            lr: a fixed learning rate; None follows the recipe's schedule.
            follow: whether the masks change as the recipe's method says; else they stay.

        Raises:
            ValueError: there is no room, it is of another kind, or its run is too short for its
                method's schedule.
        """
        if kind(recipe) != kind(self._recipe):
            raise ValueError("a network of another kind cannot enter the stack")
        if None not in self._places:
            raise ValueError(f"the stack has no room for more than {self.width} networks")
        dynamics = loop.dynamics(state, recipe, self._data) if follow else None
        lane, place = Lane(state, recipe, lr, dynamics), self._places.index(None)
        self._memory.adopt(place, state, recipe.weight_decay)
        self._places[place] = lane
        return lane

    def leave(self, lane: Lane) -> None:
        """Make room; the network takes its values with it."""
        place = self._places.index(lane)
        self._memory.release(place, lane.state)
        self._places[place] = None

    def train_epoch(self, pulse: Pulse = None) -> dict[Lane, dict[str, Any] | Diverged]:
        """Train every lane for an epoch, its own next one, and evaluate it.

        Args:
            pulse: is called after every step and every block of images; what it raises ends it.

        Returns:
            For each lane the row of :func:`granet_lab.training.loop.fit`, its share of the time as
            ``seconds``; or how it diverged.
        """
        if not self.lanes:
            return {}
        started = time.perf_counter()
        self._lost = {}
        rates = {lane: self._begin_epoch(place, lane) for place, lane in self._occupied()}
        with arithmetic(self._recipe, self._data.device):
            trained = self._train(pulse)
        evaluated = self.evaluate(pulse)
        seconds = (time.perf_counter() - started) / len(rates)
        found: dict[Lane, dict[str, Any] | Diverged] = {}
        for place, lane in self._occupied():
            state, row = lane.state, trained[place]
            state.epoch += 1
            if lane in self._lost or not math.isfinite(row["train_loss"]):
                found[lane] = self._lost.get(lane) or Diverged(state.epoch, row["train_loss"])
                continue
            told = {"epoch": state.epoch, "lr": rates[lane], "sparsity": state.masks.sparsity}
            found[lane] = told | row | evaluated[place] | {"seconds": seconds}
            if lane.dynamics is not None:
                found[lane] |= loop.sparseness(state) | {"flops": lane.dynamics.flops()}
        return found

    def evaluate(self, pulse: Pulse = None) -> list[dict[str, float]]:
        """Losses and accuracies in percent on the validation and test splits, in every place."""
        self._networks.train(False)
        rows: list[dict[str, float]] = [{} for _ in self._places]
        with arithmetic(self._recipe, self._data.device):
            for name, split in (("val", self._data.validation), ("test", self._data.test)):
                for row, (loss, hits) in zip(rows, self._on_split(split, pulse), strict=True):
                    row[f"{name}_loss"] = loss / len(split)
                    row[f"{name}_acc"] = 100 * hits / len(split)
        return rows

    def gradients(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """Those of the mean loss of each lane on a batch of its own.

        Args:
            batches: as many as the stack is wide.

        Returns:
            For each parameter a tensor of shape (width, *shape).
        """
        self._networks.train(True)
        with arithmetic(self._recipe, self._data.device):
            _, flat = self._learn(*side_by_side(batches))
        return self._memory.blocks(flat)

    def _occupied(self) -> Iterator[tuple[int, Lane]]:
        return ((place, lane) for place, lane in enumerate(self._places) if lane is not None)

    def _begin_epoch(self, place: int, lane: Lane) -> float:
        """What its method asks for before an epoch; the learning rate of that."""
        if lane.dynamics is not None:
            with self._found_out(lane):
                loop.begin_epoch(lane.state, lane.recipe, self._data)
            lane.dynamics.begin_epoch()
            self._memory.mask(place, lane.state.masks)
        self._memory.rate(place, lane.rate)
        return lane.rate

    def _train(self, pulse: Pulse) -> list[dict[str, float]]:
        """Loss and accuracy on the training batches in every place."""
        self._networks.train(True)
        sums, seen = torch.zeros(2, self.width, device=self._data.device), 0
        for batches in self._batches():
            told, gradient = self._learn(*side_by_side(batches))
            sums += told
            seen += len(batches[0][1])
            self._step(batches, gradient)
            if pulse is not None:
                pulse()
        return [
            {"train_loss": loss / seen, "train_acc": 100 * hits / seen}
            for loss, hits in zip(*sums.tolist(), strict=True)
        ]

    def _batches(self) -> Iterator[list[Batch]]:
        """The next batch of every place; who is in none sees what the first one sees."""
        sources = {
            place: loop.epoch_batches(lane.recipe, self._data, lane.state.epoch)
            for place, lane in self._occupied()
        }
        for batches in zip(*sources.values(), strict=True):
            found = dict(zip(sources, batches, strict=True))
            yield [found.get(place, batches[0]) for place in range(self.width)]

    def _step(self, batches: Sequence[Batch], gradient: Tensor) -> None:
        """A step of SGD in every lane; then the masks of those whose turn it is."""
        due = []
        for place, lane in self._following():
            dynamics, is_due = lane.dynamics, lane.dynamics.due()
            blocks = self._memory.blocks(gradient) if is_due or dynamics.salient else {}
            with shown(lane.state, {name: block[place] for name, block in blocks.items()}):
                chosen = dynamics.before(batches[place], [])
            if chosen:
                names = prunable(lane.state.model)
                self._memory.mask(place, {n: f for n, (_, f) in zip(names, chosen, strict=True)})
            due += [(place, lane)] if is_due else []
        self._memory.step(gradient)
        for lane in self.lanes:
            lane.state.step += 1
        for place, lane in due:
            with self._found_out(lane):
                lane.dynamics.after([])
                self._memory.mask(place, lane.state.masks)

    def _following(self) -> Iterator[tuple[int, Lane]]:
        """Those whose masks change as their methods say."""
        for place, lane in self._occupied():
            if lane.dynamics is not None and lane not in self._lost:
                yield place, lane

    @contextmanager
    def _found_out(self, lane: Lane) -> Iterator[None]:
        """If a lane's weights cannot be ranked any more, the others go on without it."""
        try:
            yield
        except Diverged as diverged:
            self._lost[lane] = diverged

    def _on_split(self, split: Split, pulse: Pulse) -> list[tuple[float, float]]:
        """Sum of the losses and number of hits in every place."""
        told = []
        for images, targets in evaluation.blocks(split, self.width, pulse):
            (sums,) = self._judge(self._data.normalise(images), targets)
            told.append(sums.clone())
        losses, hits = torch.stack(told).cpu().double().sum(0).tolist()
        return list(zip(losses, hits, strict=True))


def fit(
    state: TrainState, recipe: Recipe, data: Dataset, until: int, pulse: Pulse = None
) -> Iterator[dict[str, Any]]:
    """As :func:`granet_lab.training.loop.fit`, but as a lane of a stack: on a CPU bit for bit as
    in any other stack.

    Raises:
        Diverged: the training loss of an epoch is not finite.
        ValueError: the run is too short for the method's schedule.
    """
    stack = Stack(recipe, data, 2)
    lane = stack.enter(state, recipe)
    try:
        while state.epoch < until:
            row = stack.train_epoch(pulse)[lane]
            if isinstance(row, Diverged):
                raise row
            yield row
    finally:
        stack.leave(lane)
