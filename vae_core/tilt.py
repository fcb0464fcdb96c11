"""An objection counts more than in proportion: members' bounds are lowered where they are unusually low.

A member's density p, times f(x) = exp(-(u - b(x))^2 / s) where its bound b lies below the usual one u (f = 1
elsewhere; from `FARTHEST` spreads below, log f goes on along its tangent), over the integral of the product,
is a density again: p exponentially tilted towards what is usual. f and that integral are at most 1, so
b + log f is a lower bound on the log of both, the tilted density and p. A record that one member finds far
out is then ranked before one that several find a little unusual.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

__all__ = ["Tilt"]

NO_SPREAD = 1e-6  # nats
LEAST = 0.3  # of the spread of the bounds that differ: below it, many records that are alike hide the spread
FARTHEST = 10.0  # spreads below the usual bound: from there on log f falls along its tangent


@dataclass(frozen=True)
class Tilt:
    """How a member's bounds are lowered, in nats; learnt from its bounds on training records."""

    usual: float  # their median
    spread: float  # their interquartile range, see `of`

    @classmethod
    def of(cls, bounds: np.ndarray) -> Self:
        """From a member's bounds on training records: (n,).

        Where half of the records are alike (a machine at rest), the interquartile range is nearly 0 and says
        nothing of the others: three tenths of that of the different bounds is the least.
        """
        low, usual, high = np.quantile(bounds, [0.25, 0.5, 0.75])
        first, last = np.quantile(np.unique(bounds.round(6)), [0.25, 0.75])
        return cls(float(usual), max(float(high - low), LEAST * float(last - first), NO_SPREAD))

    def log_factor(self, bound: np.ndarray) -> np.ndarray:
        """log f, what bounds are lowered by: -(usual - bound)^2 / spread below the usual: (n,) -> (n,)."""
        below = np.maximum(self.usual - bound, 0.0)
        near = np.minimum(below, FARTHEST * self.spread)
        return np.asarray(-near / self.spread * (2 * below - near))
