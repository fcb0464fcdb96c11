"""Probabilistic PCA: the linear latent variable model x = W z + mean + noise, by its closed-form maximum.

The weak baseline, the oracle of the bound (its log P(x) is exact) and the VAE's starting point.
Tipping & Bishop (1999).
"""

from __future__ import annotations

import math
from typing import Self

import numpy as np
from scipy.linalg import cho_factor, cho_solve, eigh

__all__ = ["ProbabilisticPCA"]

SMALLEST_NOISE = 1e-9  # share of the largest variance: keeps a density where the data lie in a subspace


class ProbabilisticPCA:
    """P(z) = N(0, I), P(x|z) = N(W z + mean, noise_variance I); so P(x) = N(mean, W W' + noise_variance I).

    Fitted attributes: `components_` W (m, p) with orthogonal columns, `mean_` (m,), `noise_variance_`. A missing
    value (NaN) takes its column's mean in `fit`; `score_samples` integrates it out exactly.
    """

    def __init__(self, n_components: int = 2) -> None:
        self.n_components = n_components

    def fit(self, X: np.ndarray, y: object = None) -> Self:
        """Closed-form maximum likelihood from X (n, m): equations 14 and 15 of Tipping & Bishop (1999).

        With n_components >= m the noise takes its smallest value. Raises ValueError for an empty X or
        n_components < 1.
        """
        X = np.asarray(X, dtype=np.float64)
        if X.ndim != 2 or not X.size:
            raise ValueError(f"X must have rows and columns; got shape {X.shape}")
        if self.n_components < 1:
            raise ValueError(f"n_components must be at least 1; got {self.n_components}")
        n, m = X.shape
        observed = ~np.isnan(X)
        self.mean_ = np.where(observed, X, 0).sum(0) / np.maximum(1, observed.sum(0))
        centred = np.where(observed, X - self.mean_, 0)
        p = min(self.n_components, m)
        if m <= n:
            values, vectors = eigh(centred.T @ centred / n)
        else:  # the same eigenvectors from the smaller (n, n) matrix
            values, left = eigh(centred @ centred.T / n)
            vectors = centred.T @ left / np.sqrt(np.maximum(values * n, 1e-300))
        values, vectors = values[::-1].clip(min=0), vectors[:, ::-1]
        total, kept = np.square(centred).sum() / n, values[:p]
        noise = (total - kept.sum()) / (m - p) if p < m else 0.0
        self.noise_variance_ = float(max(noise, SMALLEST_NOISE * max(values[0], 1e-12)))
        scales = np.sqrt(np.maximum(kept - self.noise_variance_, 0))
        self.components_ = np.where(scales > 0, vectors[:, : len(kept)] * scales, 0.0)
        return self

    def posterior(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Q(z|x) = P(z|x) for complete records: means (n, p) and the covariance (p, p) that all share."""
        inner = self.components_.T @ self.components_ + self.noise_variance_ * np.eye(self.components_.shape[1])
        factor = cho_factor(inner)
        mean = cho_solve(factor, self.components_.T @ (np.asarray(X) - self.mean_).T).T
        return mean, self.noise_variance_ * cho_solve(factor, np.eye(len(inner)))

    def score_samples(self, X: np.ndarray) -> np.ndarray:
        """Exact log P(x) of each record in nats, low = anomalous: (n, m) -> (n,).

        Missing values are integrated out: the marginal of a Gaussian is the Gaussian of the observed columns.
        """
        X = np.asarray(X, dtype=np.float64)
        observed = ~np.isnan(X)
        result = np.zeros(len(X))
        patterns, which = np.unique(observed, axis=0, return_inverse=True)
        for k, pattern in enumerate(patterns):
            rows = np.flatnonzero(which.reshape(-1) == k)
            result[rows] = self._log_density(X[np.ix_(rows, pattern)], pattern)
        return result

    def _log_density(self, x: np.ndarray, pattern: np.ndarray) -> np.ndarray:
        """log N of the observed columns by the matrix inversion lemma: p x p matrices only."""
        loadings, noise = self.components_[pattern], self.noise_variance_
        deviation = x - self.mean_[pattern]
        inner = loadings.T @ loadings + noise * np.eye(loadings.shape[1])
        factor = cho_factor(inner)
        projected = deviation @ loadings
        squares = (np.square(deviation).sum(1) - (projected * cho_solve(factor, projected.T).T).sum(1)) / noise
        m, p = loadings.shape
        log_determinant = 2 * np.log(np.diag(factor[0])).sum() + (m - p) * math.log(noise)
        return -0.5 * (squares + log_determinant + m * math.log(2 * math.pi))

    def sample(self, n_samples: int = 1, *, random_state: int | np.random.Generator | None = None) -> np.ndarray:
        """New records: z ~ N(0, I), x ~ N(W z + mean, noise_variance I): (n_samples, m)."""
        generator = np.random.default_rng(random_state)
        z = generator.standard_normal((n_samples, self.components_.shape[1]))
        noise = generator.standard_normal((n_samples, len(self.mean_))) * math.sqrt(self.noise_variance_)
        return z @ self.components_.T + self.mean_ + noise
