"""The detectors that `quality` compares: each takes training and test records and scores the test records.

A method is a function (train, seed) -> score, and score(test) -> (n,), low = anomalous. Records come as
DataFrames of features; the baselines see them as numbers (`Numbers`), our detector as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors

from vae_core.detector import VAEDetector, as_table
from vae_core.ppca import ProbabilisticPCA

__all__ = ["DEFAULT", "METHODS", "Numbers", "components_for", "method"]

Score = Callable[[pd.DataFrame], np.ndarray]
Method = Callable[[pd.DataFrame, int], Score]


@dataclass
class Numbers:
    """Features as a matrix: booleans 0 and 1, a category as one column for each value seen in training.

    Limits come from the training records. `missing` keeps NaN for a method that can use it; otherwise a
    missing cell takes its column's training mean. A column without spread becomes zeros.
    """

    train: pd.DataFrame
    scaling: str = "standard"  # or "minmax"
    missing: bool = False

    def __post_init__(self) -> None:
        self.values = {
            name: sorted(column.dropna().astype(str).unique())
            for name, column in self.train.items()
            if not pd.api.types.is_numeric_dtype(column.dtype)
        }
        raw = self._raw(self.train)
        kept = ~np.isnan(raw).all(0)
        self.kept, raw = kept, raw[:, kept]
        if self.scaling == "standard":
            self.centre, spread = np.nanmean(raw, 0), np.nanstd(raw, 0)
        else:
            self.centre = np.nanmin(raw, 0)
            spread = np.nanmax(raw, 0) - self.centre
        # Rounding alone gives a constant column of large values a tiny spread.
        self.varies = spread > 1e-12 * np.maximum(1, np.abs(self.centre))
        self.spread = np.where(self.varies, spread, 1.0)
        self.fill = np.nanmean(raw, 0)

    def __call__(self, frame: pd.DataFrame) -> np.ndarray:
        raw = self._raw(frame)[:, self.kept]
        if not self.missing:
            raw = np.where(np.isnan(raw), self.fill, raw)
        return np.where(self.varies, (raw - self.centre) / self.spread, 0.0)

    def _raw(self, frame: pd.DataFrame) -> np.ndarray:
        blocks = []
        for name, column in frame.items():
            if name not in self.values:
                blocks.append(column.to_numpy(np.float64, na_value=np.nan)[:, None])
                continue
            text = column.astype(str).to_numpy(object)
            block = (text[:, None] == np.array(self.values[name], object)).astype(np.float64)
            block[column.isna().to_numpy()] = np.nan
            blocks.append(block)
        matrix = np.concatenate(blocks, axis=1)
        if np.isinf(matrix).any():
            raise ValueError("infinite values cannot be scaled")
        return matrix


def components_for(x: np.ndarray, share: float = 0.9) -> int:
    """The fewest principal components that hold `share` of the variance of x (n, m), at least 1, below m."""
    variances = np.linalg.svd(np.nan_to_num(x - np.nanmean(x, 0)), compute_uv=False) ** 2
    enough = int(np.searchsorted(np.cumsum(variances), share * variances.sum())) + 1
    return max(1, min(enough, x.shape[1] - 1))


def elborank(train: pd.DataFrame, seed: int, **settings: object) -> Score:
    """Our detector as it comes, or with other settings of VAEDetector."""
    if not settings:
        return _default(train, seed).score_samples
    return VAEDetector(random_state=seed, **settings).fit(train).score_samples  # type: ignore[arg-type]


_latest: list[tuple[pd.DataFrame, int, VAEDetector]] = []  # a member's row costs no second fit


def _default(train: pd.DataFrame, seed: int) -> VAEDetector:
    if not (_latest and _latest[0][1] == seed and _latest[0][0].equals(train)):
        _latest[:] = [(train, seed, VAEDetector(random_state=seed).fit(train))]
    return _latest[0][2]


def member(train: pd.DataFrame, seed: int, *, name: str) -> Score:
    """One member of our default model on its own: vae gives the pure ELBO. Fitted with the whole, once."""
    alone = _default(train, seed).model_.with_members([name])
    return lambda frame: alone.score(as_table(frame)).bound


def untilted(train: pd.DataFrame, seed: int) -> Score:
    """Our default model by the weighted mean of its members' bounds as they are: what the tilt is worth."""
    plain = _default(train, seed).model_.untilted()
    return lambda frame: plain.score(as_table(frame)).bound


def lecture(train: pd.DataFrame, seed: int) -> Score:
    """The lecture's VAE: min-max scaling, sigmoid outputs, summed binary cross-entropy."""
    return elborank(train, seed, preset="lecture")


def ppca(train: pd.DataFrame, seed: int) -> Score:
    """Probabilistic PCA's exact log P(x), on standardised columns; components for 90 % of the variance."""
    numbers = Numbers(train, missing=True)
    x = numbers(train)
    model = ProbabilisticPCA(n_components=components_for(x)).fit(x)
    return lambda frame: model.score_samples(numbers(frame))


