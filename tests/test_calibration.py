"""P-values are uniform on average over calibration sets, and different scores in the tail differ in them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

from vae_core.calibration import ENOUGH_FOR_A_TAIL, Calibration

# Anomaly scores with tails from light (the first ends at 1) to heavy.
DISTRIBUTIONS = {
    "beta": stats.beta(2, 5),
    "normal": stats.norm(),
    "exponential": stats.expon(),
    "log-normal": stats.lognorm(1.0),
    "student": stats.t(3),
}


def fresh_p_values(name: str, n: int, *, repeats: int, fresh: int = 200, seed: int = 0) -> np.ndarray:
    """P-values (repeats, fresh) of fresh scores, each row against n calibration scores of its own."""
    generator = np.random.default_rng(seed)
    distribution = DISTRIBUTIONS[name]
    rows = []
    for _ in range(repeats):
        calibration = Calibration.fit(distribution.rvs(n, random_state=generator), {})
        rows.append(calibration.p_values(distribution.rvs(fresh, random_state=generator)))
    return np.stack(rows)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("n", [20, 500, 2000])
def test_p_values_are_uniform_on_average_over_calibration_sets(name: str, n: int) -> None:
    p = fresh_p_values(name, n, repeats=300)
    for alpha in (0.5, 0.2, 0.1, 0.05):
        shares = (p <= alpha).mean(1)
        error = 4.5 * shares.std(ddof=1) / math.sqrt(len(shares))
        grain = 1 / (n + 1)  # an empirical p-value takes only the values 1 / (n + 1), 2 / (n + 1), ...
        tail = (
            0.1 * alpha if alpha < 0.1 and n >= ENOUGH_FOR_A_TAIL else 0.0
        )  # a fitted tail is an approximation
        assert alpha - grain - error - tail <= shares.mean() <= alpha + error + tail


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_fitted_tail_is_about_right_where_few_held_out_records_reach(name: str) -> None:
    p = fresh_p_values(name, 1000, repeats=500, fresh=1000, seed=1)
    assert (p <= 0.001).mean() / 0.001 < 2.0
    assert name == "beta" or (p <= 0.001).mean() / 0.001 > 0.3  # scores with an end: on the safe side


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_tail_of_scores_that_grow_by_the_square_is_about_right_too(name: str) -> None:
    generator, shares = np.random.default_rng(4), []
    low, usual, high = DISTRIBUTIONS[name].ppf([0.25, 0.5, 0.75])
    for _ in range(300):
        held_out, fresh = (DISTRIBUTIONS[name].rvs(n, random_state=generator) for n in (300, 1000))
        squared = [s + np.maximum(s - usual, 0) ** 2 / (high - low) for s in (held_out, fresh)]
        shares.append((Calibration.fit(squared[0], {}, squared=True).p_values(squared[1]) <= 0.001).mean())
    assert np.mean(shares) / 0.001 < 2.0
    assert name == "beta" or np.mean(shares) / 0.001 > 0.3


def test_a_squared_tail_survives_its_json_and_never_ties() -> None:
    scores = np.random.default_rng(0).normal(size=400) ** 2
    calibration = Calibration.fit(scores, {}, squared=True)
    again = Calibration.from_json(json.loads(json.dumps(calibration.to_json())))
    far = np.geomspace(1, 1e200, 300)
    np.testing.assert_array_equal(again.p_values(far), calibration.p_values(far))
    assert (np.diff(calibration.p_values(far)) < 0).all()


def test_without_a_tail_the_p_value_is_a_count() -> None:
    held_out = np.array([3.0, 1.0, 2.0, 2.0])
    scores = np.array([0.0, 1.0, 2.0, 2.5, 3.0, 9.0])
    expected = [(1 + (held_out >= s).sum()) / 5 for s in scores]
    np.testing.assert_allclose(Calibration.fit(held_out, {}).p_values(scores), expected)


def test_without_held_out_records_there_is_no_p_value() -> None:
    assert np.isnan(Calibration().p_values(np.array([1.0, 2.0]))).all()
    assert np.isnan(Calibration.fit(np.empty(0), {}).p_values(np.array([1.0]))).all()


@pytest.fixture(scope="module")
def normal() -> Calibration:
    return Calibration.fit(np.random.default_rng(0).normal(size=1000), {})


def test_below_the_tail_it_is_still_the_count_and_the_tail_goes_on_from_it(normal: Calibration) -> None:
    below = np.linspace(-4, normal.threshold, 50)
    expected = [(1 + (normal.scores >= s).sum()) / 1001 for s in below]
    np.testing.assert_allclose(normal.p_values(below), expected)
    just_above = normal.p_values(np.nextafter(normal.threshold, np.inf)[None])
    count_above = 1 + (normal.scores > normal.threshold).sum()
    assert just_above[0] == pytest.approx(count_above / 1001)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_in_the_tail_different_scores_have_different_p_values_and_higher_ones_lower(name: str) -> None:
    calibration = Calibration.fit(DISTRIBUTIONS[name].rvs(1000, random_state=0), {})
    reach = np.concatenate([np.linspace(1e-6, 30, 500), np.logspace(1.5, 13, 500)])
    p = calibration.p_values(calibration.threshold + reach * math.exp(calibration.tail[0, 32]))
    assert (np.diff(p) < 0).all()
    assert (p > 0).all()


def test_equal_scores_have_equal_p_values(normal: Calibration) -> None:
    scores = np.repeat([-1.0, 0.5, 2.5, 80.0], 3)
    p = normal.p_values(scores).reshape(4, 3)
    assert (p == p[:, :1]).all()


def test_a_higher_score_never_has_a_higher_p_value(normal: Calibration) -> None:
    scores = np.sort(np.random.default_rng(1).normal(0, 3, 5000))
    assert (np.diff(normal.p_values(scores)) <= 0).all()


def test_a_two_sample_test_of_held_out_against_fresh_scores_fails_at_its_nominal_rate() -> None:
    """A perfect detector must pass: a one-sample test of its p-values would fail far more often."""
    generator = np.random.default_rng(0)
    repeats, two_sample, one_sample = 400, 0, 0
    for _ in range(repeats):
        held_out, fresh = generator.normal(size=400), generator.normal(size=2000)
        calibration = Calibration.fit(held_out, {})
        two_sample += stats.ks_2samp(calibration.scores, fresh, method="asymp").pvalue < 0.05
        one_sample += stats.kstest(calibration.p_values(fresh), "uniform").pvalue < 0.05
    assert abs(two_sample / repeats - 0.05) < 4 * math.sqrt(0.05 * 0.95 / repeats)
    assert one_sample / repeats > 0.2


def test_scores_that_are_all_the_same_have_no_tail() -> None:
    calibration = Calibration.fit(np.full(500, 2.0), {})
    np.testing.assert_allclose(calibration.p_values(np.array([1.0, 2.0, 3.0])), [1.0, 1.0, 1 / 501])


def test_ties_at_the_threshold_keep_the_tail_valid() -> None:
    held_out = np.r_[np.random.default_rng(0).normal(size=400), np.full(200, 5.0)]
    calibration = Calibration.fit(held_out, {})
    assert calibration.p_values(np.array([5.0]))[0] == pytest.approx(201 / 601)
    assert calibration.p_values(np.array([5.1]))[0] <= 1 / 601


def test_a_calibration_survives_json(normal: Calibration) -> None:
    again = Calibration.from_json(json.loads(json.dumps(normal.to_json())))
    scores = np.linspace(-5, 50, 300)
    np.testing.assert_array_equal(again.p_values(scores), normal.p_values(scores))
    none = Calibration.from_json(json.loads(json.dumps(Calibration().to_json())))
    assert np.isnan(none.p_values(np.zeros(1))).all()


def test_many_scores_with_an_end_have_a_tail_all_the_same() -> None:
    calibration = Calibration.fit(np.random.default_rng(0).beta(1, 0.5, 50_000), {})
    p = calibration.p_values(np.array([0.99, 1.0, 1.01, 2.0, 1e6]))
    assert np.isfinite(p).all() and (p > 0).all() and (np.diff(p) <= 0).all()
