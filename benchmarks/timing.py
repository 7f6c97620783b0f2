"""Times side by side, and the tables they make."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

from granet_lab.experiments.environment import environment

Times = dict[str, list[float]]


def heading(device: str = "cpu") -> str:
    """Hardware, date, commit and torch: the line above every table."""
    told = environment(device)
    return (
        f"{told['hardware']}; {told['date'][:10]}; commit {told['commit']}; torch {told['torch']}"
    )


def in_turn(
    ways: Mapping[str, Callable[[], object]],
    repeats: int,
    warm_up: bool = True,
    before: Callable[[], object] = lambda: None,
) -> Times:
    """Seconds that each of several functions takes, A B C A B C ...: whatever else the machine does
    slows all of them.

    Args:
        ways: the functions.
        repeats: rounds that count.
        warm_up: whether there is a round before, which does not.
        before: called before each function, not timed.
    """
    times: Times = {name: [] for name in ways}
    for i in range(warm_up + repeats):
        for name, function in ways.items():
            before()
            started = time.perf_counter()
            function()
            if i >= warm_up:
                times[name].append(time.perf_counter() - started)
    return times


def ratio(a: Sequence[float], b: Sequence[float]) -> str:
    """A over B, round by round: the median, the lowest and the highest."""
    pairs = _over(a, b)
    return f"{statistics.median(pairs):.2f} ({pairs[0]:.2f} to {pairs[-1]:.2f})"


def gain(a: Sequence[float], b: Sequence[float]) -> float:
    """The median that :func:`ratio` tells."""
    return statistics.median(_over(a, b))


def _over(a: Sequence[float], b: Sequence[float]) -> list[float]:
    return sorted(x / y for x, y in zip(a, b, strict=True))


def scaled(times: Times, factors: Mapping[str, float]) -> Times:
    """Each way's seconds times its factor, 1 by default."""
    return {name: [factors.get(name, 1) * t for t in found] for name, found in times.items()}


def table(times: Times, base: str, unit: str = "s", faster: bool = True) -> str:
    """A line for each way: its median, and how many times as fast as the base it is; or, if not
    ``faster``, how many times as long it takes."""
    width = max(len(name) for name in times) + 2
    scale, digits = (1e3, 1) if unit == "ms" else (1.0, 2)
    lines = []
    for name, found in times.items():
        told = f"  {name:<{width}}{scale * statistics.median(found):9.{digits}f} {unit}"
        if name != base:
            pair = (times[base], found) if faster else (found, times[base])
            told += f"   {ratio(*pair)}"
        lines.append(told)
    return "\n".join(lines)