def isolation_forest(train: pd.DataFrame, seed: int) -> Score:
    """scikit-learn's, as it comes (100 trees)."""
    numbers = Numbers(train)
    model = IsolationForest(random_state=seed).fit(numbers(train))
    return lambda frame: model.score_samples(numbers(frame))


def nearest_neighbours(train: pd.DataFrame, seed: int, *, scaling: str = "standard") -> Score:
    """Mean distance to the 5 nearest training records; a training record is not its own neighbour."""
    numbers = Numbers(train, scaling)
    x = numbers(train)
    model = NearestNeighbors(n_neighbors=min(5, len(x) - 1)).fit(x)

    def score(frame: pd.DataFrame) -> np.ndarray:
        itself = frame is train
        return -model.kneighbors(None if itself else numbers(frame))[0].mean(1)

    return score


def nearest_neighbours_minmax(train: pd.DataFrame, seed: int) -> Score:
    """The same on columns scaled to [0, 1]."""
    return nearest_neighbours(train, seed, scaling="minmax")


def local_outlier_factor(train: pd.DataFrame, seed: int) -> Score:
    """scikit-learn's with 20 neighbours, on standardised columns."""
    numbers = Numbers(train)
    x = numbers(train)
    neighbours = min(20, len(x) - 1)
    novelty = LocalOutlierFactor(n_neighbors=neighbours, novelty=True).fit(x)
    return lambda frame: (
        novelty.negative_outlier_factor_ if frame is train else novelty.score_samples(numbers(frame))
    )


def principal_components(train: pd.DataFrame, seed: int) -> Score:
    """Minus the squared reconstruction error of the components that hold 90 % of the variance."""
    numbers = Numbers(train)
    x = numbers(train)
    model = PCA(components_for(x)).fit(x)

    def score(frame: pd.DataFrame) -> np.ndarray:
        z = numbers(frame)
        return -np.square(z - model.inverse_transform(model.transform(z))).sum(1)

    return score


def gaussian_mixture(train: pd.DataFrame, seed: int) -> Score:
    """scikit-learn's, full covariances; of 1, 2, 4, ... 32 components the most likely on a held-out fifth.

    Standardised columns, .03 added to the diagonals; the lowest 2 % of held-out log-densities do not count.
    """
    numbers = Numbers(train)
    x = numbers(train)
    order = np.random.default_rng(seed).permutation(len(x))
    held, rest = np.split(order, [max(1, len(x) // 5)])
    best, components = -np.inf, 1
    for k in (1, 2, 4, 8, 16, 32):
        if 10 * k > len(rest):
            break
        log_density = np.sort(_mixture(k, seed).fit(x[rest]).score_samples(x[held]))
        likelihood = log_density[len(held) // 50 :].mean()
        if likelihood > best:
            best, components = likelihood, k
    model = _mixture(components, seed).fit(x)
    return lambda frame: model.score_samples(numbers(frame))


def _mixture(components: int, seed: int) -> GaussianMixture:
    return GaussianMixture(components, reg_covar=0.03, random_state=seed, max_iter=60)


def ecod(train: pd.DataFrame, seed: int) -> Score:
    """PyOD's, as it comes."""
    from pyod.models.ecod import ECOD

    numbers = Numbers(train)
    model = ECOD().fit(numbers(train))
    return lambda frame: -model.decision_function(numbers(frame))


def pyod_vae(train: pd.DataFrame, seed: int) -> Score:
    """PyOD's variational autoencoder, as it comes (it standardises by itself)."""
    from pyod.models.vae import VAE

    numbers = Numbers(train)
    model = VAE(random_state=seed, verbose=0).fit(numbers(train))
    return lambda frame: -model.decision_function(numbers(frame))


METHODS: dict[str, Method] = {
    "elborank": elborank,
    "elborank-vae": partial(member, name="vae"),
    "elborank-untilted": untilted,
    "lecture": lecture,
    "ppca": ppca,
    "iforest": isolation_forest,
    "knn": nearest_neighbours,
    "knn-minmax": nearest_neighbours_minmax,
    "lof": local_outlier_factor,
    "pca": principal_components,
    "gmm": gaussian_mixture,
    "ecod": ecod,
    "pyod-vae": pyod_vae,
}
FROM_PYOD = ("ecod", "pyod-vae")
DEFAULT = [name for name in METHODS if name not in FROM_PYOD]


def method(name: str) -> Method:
    """A method by its name. Settings of our detector may follow: `elborank:latent=8,columns_weight=0.3`.

    Raises ValueError for an unknown name or setting.
    """
    first, _, changed = name.partition(":")
    if first not in METHODS or (changed and first != "elborank"):
        raise ValueError(f"{name!r} is none of {', '.join(METHODS)}, or elborank:setting=value,...")
    if not changed:
        return METHODS[first]
    pairs = [setting.partition("=")[::2] for setting in changed.split(",")]
    unknown = {key for key, _ in pairs} - set(VAEDetector().get_params())
    if unknown:
        raise ValueError(f"{name!r}: VAEDetector has no {', '.join(sorted(unknown))}")
    return partial(elborank, **{key: literal(value) for key, value in pairs})


def literal(text: str) -> object:
    """3 -> int, 0.3 -> float, anything else stays text."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text
