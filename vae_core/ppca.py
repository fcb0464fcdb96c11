"""Probabilistic PCA: the linear latent variable model x = W z + mean + noise, by its closed-form maximum.

The weak baseline, the oracle of the bound (its log P(x) is exact) and the VAE's starting point.
Tipping & Bishop (1999), "Probabilistic principal component analysis", J. R. Statist. Soc. B 61, 611-622.
"""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
from scipy.linalg import cho_factor, cho_solve, eigh
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from vae_core.chance import private_generator

__all__ = ["ProbabilisticPCA"]

SMALLEST_NOISE = 1e-9  # share of the largest variance: keeps a density where the data lie in a subspace
SMALLEST_VARIANCE = 1e-12  # taken for the largest variance where all records are equal


class ProbabilisticPCA(DensityMixin, BaseEstimator):
    """P(z) = N(0, I), P(x|z) = N(W z + mean, noise_variance I); so P(x) = N(mean, W W' + noise_variance I).

    Parameters
    ----------
    n_components : int
        Latents p. More than features m or records n hold are left out: see `components_`.

    Attributes
    ----------
    components_ : W, float64 (m, min(p, m, n)), loadings in the data's units: orthogonal columns, falling in
        length, zero where the data have no variance above the noise.
    mean_ : (m,).
    noise_variance_ : float, above 0: the mean variance of the m - p directions left out, at least 1e-9 of the
        largest. With p >= m that is all, and P(x) is the Gaussian with the data's own covariance.
    n_features_in_ : m.

    A missing value (NaN) takes its column's mean in `fit` (an all-missing column: mean 0, no variance);
    `score_samples` integrates it out exactly.

    Examples
    --------
    >>> X = np.random.default_rng(0).normal(size=(500, 3)) @ np.diag([3.0, 1.0, 1.0])
    >>> model = ProbabilisticPCA(n_components=1).fit(X)
    >>> model.score_samples([[0.0, 0.0, 0.0], [9.0, 0.0, 0.0], [0.0, 9.0, 0.0]]).round(0)
    array([ -4.,  -9., -45.])
    """

    def __init__(self, n_components: int = 2) -> None:
        self.n_components = n_components

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def fit(self, X: Any, y: object = None) -> Self:
        """Closed-form maximum likelihood from X (n, m): equations 7 and 8 of Tipping & Bishop (1999).

        Raises ValueError for an X without rows or columns, infinite values, or n_components < 1.
        """
        if self.n_components < 1:
            raise ValueError(f"n_components must be at least 1; got {self.n_components}")
        x = validate_data(self, X, dtype=np.float64, ensure_all_finite="allow-nan")
        n, m = x.shape
        observed = ~np.isnan(x)
        self.mean_ = np.where(observed, x, 0).sum(0) / np.maximum(1, observed.sum(0))
        centred = np.where(observed, x - self.mean_, 0)
        values, vectors = principal_directions(centred)
        p = min(self.n_components, m)
        total, kept = np.square(centred).sum() / n, values[:p]
        noise = (total - kept.sum()) / (m - p) if p < m else 0.0
        self.noise_variance_ = float(max(noise, SMALLEST_NOISE * max(values[0], SMALLEST_VARIANCE)))
        scales = np.sqrt(np.maximum(kept - self.noise_variance_, 0))
        self.components_ = np.where(scales > 0, vectors[:, : len(kept)] * scales, 0.0)
        return self

    def get_covariance(self) -> np.ndarray:
        """The model's covariance of x, W W' + noise_variance I: (m, m)."""
        check_is_fitted(self)
        return self.components_ @ self.components_.T + self.noise_variance_ * np.eye(len(self.mean_))

    def posterior(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """P(z|x) for complete records: the means (n, p) and the covariance (p, p) that all records share.

        Raises ValueError for a missing value: then each record has a covariance of its own.
        """
        check_is_fitted(self)
        x = validate_data(self, X, dtype=np.float64, reset=False)
        factor = _inner_factor(self.components_, self.noise_variance_)
        mean = cho_solve(factor, self.components_.T @ (x - self.mean_).T).T
        return mean, self.noise_variance_ * cho_solve(factor, np.eye(self.components_.shape[1]))

    def score_samples(self, X: Any) -> np.ndarray:
        """Exact log P(x) of each record in nats, low = anomalous: (n, m) -> (n,).

        Missing values are integrated out: the marginal of a Gaussian is the Gaussian of the observed columns
        (a record with none has log P = 0). Records with fewer observed columns are densities in fewer
        dimensions: compare them with care. Raises ValueError for infinite values or another m than in `fit`.
        """
        check_is_fitted(self)
        x = validate_data(self, X, dtype=np.float64, reset=False, ensure_all_finite="allow-nan")
        result = np.zeros(len(x))
        patterns, which = np.unique(~np.isnan(x), axis=0, return_inverse=True)
        for k, pattern in enumerate(patterns):
            if not pattern.any():
                continue
            rows = np.flatnonzero(which.reshape(-1) == k)
            result[rows] = self._log_density(x[np.ix_(rows, pattern)], pattern)
        return result

    def score(self, X: Any, y: object = None) -> float:
        """Mean log P(x) over the records of X, in nats."""
        return float(self.score_samples(X).mean())

    def sample(
        self, n_samples: int = 1, *, random_state: int | np.random.Generator | None = None
    ) -> np.ndarray:
        """New records: z ~ N(0, I), x ~ N(W z + mean, noise_variance I): (n_samples, m)."""
        check_is_fitted(self)
        if isinstance(random_state, (int, np.integer)):
            random_state = private_generator("generation", random_state)
        generator = np.random.default_rng(random_state)
        z = generator.standard_normal((n_samples, self.components_.shape[1]))
        noise = generator.standard_normal((n_samples, len(self.mean_))) * math.sqrt(self.noise_variance_)
        return z @ self.components_.T + self.mean_ + noise

    def _log_density(self, x: np.ndarray, pattern: np.ndarray) -> np.ndarray:
        """log N of the observed columns with p x p matrices only (matrix inversion lemma): (n, o) -> (n,).

        The Mahalanobis square is written as |x - mean - W z|^2 / noise + |z|^2 at the posterior mean z: a sum
        of squares, so that nothing cancels where the noise is tiny.
        """
        loadings, noise = self.components_[pattern], self.noise_variance_
        deviation = x - self.mean_[pattern]
        factor = _inner_factor(loadings, noise)
        z = cho_solve(factor, loadings.T @ deviation.T).T
        squares = np.square(deviation - z @ loadings.T).sum(1) / noise + np.square(z).sum(1)
        m, p = loadings.shape
        log_determinant = 2 * np.log(np.diag(factor[0])).sum() + (m - p) * math.log(noise)
        return -0.5 * (squares + log_determinant + m * math.log(2 * math.pi))


def principal_directions(centred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The min(n, m) variances of centred (n, m), falling, and their unit directions in columns."""
    n, m = centred.shape
    if m <= n:
        values, vectors = eigh(centred.T @ centred / n)
    else:  # the same directions from the smaller (n, n) matrix; where the variance is 0 they are not used
        values, left = eigh(centred @ centred.T / n)
        vectors = centred.T @ left / np.sqrt(np.maximum(values * n, np.finfo(float).tiny))
    return values[::-1].clip(min=0), vectors[:, ::-1]


def _inner_factor(loadings: np.ndarray, noise: float) -> tuple[np.ndarray, bool]:
    """Cholesky factor of W'W + noise I: (p, p)."""
    return cho_factor(loadings.T @ loadings + noise * np.eye(loadings.shape[1]))
