"""Independent columns: the density of a model that sees no dependence between columns."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Self

import numpy as np
import torch

from vae_core.encoding import Feature

__all__ = ["IndependentColumns"]

BINS = 2048
SUPPORT = 2000  # values of a column that the kernel density is built from
HEAVY = 0.03  # weight of the Student-t(2) component, which covers what training never came near
NARROWEST = 0.08
SEEN = 8.5  # widths: beyond them a kernel has less than 1e-16 of its mass
WILD = 30.0  # ranges of the middle 90 %: a grid that reached farther would be too coarse for the rest
FINE = 1e-4  # steps of whole numbers below which their mass is density times step


class IndependentColumns:
    """log P(x) = sum over columns of log P(x_j): what a model knows that sees no dependence between columns.

    Real and whole columns: .97 of a Gaussian kernel density (on a grid, piecewise constant, so it integrates
    to 1 exactly) + .03 of a Student-t with 2 degrees of freedom; whole numbers take its mass on their step.
    Booleans and categories: smoothed shares (Laplace). In nats, in the VAE's base measure. Low = anomalous.
    It keeps grids, no training records.
    """

    def __init__(
        self, edges: np.ndarray, cumulative: np.ndarray, shares: np.ndarray, features: Sequence[Feature]
    ) -> None:
        self.edges = edges  # (m, BINS + 1)
        self.cumulative = cumulative  # (m, BINS + 1): the kernel density's distribution function at the edges
        self.shares = shares  # (m, classes): log-probabilities of discrete columns
        self.features = list(features)
        with np.errstate(invalid="ignore"):  # a discrete column has no grid
            density = np.diff(cumulative, axis=1) / np.diff(edges, axis=1)
        self.padded = np.pad((1 - HEAVY) * density, ((0, 0), (1, 1)))  # nothing before the grid, nor after

    @classmethod
    def fit(cls, values: np.ndarray, mask: np.ndarray, features: Sequence[Feature]) -> IndependentColumns:
        """Learn from encoded training records: values and mask (n, m) as TableEncoding.encode gives them."""
        m = len(features)
        classes = max([2] + [int(f.scale) for f in features if f.likelihood == "categorical"])
        edges = np.zeros((m, BINS + 1))
        cumulative = np.zeros((m, BINS + 1))
        shares = np.zeros((m, classes))
        for j, feature in enumerate(features):
            observed = values[mask[:, j], j]
            if feature.likelihood == "bernoulli":
                share = (observed.sum() + 1) / (len(observed) + 2)
                shares[j, :2] = np.log([1 - share, share])
            elif feature.likelihood == "categorical":
                size = int(feature.scale)
                counts = np.bincount(observed.astype(np.int64), minlength=size)[:size] + 1.0
                shares[j, :size] = np.log(counts / counts.sum())
            else:
                edges[j], cumulative[j] = _kernel_distribution(observed, feature)
        return cls(edges, cumulative, shares, features)

    def log_prob(self, values: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Terms log P(x_j) in nats, unsummed; 0 where a cell is missing: (n, m) -> (n, m)."""
        terms = np.empty(values.shape[::-1])  # a column's side by side
        for j, own in enumerate(self._terms(values, mask)):
            terms[j] = own
        return terms.T

    def score(self, values: np.ndarray, mask: np.ndarray, *, quick: bool = False) -> np.ndarray:
        """log P(x) of each record in nats, low = anomalous: (n, m) -> (n,). It is always quick."""
        total = np.zeros(len(values))
        for own in self._terms(values, mask):
            total += own
        return total

    def _terms(self, values: np.ndarray, mask: np.ndarray) -> Iterator[np.ndarray]:
        """Each column's log P(x_j), 0 where a cell is missing: m times (n,)."""
        whole = bool(mask.all())
        for j, feature in enumerate(self.features):
            x = values[:, j]
            if feature.likelihood == "bernoulli":  # of a grey value minus the cross-entropy, as in the VAE
                own = (1 - x) * self.shares[j, 0] + x * self.shares[j, 1]
            elif feature.likelihood == "categorical":
                own = self.shares[j, x.astype(np.int64).clip(0, self.shares.shape[1] - 1)]
            elif feature.likelihood == "whole":
                own = self._log_mass(j, x, feature.scale)
            else:
                own = self._log_density(j, x)
            yield own if whole else np.where(mask[:, j], own, 0.0)

    def parts(
        self, values: np.ndarray, mask: np.ndarray, *, quick: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Terms (n, m) and a KL of zeros (n,): there is no latent."""
        return self.log_prob(values, mask), np.zeros(len(values))

    def on(self, device: torch.device) -> Self:
        """Itself: looking up places in tables is the processor's."""
        return self

    def _log_density(self, j: int, x: np.ndarray) -> np.ndarray:
        first, last = self.edges[j, 0], self.edges[j, -1]
        place = (x - first) * (BINS / (last - first))
        place += 1
        kernel = self.padded[j].take(place.clip(0, BINS + 1, out=place).astype(np.int64))
        kernel += HEAVY * _student(x)
        return np.log(kernel, out=kernel)

    def _log_mass(self, j: int, x: np.ndarray, step: float) -> np.ndarray:
        """log P(x - step/2 < X < x + step/2), without cancellation for small steps and far values."""
        if step < FINE:
            return self._log_density(j, x) + math.log(step)
        half = 0.5 * step
        kernel = self._below(j, x + half) - self._below(j, x - half)
        size = np.abs(x)
        near = _student_tail(size - half) - _student_tail(size + half)
        heavy = np.where(size > 1e4 * max(1.0, half), step * _student(x), near)
        return np.log((1 - HEAVY) * kernel.clip(0) + HEAVY * heavy)

    def _below(self, j: int, x: np.ndarray) -> np.ndarray:
        """The kernel density's distribution function: linear between the grid's edges."""
        first, last = self.edges[j, 0], self.edges[j, -1]
        place = (x.clip(first, last) - first) * (BINS / (last - first))
        bin_ = place.astype(np.int64).clip(max=BINS - 1)
        below = self.cumulative[j, bin_]
        return below + (place - bin_) * (self.cumulative[j, bin_ + 1] - below)

    def arrays(self) -> dict[str, np.ndarray]:
        """What storage writes. The grids are evenly spaced: their ends suffice."""
        return {"ends": self.edges[:, [0, -1]], "cumulative": self.cumulative, "shares": self.shares}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], features: Sequence[Feature]) -> IndependentColumns:
        edges = np.stack([np.linspace(low, high, BINS + 1) for low, high in arrays["ends"]])
        return cls(edges, arrays["cumulative"], arrays["shares"], features)


