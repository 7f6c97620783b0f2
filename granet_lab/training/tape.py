"""The operations of a function, run again without the Python that chose them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from granet_lab.operations import Operations

Outputs = tuple[Tensor | None, ...]


def record(
    function: Callable[..., Outputs], inputs: Sequence[Tensor]
) -> tuple[Outputs, Callable[..., Outputs]]:
    """Call a function, and write down what it does.

    Returns:
        What it returns; and what does the same to other inputs of the same shapes. Tensors that
        are neither inputs nor made on the way are taken from where they are.

    Raises:
        RuntimeError: it asks for a value of a tensor, on which what it does may depend.
    """
    tape = _Tape()
    with tape:
        outputs = function(*inputs)
    return outputs, _Replay(tape.operations, inputs, outputs)


class _Tape(Operations):
    """Notes every operation inside the block; tensors stay, so that each has a name of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Callable, tuple, dict[str, Any], Any]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("it asks for a value of a tensor")
        found = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, found))
        return found


@dataclass
class _Step:
    """An operation; ``places`` say which of its arguments are tensors made by others, and where
    those stand; what it makes goes to ``made``; what nobody needs any more is ``done``."""

    function: Callable
    arguments: list[Any]
    keywords: dict[str, Any]
    places: list[tuple[int, int]]
    lists: list[tuple[int, list[tuple[int, int]]]]
    words: list[tuple[str, int]]
    made: list[int | None]
    single: bool
    done: list[int] = field(default_factory=list)


class _Replay:
    """See :func:`record`."""

    def __init__(
        self,
        operations: Iterable[tuple[Callable, tuple, dict[str, Any], Any]],
        inputs: Sequence[Tensor],
        outputs: Outputs,
    ) -> None:
        self._known = {id(tensor): place for place, tensor in enumerate(inputs)}
        self._room = len(inputs)
        self._steps = [self._step(*operation) for operation in operations]
        self._outputs = [
            (self._known.get(id(one)), one if id(one) not in self._known else None)
            for one in outputs
        ]
        self._free()

    @torch.no_grad()
    def __call__(self, *inputs: Tensor) -> Outputs:
        values: list[Tensor | None] = [*inputs, *[None] * (self._room - len(inputs))]
        for step in self._steps:
            arguments = step.arguments
            if step.places or step.lists:
                arguments = arguments.copy()
                for i, place in step.places:
                    arguments[i] = values[place]
                for i, places in step.lists:
                    arguments[i] = arguments[i].copy()
                    for j, place in places:
                        arguments[i][j] = values[place]
            keywords = step.keywords
            if step.words:
                keywords = keywords | {word: values[place] for word, place in step.words}
            found = step.function(*arguments, **keywords)
            for place, value in zip(step.made, (found,) if step.single else found, strict=True):
                if place is not None:
                    values[place] = value
            for place in step.done:
                values[place] = None
        return tuple(one if place is None else values[place] for place, one in self._outputs)

    def _step(self, function: Callable, args: tuple, kwargs: dict[str, Any], found: Any) -> _Step:
        arguments = [list(a) if isinstance(a, list | tuple) else a for a in args]
        step = _Step(
            function=function,
            arguments=arguments,
            keywords=kwargs,
            places=self._places(enumerate(arguments)),
            lists=[
                (i, places)
                for i, a in enumerate(arguments)
                if isinstance(a, list) and (places := self._places(enumerate(a)))
            ],
            words=self._places(kwargs.items()),
            made=[],
            single=not isinstance(found, list | tuple),
        )
        step.made = [self._place_of(one) for one in ((found,) if step.single else found)]
        step.keywords = {n: v for n, v in kwargs.items() if n not in dict(step.words)}
        for i, _ in step.places:
            arguments[i] = None
        for i, places in step.lists:
            for j, _ in places:
                arguments[i][j] = None
        return step

    def _places(self, named: Iterable[tuple[Any, Any]]) -> list[tuple[Any, int]]:
        """The names of those that are inputs or were made on the way, and where they stand."""
        return [(n, self._known[id(a)]) for n, a in named if id(a) in self._known]

    def _place_of(self, made: Any) -> int | None:
        """Where an operation's result goes; what it has changed in place stays where it is."""
        if not isinstance(made, Tensor):
            return None
        if id(made) not in self._known:
            self._known[id(made)] = self._room
            self._room += 1
        return self._known[id(made)]

    def _free(self) -> None:
        """Note after which step each tensor is not needed any more."""
        needed = {place for place, _ in self._outputs}
        for step in reversed(self._steps):
            used = {place for _, place in (*step.places, *step.words)}
            used |= {place for _, places in step.lists for _, place in places}
            used |= {place for place in step.made if place is not None}
            step.done = sorted(used - needed)
            needed |= used
