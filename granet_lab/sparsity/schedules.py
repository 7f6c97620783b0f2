"""Schedules: pure functions of how far training has come, 0 to 1."""

from __future__ import annotations

import math


def cubic(progress: float, start: float, end: float) -> float:
    """From ``start`` to ``end``, fast at first: end + (start - end) (1 - progress)^3.

    Zhu & Gupta 2017, equation 1; held at its ends outside [0, 1].
    """
    left = 1 - min(1.0, max(0.0, progress))
    return end + (start - end) * left**3


def cosine(progress: float, start: float, end: float) -> float:
    """From ``start`` to ``end`` along half a cosine; held at its ends outside [0, 1]."""
    place = min(1.0, max(0.0, progress))
    return end + (start - end) * (1 + math.cos(math.pi * place)) / 2
