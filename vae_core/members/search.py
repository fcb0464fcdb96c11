"""The best pair of two settings, without trying them all."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

__all__ = ["highest"]

T = TypeVar("T")


def highest(
    ones: Sequence[float], others: Sequence[float], value_of: Callable[[float, float], tuple[float, T]]
) -> T:
    """What comes with the highest value over (one, other): every `one` with the first of `others`, then with
    each next one uphill from where it was highest with the one before, looking two steps ahead. Exact where a
    value has one summit, or a dip of one step before it.

    >>> highest([1, 2, 3, 4], [0, 1], lambda a, b: (-((a - 2 - b) ** 2), (a, b)))
    (2, 0)
    """
    best, kept, place = -math.inf, None, 0
    for number, other in enumerate(others):
        known: dict[int, float] = {}

        def at(k: int, other: float = other, known: dict[int, float] = known) -> float:
            nonlocal best, kept
            if not 0 <= k < len(ones):
                return -math.inf
            if k not in known:
                known[k], found = value_of(ones[k], other)
                if known[k] > best:
                    best, kept = known[k], found
            return known[k]

        if number == 0:
            place = max(range(len(ones)), key=at)
        for step in (1, -1):
            while max(at(place + step), at(place + 2 * step)) > at(place):
                place += step if at(place + step) >= at(place + 2 * step) else 2 * step
    assert kept is not None  # a value is a number above minus infinity
    return kept
