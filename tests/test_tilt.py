"""Tilted bounds are bounds still, fall with what they are of, and sum from their parts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from vae_core import training
from vae_core.detector import VAEDetector
from vae_core.members import Crowd, KernelDensity, scores_of
from vae_core.scoring import FittedModel
from vae_core.tilt import FARTHEST, Tilt


def table(rows: int = 500) -> pa.Table:
    r = np.random.default_rng(3)
    x = r.normal(size=rows)
    return pa.table({"x": x, "y": x + r.normal(0, 0.2, rows), "n": r.poisson(4, rows)})


@pytest.fixture(scope="module")
def model() -> FittedModel:
    settings = training.Settings(steps=40, hidden=(16,), batch_size=64)
    return training.fit(lambda: iter(table().to_batches()), settings=settings)


def test_a_density_times_the_factor_is_one_whose_integral_is_at_most_1() -> None:
    """So the log of the product lies below that of the product over its integral, and of the plain one."""
    x = np.linspace(-12, 12, 20_001)
    plain = norm.logpdf(x)
    tilt = Tilt.of(norm.logpdf(np.random.default_rng(0).normal(size=4000)))
    factor = tilt.log_factor(plain)
    integral = np.trapezoid(np.exp(plain + factor), x)
    assert 0.5 < integral < 1
    assert (factor <= 0).all()


def test_it_is_the_squared_distance_below_the_usual_in_spreads_times_the_spread() -> None:
    tilt = Tilt(usual=-10.0, spread=4.0)
    bounds = np.array([-5.0, -10.0, -12.0, -30.0])
    np.testing.assert_allclose(tilt.log_factor(bounds), [0, 0, -1, -100], rtol=1e-12)
    far = tilt.usual - tilt.spread * FARTHEST * np.array([1, 2, 3])
    np.testing.assert_allclose(np.diff(tilt.log_factor(far), 2), 0, atol=1e-6)  # from there on a line


@pytest.mark.parametrize("spread", [1e-6, 1.0, 1e6])
def test_a_lower_bound_stays_lower_and_finite(spread: float) -> None:
    bounds = np.r_[np.linspace(50, -50, 400), -np.geomspace(60, 1e290, 400)]
    tilted = bounds + Tilt(usual=0.0, spread=spread).log_factor(bounds)
    assert np.isfinite(tilted).all()
    assert (np.diff(tilted) < 0).all()


def test_the_default_bound_is_the_weighted_mean_of_the_members_tilted_bounds(model: FittedModel) -> None:
    own = {name: model.with_members([name]).score(table()).bound for name in model.weights}
    assert set(own) == set(model.tilts) == {"vae", "columns", "kernel", "crowd"}
    tilted = {name: bound + model.tilts[name].log_factor(bound) for name, bound in own.items()}
    for judge, bounds in ((model, tilted), (model.untilted(), own)):
        expected = sum(weight * bounds[name] for name, weight in model.weights.items())
        np.testing.assert_allclose(judge.score(table()).bound, expected, rtol=1e-9)
    two = model.with_members(["vae", "kernel"])
    expected = sum(weight * tilted[name] for name, weight in two.weights.items())
    np.testing.assert_allclose(two.score(table()).bound, expected, rtol=1e-9)


def test_its_parts_sum_to_it(model: FittedModel) -> None:
    parts = model.evaluate(model.encoding.encode(table()))
    total = parts.nats.sum(1) + parts.kl_nats + parts.tilt_nats
    np.testing.assert_allclose(total, parts.scores.bound, rtol=0, atol=1e-9)
    assert parts.tilt_nats.max() <= 0
    assert parts.tilt_nats.min() < 0
    plain = model.untilted().evaluate(model.encoding.encode(table()))
    np.testing.assert_array_equal(plain.nats, parts.nats)  # reasons are those of the members' own bounds
    assert not plain.tilt_nats.any()


def test_weights_that_are_given_are_weights_of_plain_bounds() -> None:
    settings = training.Settings(steps=3, hidden=(8,), columns_weight=0.5)
    assert training.fit(lambda: iter(table().to_batches()), settings=settings).tilts == {}


def test_a_kernel_density_and_its_crowd_say_together_what_each_says_alone(model: FittedModel) -> None:
    encoded = model.encoding.encode(table())
    mask = encoded.mask & (np.random.default_rng(0).random(encoded.mask.shape) > 0.1)
    together = scores_of(model.companions, encoded.values, mask)
    kernel, crowd = model.companions["kernel"], model.companions["crowd"]
    assert isinstance(kernel, KernelDensity)
    assert isinstance(crowd, Crowd)
    assert kernel.begins_with(crowd)
    for name, companion in model.companions.items():
        alone = companion.score(encoded.values, mask, quick=True)
        np.testing.assert_allclose(together[name], alone, rtol=1e-6, atol=1e-6)


def test_the_spread_is_that_of_records_that_differ_where_most_are_alike() -> None:
    bounds = np.r_[np.full(800, -1.0), np.random.default_rng(0).normal(-9, 3, 200)]
    assert Tilt.of(bounds).usual == -1
    assert Tilt.of(bounds).spread > 0.5
    other = np.random.default_rng(0).normal(size=1000)
    assert Tilt.of(other).spread == pytest.approx(np.subtract(*np.quantile(other, [0.75, 0.25])))


def test_a_machine_at_rest_does_not_blind_the_model() -> None:
    """Four records in five are one and the same; in a strange one a and b contradict each other."""
    r = np.random.default_rng([0, 5])

    def running(rows: int) -> pd.DataFrame:
        a = r.normal(size=rows)
        return pd.DataFrame({"a": a, "b": 2 * a + 0.3 * r.normal(size=rows), "c": r.normal(size=rows)})

    known, new = running(2000), running(1000)
    known[r.random(2000) < 0.8] = 0.0
    strange = np.arange(1000) < 100
    new.loc[strange, "b"] *= -1
    detector = VAEDetector(steps=300, hidden=(32,)).fit(known)
    assert roc_auc_score(strange, -detector.score_samples(new)) > 0.8  # .67 with spreads of nothing


def test_without_the_tilt_there_are_no_p_values_and_members_of_members_keep_theirs(
    model: FittedModel,
) -> None:
    assert np.isfinite(model.score(table()).p_value).any()
    assert np.isnan(model.untilted().score(table()).p_value).all()
    direct, nested = model.with_members(["vae"]), model.with_members(["vae", "kernel"]).with_members(["vae"])
    np.testing.assert_array_equal(direct.score(table()).p_value, nested.score(table()).p_value)


def test_records_held_out_from_training_are_not_the_top_of_a_table_that_holds_both() -> None:
    """A tenth of 500 alike records is held out, so a tenth of the first 50, give or take 2 (4 %)."""
    table_ = pd.DataFrame(np.random.default_rng([0, 6]).normal(size=(500, 20)))
    detector = VAEDetector(steps=200, hidden=(32,)).fit(table_)
    scores = -detector.score_samples(table_)
    calibrated = detector.model_.calibration.scores
    held_out = np.isclose(scores[:, None], calibrated[None, :], rtol=0, atol=1e-6).any(1)
    assert held_out.sum() == 50
    assert held_out[np.argsort(-scores)[:50]].sum() < 5 + 5 * 2.1
