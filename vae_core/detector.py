"""The scikit-learn face: VAEDetector."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from vae_core import training
from vae_core.explanation import explain
from vae_core.frames import (
    as_frame,
    as_table,
    by_name,
    check_names,
    declared_categories,
    like_training,
    whole_number,
    with_dtypes,
)
from vae_core.generation import sample
from vae_core.images import arrays
from vae_core.images import training as image_training
from vae_core.images.explanation import explain as explain_images
from vae_core.images.generation import sample as sample_images
from vae_core.images.maps import maps as pixel_maps
from vae_core.images.model import ImageModel, per_image
from vae_core.records import FEW_HELD_OUT, NONE_HELD_OUT
from vae_core.scoring import FittedModel

__all__ = ["VAEDetector", "as_table"]


class VAEDetector(OutlierMixin, BaseEstimator):
    """Outlier detection by a variational autoencoder's lower bound on log P(x), for tables and images.

    X is a DataFrame (or what has `to_pandas`: Arrow's and polars' tables) or an array (n, m); a DataFrame's
    column may hold vectors (lists or arrays of real numbers, all of one length). Of images an array (n, h, w)
    or (n, h, w, c), uint8, uint16 or fractions of white, or a list of paths.

    Parameters
    ----------
    preset : "default" or "lecture"
        The recipe, or the lecture's VAE (min-max scaling, sigmoid outputs, summed binary cross-entropy).
    likelihood : None, "bernoulli" or "continuous_bernoulli"
        For real columns; None is a Gaussian whose mean and spread both come from the decoder. For pixels also
        "grey_bernoulli" (their None) and "discretised_logistic".
    latent, steps, learning_rate : int or float, optional
        Chosen from the data when None: latents, gradient steps, Adam's rate.
    hidden : sequence of int
        Widths of the hidden layers.
    batch_size, draws, members : int
        Records in a gradient step; draws of z in a score; VAEs in the ensemble.
    columns_weight, kernel_weight : float, optional
        Prior weights of the independent columns and of the kernel density beside the VAE's 1. None: balanced,
        by how far each one's bounds spread (the lecture's preset: 0). With 0 for both the score is the pure
        ELBO. The kernel density holds up to 2,000 training records; without it the model holds none. A
        balanced one has a crowd beside it, the same without a record's nearest exemplars. Balanced members'
        bounds are tilted: what one finds far out counts by the square (`vae_core.tilt`).
    alpha : float
        `predict` calls a record an outlier when its p-value, counted among held-out training records, is at
        most this: so many of new normal records are flagged. A tenth is held out; with too few for so small
        a p-value (below 190 records for .05) `fit` warns, and outliers are what lies below all of them. Of
        fewer than 50 records none is held out: `fit` warns, and `predict` goes by the fitted records, which
        the model knows too well, so that it flags more of new ones.
    kinds : mapping of column name to kind, optional
        Overrides what is inferred: real, whole, boolean, category, timestamp, label (not used), ...
    random_state : int

    Attributes
    ----------
    model_ : FittedModel
        Encoding, networks, calibration; `vae_core.storage.save` writes it.
    offset_ : float
        The `score_samples` value below which `predict` says -1.
    n_features_in_, feature_names_in_
        As in scikit-learn.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> X[0] = 12.0
    >>> detector = VAEDetector(steps=50).fit(X[1:])
    >>> int(detector.score_samples(X).argmin())
    0
    """

    def __init__(
        self,
        *,
        preset: str = "default",
        likelihood: str | None = None,
        latent: int | None = None,
        hidden: tuple[int, ...] = (64, 64),
        members: int = 1,
        steps: int | None = None,
        batch_size: int = 256,
        learning_rate: float | None = None,
        draws: int = 8,
        columns_weight: float | None = None,
        kernel_weight: float | None = None,
        alpha: float = 0.05,
        kinds: Mapping[str, str] | None = None,
        device: str = "auto",
        random_state: int = 0,
    ) -> None:
        self.preset = preset
        self.likelihood = likelihood
        self.latent = latent
        self.hidden = hidden
        self.members = members
        self.steps = steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.draws = draws
        self.columns_weight = columns_weight
        self.kernel_weight = kernel_weight
        self.alpha = alpha
        self.kinds = kinds
        self.device = device
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.string = True
        tags.input_tags.categorical = True
        return tags

    def fit(self, X: Any, y: object = None) -> Self:
        """Learn from X (n, m), a DataFrame with mixed kinds or an array; NaN and None are missing cells.

        Raises ValueError (InputError) for infinite values, fewer than two rows, or nothing to learn from.
        """
        if not (isinstance(self.alpha, training.NUMBERS) and 0 < self.alpha < 1):
            raise ValueError(f"alpha must lie between 0 and 1; got {self.alpha!r}")
        X = as_frame(X)
        if arrays.are_images(X):
            return self._fit_images(X)
        table = self._table(X, reset=True)
        kinds = declared_categories(X) | by_name(self.kinds)
        self.model_ = training.fit(
            lambda: iter(table.to_batches(max_chunksize=65_536)), kinds=kinds, settings=self._settings()
        )
        self.dtypes_ = X.dtypes.to_dict() if isinstance(X, pd.DataFrame) else {}
        return self._with_offset(table)

    def _fit_images(self, X: Any) -> Self:
        table, shape = arrays.pixel_table(X, None)
        self.model_ = image_training.fit(
            lambda: iter(table.to_batches(max_chunksize=1024)), shape, settings=self._settings()
        )
        self.n_features_in_, self.dtypes_ = shape.pixels, {}
        if hasattr(self, "feature_names_in_"):  # of a table, before
            del self.feature_names_in_
        self.pixels_ = (X.dtype, X.ndim) if isinstance(X, np.ndarray) else (np.dtype(np.uint8), 4)
        return self._with_offset(table)

    def _with_offset(self, table: pa.Table) -> Self:
        """`predict` flags what has a p-value of at most alpha among held-out records; see `alpha`."""
        reference = self.model_.calibration.scores
        if not len(reference):
            warnings.warn(NONE_HELD_OUT.format(table.num_rows), stacklevel=3)
            reference = self.model_.score(table).anomaly_score
            self.offset_ = float(-np.quantile(reference, 1 - self.alpha))
            return self
        # p = (1 + as anomalous ones) / (n + 1), at most alpha where at most alpha (n + 1) - 1 are.
        place = math.floor(self.alpha * (len(reference) + 1) + 1e-9)
        if place == 0:
            warnings.warn(FEW_HELD_OUT.format(len(reference), self.alpha), stacklevel=3)
        self.offset_ = float(-np.sort(reference)[-max(1, place)])
        return self

    def _settings(self) -> training.Settings:
        return training.Settings(
            preset=self.preset,
            likelihood=self.likelihood,
            latent=self.latent,
            hidden=self.hidden,
            members=self.members,
            steps=self.steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            draws=self.draws,
            columns_weight=self.columns_weight,
            kernel_weight=self.kernel_weight,
            random_state=_seed(self.random_state),
            device=self.device,
        )

    def score_samples(self, X: Any) -> np.ndarray:
        """The bound on log P(x) of each record in nats (-anomaly_score): (n,), low = anomalous.

        Of images -anomaly_score is the combined score, without a unit; `elbo` is their bound.
        """
        return -self._fitted().score(self._table(X)).anomaly_score

    def elbo(self, X: Any) -> np.ndarray:
        """The VAE's evidence lower bound of each record in nats: (n,), low = anomalous."""
        return self._fitted().score(self._table(X)).elbo

    def score(self, X: Any, y: Any = None) -> float:
        """The mean bound in nats a record, before the tilt: what to compare models by, higher = better.

        Only models with the same likelihoods and columns compare. `score_samples` ranks records: its tilt is
        measured in the model's own spreads, so that its mean says nothing of the model.
        """
        return float(self._fitted().untilted().score(self._table(X)).bound.mean())

    def decision_function(self, X: Any) -> np.ndarray:
        """score_samples - offset_: negative for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """-1 for outliers, 1 for inliers: (n,)."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def maps(self, X: Any) -> np.ndarray:
        """How far each pixel of each image lies from what is expected there: (n, h, w), high = anomalous.

        In fractions of white, at the model's size. Raises ValueError for a model of a table.
        """
        model = self._fitted()
        if not isinstance(model, ImageModel):
            raise ValueError("maps are of images: this detector was fitted to a table")
        return pixel_maps(model, model.encoding.encode(self._table(X))).surprise

    def pixel_nats(self, X: Any) -> np.ndarray:
        """Each pixel's share of the elbo in nats: (n, h, w), low = anomalous; sum less KL = `elbo`.

        Of colour images the channels are added up. Raises ValueError for a model of a table.
        """
        model = self._fitted()
        if not isinstance(model, ImageModel):
            raise ValueError("pixel_nats are of images: this detector was fitted to a table")
        terms, _ = model.pixel_terms(model.encoding.encode(self._table(X)))
        return per_image(terms, model.encoding).sum(3)

    def explain(self, X: Any, *, top: int = 5) -> pd.DataFrame:
        """For each record a sentence (`why`), its `reasons`, the likeliest first, `rest_nats`, `tilt_nats`.

        The nats of the reasons + rest_nats = `score_samples` (of images: `elbo`); tilt_nats is the part of
        the rest that is charged for being far out as a whole, at most 0. The rows have the index of X where
        it is a DataFrame.
        """
        X = as_frame(X)
        top = whole_number("top", top, least=1)
        model, table = self._fitted(), self._table(X)
        if isinstance(model, ImageModel):
            explained = explain_images(model, table, top=top).to_pandas()
        else:
            explained = explain(model, table, top=top).to_pandas()
        return explained.set_index(X.index) if isinstance(X, pd.DataFrame) else explained

    def sample(self, n_samples: int = 1, *, random_state: Any = 0, mean: bool = False) -> Any:
        """New records, z ~ N(0, I), x ~ P(x|z): a DataFrame or an array, as `fit` was given.

        A column of a DataFrame has the type that it had in training, where all its values fit (130 is no
        int8). Columns that were left out (identifiers, free text, empty ones) are not generated; in an array
        they are NaN. Of images the mean of P(x|z); for paths an array (n, h, w, c) of bytes.
        """
        n_samples = whole_number("n_samples", n_samples, least=0)
        model, seed = self._fitted(), _seed(random_state)
        if isinstance(model, ImageModel):
            return self._like_input(sample_images(model, n_samples, random_state=seed))
        table = sample(model, n_samples, random_state=seed, mean=mean)
        drawn = table.to_pandas()
        if not self.dtypes_:
            return drawn.reindex(columns=list(model.encoding.columns)).to_numpy()
        return with_dtypes(drawn, table, self.dtypes_)

    def _like_input(self, images: np.ndarray) -> np.ndarray:
        """Images (n, h, w, c) with the type and the axes of those that `fit` was given."""
        dtype, axes = self.pixels_
        white = np.iinfo(images.dtype).max
        if dtype.kind == "f":
            images = (images / white).astype(dtype)
        elif dtype.kind == "b":
            images = images > white // 2
        elif dtype != images.dtype:
            images = (images >> 8).astype(dtype)
        return images[..., 0] if axes == 3 else images

    def _fitted(self) -> FittedModel:
        check_is_fitted(self, "model_")
        return self.model_

    def _table(self, X: Any, *, reset: bool = False) -> pa.Table:
        """X as a table with the model's columns: by name, or by position where X or training had none."""
        X = as_frame(X)
        if not reset:
            check_is_fitted(self, "model_")
            if isinstance(self.model_, ImageModel):
                if not arrays.are_images(X):
                    raise ValueError(
                        "this detector was fitted to images: give (n, h, w), (n, h, w, c) or paths"
                    )
                return arrays.pixel_table(X, self.model_.encoding.shape)[0]
        if isinstance(X, pd.DataFrame):
            table = as_table(X)
            validate_data(self, X, reset=reset, skip_check_array=True)
            if X.shape[0] == 0 or X.shape[1] == 0:
                size = f"{X.shape[0]} sample(s) and {X.shape[1]} feature(s)"
                raise ValueError(f"Found array with {size}: nothing to learn or score.")
            named = hasattr(self, "feature_names_in_")
            if not reset and self.dtypes_ and not named:
                check_names(X, self.model_)
        else:
            array = validate_data(self, X, reset=reset, dtype=np.float64, ensure_all_finite="allow-nan")
            columns = [pa.array(array[:, j], from_pandas=True) for j in range(array.shape[1])]
            table, named = pa.table(columns, [f"x{j}" for j in range(array.shape[1])]), False
        if reset:
            return table
        if not named:
            table = table.rename_columns(list(self.model_.encoding.columns))
        return like_training(table, self.model_)


def _seed(random_state: Any) -> int:
    """A seed from what scikit-learn calls a random state; None is 0, so that results repeat."""
    if isinstance(random_state, (int, np.integer)):
        return int(random_state)
    try:
        return 0 if random_state is None else int(np.random.default_rng(random_state).integers(2**31))
    except (TypeError, ValueError) as error:
        raise ValueError(f"random_state is a whole number; got {random_state!r}") from error
