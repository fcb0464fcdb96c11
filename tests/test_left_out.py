"""Vectors' densities learnt from held-out records too: they score as if they had been left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import ks_2samp

from vae_core import training
from vae_core.arrow import vector_array
from vae_core.left_out import LeftOut
from vae_core.scoring import FittedModel
from vae_core.training import Settings
from vae_core.vectors import VectorDensity


def drawn(generator: np.random.Generator, rows: int, mixing: np.ndarray) -> np.ndarray:
    """Vectors of which a few hidden causes explain most, as in a network's last layer."""
    hidden = np.maximum(generator.normal(size=(rows, len(mixing))), 0)
    return (hidden @ mixing + 0.3 * generator.normal(size=(rows, mixing.shape[1]))).astype(np.float32)


def column(x: np.ndarray) -> pa.Array:
    return vector_array(x)


def fitted(x: np.ndarray, **settings: Any) -> FittedModel:
    ids = [f"record {i}" for i in range(len(x))]
    table = pa.table({"_record_id": ids, "f": column(x)})
    return training.fit(lambda: iter(table.to_batches()), settings=Settings(**settings))


@pytest.mark.parametrize(("rows", "width"), [(40, 60), (60, 25), (200, 12), (30, 1), (12, 5)])
def test_a_vector_left_out_is_scored_by_the_density_of_the_others(rows: int, width: int) -> None:
    generator = np.random.default_rng(rows)
    x = drawn(generator, rows, generator.normal(size=(min(8, width), width)))
    known = VectorDensity.fit(x)
    features, nats, missing = LeftOut.of(known, rows).encode(column(x))
    constant = known.encode(column(known.mean[None].astype(np.float32)))[1][0]  # the mean has no squares
    for row in range(0, rows, 5):
        others = np.delete(x.astype(np.float64), row, 0)
        covariance = np.cov(others.T, bias=True).reshape(width, width)
        s = known.shrinkage
        shrunk = (1 - s) * covariance + s * np.trace(covariance) / width * np.eye(width)
        away = x[row] - others.mean(0)
        squared = np.square(features[row]).sum() - 2 * (nats[row] - constant)
        assert squared == pytest.approx(away @ np.linalg.solve(shrunk, away), rel=1e-6)
        variances, directions = np.linalg.eigh(shrunk)
        first = slice(None, -known.components - 1, -1)
        expected = (away @ directions[:, first]) / np.sqrt(variances[first])
        sign = np.sign((directions[:, first] * known.directions[:, : known.components]).sum(0))
        np.testing.assert_allclose(features[row], sign * expected, atol=1e-6)
    assert not missing.any()


@pytest.mark.parametrize("x", [np.ones((60, 4)), np.eye(60), np.zeros((60, 3)), 1e30 * np.eye(60)[:, :20]])
def test_vectors_that_are_equal_or_apart_in_one_direction_each_stay_finite(x: np.ndarray) -> None:
    known = VectorDensity.fit(x.astype(np.float32))
    features, nats, _ = LeftOut.of(known, len(x)).encode(column(x.astype(np.float32)))
    assert np.isfinite(features).all() and np.isfinite(nats).all()


def test_left_out_records_score_as_fresh_ones_do_and_others_do_not() -> None:
    """Two samples, Kolmogorov-Smirnov at .05, over 100 densities of 60 vectors of 300 numbers."""
    failed = {"left out": 0, "learnt from": 0}
    for seed in range(100):
        generator = np.random.default_rng(seed)
        mixing = generator.normal(size=(20, 300)) * np.geomspace(3, 0.1, 20)[:, None]
        x, fresh = drawn(generator, 60, mixing), drawn(generator, 200, mixing)
        known = VectorDensity.fit(x)

        def log_density(density: VectorDensity, vectors: np.ndarray) -> np.ndarray:
            features, nats, _ = density.encode(column(vectors))
            return np.asarray(nats - 0.5 * np.square(features).sum(1))

        new = log_density(known, fresh)
        own = {
            "left out": log_density(LeftOut.of(known, 60), x[:12]),
            "learnt from": log_density(known, x[:12]),
        }
        for name, held in own.items():
            failed[name] += ks_2samp(held, new).pvalue < 0.05
    assert failed["left out"] <= 12  # of 100 at .05; 13 would have a probability of .0015
    assert failed["learnt from"] >= 90


def test_few_records_all_shape_the_density_and_p_values_stay_uniform() -> None:
    """With more numbers than rows each record that is learnt from has no residual, others have."""
    shares = []
    for seed in range(8):
        generator = np.random.default_rng(seed)
        mixing = generator.normal(size=(20, 150))
        x, fresh = drawn(generator, 100, mixing), drawn(generator, 300, mixing)
        model = fitted(x, steps=30, random_state=seed)
        known = model.encoding.vectors["f"]
        centred = x - known.mean
        assert np.abs(centred - centred @ known.directions @ known.directions.T).max() < 1e-3
        assert len(model.calibration.scores) == 10
        own = pa.table({"_record_id": [f"record {i}" for i in range(100)], "f": column(x)})
        assert np.isnan(model.score(own).p_value).all()  # the density has learnt from each of them
        shares.append(model.score(pa.table({"f": column(fresh)})).p_value)
    assert np.mean(shares) == pytest.approx(0.5, abs=0.1)
    assert np.mean(np.array(shares) <= 0.2) == pytest.approx(0.2, abs=0.1)


def test_from_five_hundred_records_on_those_that_calibrate_stay_out_of_the_density() -> None:
    generator = np.random.default_rng(0)
    x = drawn(generator, 520, generator.normal(size=(20, 700)))
    model = fitted(x, steps=20)
    known = model.encoding.vectors["f"]
    centred = x - known.mean
    residual = np.linalg.norm(centred - centred @ known.directions @ known.directions.T, axis=1)
    assert len(model.calibration.scores) == 52
    assert (residual < 1e-3).sum() == 520 - 52 and (residual > 0.5).sum() == 52
    own = pa.table({"_record_id": [f"record {i}" for i in range(520)], "f": column(x)})
    assert np.isfinite(model.score(own).p_value).sum() == 52
