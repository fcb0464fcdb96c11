"""The density of a vector (a pretrained network's features): a shrunk Gaussian in its principal components.

The first k components become features of the model, each in units of its shrunk standard deviation: there
the VAE and its companions may find more than a Gaussian does. All other directions keep the Gaussian of the
shrunk covariance (1 - s) S + s mu I, in closed form, with the s of Ledoit & Wolf (2004), "A well-conditioned
estimator for large-dimensional covariance matrices", J. Multivariate Anal. 88, 365-411. That works with fewer
records than numbers in a vector: directions that training had no variance in share the variance s mu.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from vae_core.arrow import vectors
from vae_core.networks import KERNEL_WIDTH

__all__ = ["COMPONENTS", "MOST_NUMBERS", "VectorDensity", "finite_features"]

COMPONENTS = 16  # features of the model, at most
MOST_NUMBERS = 40_000_000  # of the vectors that the density is learnt from
AT_ONCE = 64  # vectors: products of one fixed shape, so that each has the same bits in any company
VISIBLE = 1e-9  # share of the largest variance below which a direction is not told from rounding
FAR = 1e30  # spreads, beyond which the first components go on logarithmically: always finite in float32
LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class VectorDensity:
    """N(mean, V diag(variances) V' + rest (I - V V')) of a vector of d numbers, r of its directions known.

    The density is in units of `scale`, one for all numbers: the one in which the Gaussian's entropy is that
    of a single standard normal variable. A missing vector (0 nats) is then not favoured by its width.
    """

    mean: np.ndarray  # (d,)
    directions: np.ndarray  # V (d, r), orthonormal, by falling variance
    variances: np.ndarray  # (r,), shrunk
    rest: float  # the variance of every other direction
    shrinkage: float

    @classmethod
    def fit(cls, x: np.ndarray) -> Self:
        """Learn from vectors (n, d), n at least 1, with finite values."""
        from sklearn.covariance import ledoit_wolf_shrinkage  # a second to import, and scoring does without

        from vae_core.ppca import SMALLEST_NOISE, principal_directions

        x = x.astype(np.float64)
        n, d = x.shape
        mean = x.mean(0)
        centred = x - mean
        largest = float(np.abs(centred).max())
        unit = largest if largest > 0 else 1.0  # squares of the smallest numbers vanish
        values, directions = principal_directions(centred / unit)
        keep = (values > VISIBLE * values[0])[: min(n - 1, d)] if largest > 0 else np.zeros(0, bool)
        directions, values = directions[:, : len(keep)][:, keep], values[: len(keep)][keep]
        if not len(values):  # all vectors are equal: any direction will do
            directions, values = np.eye(d, 1), np.zeros(1)
        shrinkage = float(ledoit_wolf_shrinkage(centred / unit)) if largest > 0 and d > 1 else 0.0
        average = values.sum() / d
        largest_variance = values[0] if values[0] > 0 else float(np.square(mean).mean()) or 1.0
        floor = SMALLEST_NOISE * largest_variance
        variances = np.maximum((1 - shrinkage) * values + shrinkage * average, floor)
        square = unit * unit
        return cls(mean, directions, variances * square, max(shrinkage * average, floor) * square, shrinkage)

    @property
    def width(self) -> int:
        """d: the numbers in a vector."""
        return len(self.mean)

    @property
    def components(self) -> int:
        """k: how many of the directions are features of the model."""
        return min(COMPONENTS, len(self.variances))

    @property
    def log_scale(self) -> float:
        """log of the unit, chosen as the class says."""
        return self._log_deviations() / self.width + 0.5 * (LOG_2PI + 1) * (1 - 1 / self.width)

    def _log_deviations(self) -> float:
        """The sum of all directions' log standard deviations."""
        others = (self.width - len(self.variances)) * math.log(self.rest)
        return 0.5 * (float(np.log(self.variances).sum()) + others)

    def encode(self, array: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A column of n vectors -> features (n, k) in spreads, the other directions' nats (n,), missing (n,).

        log P(x) in units of the scale = log-density of the features + nats. Both are 0 where one is missing.
        """
        n, k = len(array), self.components
        features, nats, missing = np.zeros((n, k)), np.zeros(n), np.zeros(n, bool)
        for part, projections, total in self._projections(array):
            missing[part] = np.isnan(total)
            features[part], squared = self._parts(projections, total)
            nats[part] = -0.5 * squared
        # Of all d directions the determinant, since the features are in spreads; of the others 2 pi.
        constant = self.width * self.log_scale - self._log_deviations() - 0.5 * (self.width - k) * LOG_2PI
        return np.where(missing[:, None], 0.0, features), np.where(missing, 0.0, nats + constant), missing

    def _parts(self, projections: np.ndarray, total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates (b, r) and squared distances (b,) -> features (b, k) and the other squares (b,)."""
        k = self.components
        known = np.square(projections) / self.variances
        away = (total - np.square(projections).sum(1)).clip(min=0) / self.rest
        features = finite_features(projections[:, :k] / np.sqrt(self.variances[:k]))
        return features, known[:, k:].sum(1) + (away if self.width > len(self.variances) else 0.0)

    def spreads(self, array: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """How far each vector lies from the mean, in the root mean square of its directions' spreads: (n,).

        1 is usual (the Mahalanobis distance over sqrt(d)); NaN where a vector is missing.
        """
        result = np.zeros(len(array))
        for part, projections, total in self._projections(array):
            away = (total - np.square(projections).sum(1)).clip(min=0) / self.rest
            if self.width == len(self.variances):
                away = np.where(np.isnan(total), np.nan, 0.0)
            result[part] = np.sqrt(((np.square(projections) / self.variances).sum(1) + away) / self.width)
        return result

    def decode(self, features: np.ndarray, generator: np.random.Generator | None = None) -> np.ndarray:
        """Features (n, k) -> vectors (n, d) float32, all other directions at the mean, or drawn."""
        k = self.components
        known = np.zeros((len(features), len(self.variances)))
        known[:, :k] = features * np.sqrt(self.variances[:k])
        noise: np.ndarray | float = 0.0
        if generator is not None:
            known[:, k:] = generator.standard_normal((len(known), len(self.variances) - k))
            known[:, k:] *= np.sqrt(self.variances[k:])
            free = generator.standard_normal((len(known), self.width)) * math.sqrt(self.rest)
            noise = free - free @ self.directions @ self.directions.T
        limit = float(np.finfo(np.float32).max)
        return (self.mean + known @ self.directions.T + noise).clip(-limit, limit).astype(np.float32)

    def _projections(
        self, array: pa.Array | pa.ChunkedArray
    ) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """For some rows at a time: coordinates in the known directions (b, r), squared distance (b,)."""
        for first in range(0, len(array), AT_ONCE):
            part = slice(first, min(first + AT_ONCE, len(array)))
            here = part.stop - part.start
            centred = np.zeros((AT_ONCE, self.width))
            centred[:here] = vectors(array.slice(first, here)) - self.mean
            projections = (torch.from_numpy(centred) @ self._padded)[:here, : len(self.variances)]
            yield part, projections.numpy(), np.square(centred).sum(1)[:here]

    @cached_property
    def _padded(self) -> Tensor:
        """The directions (d, r) side by side up to full kernel widths: a product's row has the same bits then
        wherever it stands, however the directions lie in memory, and with any number of threads."""
        missing = -len(self.variances) % KERNEL_WIDTH
        padded = np.pad(self.directions, ((0, 0), (0, missing)))
        return torch.from_numpy(np.ascontiguousarray(padded))

    def arrays(self) -> dict[str, np.ndarray]:
        """What `from_arrays` takes."""
        return {
            "mean": self.mean,
            "directions": self.directions,
            "variances": self.variances,
            "rest": np.array([self.rest, self.shrinkage]),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> Self:
        """The way back from `arrays`."""
        rest, shrinkage = (float(value) for value in arrays["rest"])
        return cls(arrays["mean"], arrays["directions"], arrays["variances"], rest, shrinkage)


def finite_features(features: np.ndarray) -> np.ndarray:
    """Beyond FAR spreads logarithmically: monotone, finite in single precision."""
    far = np.abs(features) > FAR
    if far.any():
        size = np.abs(features[far])
        features[far] = np.sign(features[far]) * FAR * (1 + np.log(size / FAR))
    return features