def _student(x: np.ndarray) -> np.ndarray:
    """Density of Student's t with 2 degrees of freedom."""
    spread = 2 + np.square(x)
    return 1 / spread / np.sqrt(spread)  # the product would overflow


def _student_tail(x: np.ndarray) -> np.ndarray:
    """P(X > x) of Student's t with 2 degrees of freedom, in closed form."""
    size = np.minimum(np.abs(x), 1e150)  # whose square does not overflow
    spread = 2 + np.square(size)
    tail = 1 / (spread * (1 + size / np.sqrt(spread)))
    return np.where(x < 0, 1 - tail, tail)


def _kernel_distribution(observed: np.ndarray, feature: Feature) -> tuple[np.ndarray, np.ndarray]:
    """Grid and distribution function of a Gaussian kernel density of at most SUPPORT quantiles of it."""
    if not len(observed):
        observed = np.zeros(1)
    support = min(SUPPORT, len(observed))
    points = np.quantile(observed, (np.arange(support) + 0.5) / support)
    middle = (np.quantile(observed, 0.75) - np.quantile(observed, 0.25)) / 1.349
    deviation = min(observed.std(), middle or np.inf)
    width = 0.9 * deviation * len(points) ** -0.2  # Silverman (1986), equation 3.31
    step = feature.scale if feature.likelihood == "whole" else _step(observed)
    width = max(width, NARROWEST, 0.5 * step)
    bottom, low, high, top = np.quantile(observed, [0.001, 0.05, 0.95, 0.999])
    reach = WILD * max(high - low, width)
    first = max(points[0], bottom, low - reach) - 5 * width
    last = min(points[-1], top, high + reach) + 5 * width
    edges = np.linspace(first, last, BINS + 1)
    cumulative = np.zeros(BINS + 1)
    for chunk in np.array_split(points, max(1, len(points) // 200)):
        below, above = np.searchsorted(edges, [chunk[0] - SEEN * width, chunk[-1] + SEEN * width])
        distance = torch.from_numpy((edges[below:above, None] - chunk) / (width * math.sqrt(2)))
        cumulative[below:above] += 0.5 * (1 + torch.erf(distance)).sum(1).numpy()
        cumulative[above:] += len(chunk)
    # What lies beyond the grid is left to the Student-t, not heaped into the outermost bins.
    return edges, (cumulative - cumulative[0]) / (cumulative[-1] - cumulative[0])


def _step(observed: np.ndarray) -> float:
    """The usual distance between neighbouring different values, where a column has few of them."""
    different = np.unique(observed)
    return float(np.median(np.diff(different))) if 1 < len(different) < 0.1 * len(observed) else 0.0
