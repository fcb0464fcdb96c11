"""Probabilistic PCA against another implementation, quadrature, brute force and what Gaussians do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from vae_core.ppca import ProbabilisticPCA


@pytest.fixture(scope="module")
def wine() -> np.ndarray:
    return StandardScaler().fit_transform(load_wine().data)


@pytest.mark.parametrize("components", [1, 3, 12])
@pytest.mark.parametrize("load", [load_wine, load_breast_cancer])
def test_log_p_of_x_equals_scikit_learns(load: object, components: int) -> None:
    x = StandardScaler().fit_transform(load().data)  # type: ignore[operator]
    theirs = PCA(components, svd_solver="full").fit(x)
    # scikit-learn divides by n - 1 where the maximum of the likelihood divides by n: fit theirs to that.
    theirs.explained_variance_ *= (len(x) - 1) / len(x)
    theirs.noise_variance_ *= (len(x) - 1) / len(x)
    ours = ProbabilisticPCA(components).fit(x)
    np.testing.assert_allclose(ours.score_samples(x), theirs.score_samples(x), rtol=1e-9)
    np.testing.assert_allclose(ours.get_covariance(), theirs.get_covariance(), atol=1e-9)


def test_the_closed_form_is_a_maximum_of_the_likelihood(wine: np.ndarray) -> None:
    model = ProbabilisticPCA(3).fit(wine)
    best, generator = model.score(wine), np.random.default_rng(0)
    for _ in range(20):
        other = clone(model).fit(wine)
        other.components_ = model.components_ + 0.01 * generator.normal(size=model.components_.shape)
        other.mean_ = model.mean_ + 0.01 * generator.normal(size=len(model.mean_))
        other.noise_variance_ = model.noise_variance_ * np.exp(0.01 * generator.normal())
        assert other.score(wine) < best


def test_in_one_dimension_the_density_integrates_to_one() -> None:
    model = ProbabilisticPCA(1).fit(np.random.default_rng(0).exponential(size=(50, 1)))
    total, _ = quad(lambda x: np.exp(model.score_samples([[x]])[0]), -15, 17, limit=200)
    assert total == pytest.approx(1, abs=1e-8)


def test_log_p_of_x_is_the_integral_over_the_latent(wine: np.ndarray) -> None:
    model = ProbabilisticPCA(1).fit(wine)

    def joint(z: float, x: np.ndarray) -> float:
        given_z = multivariate_normal(model.mean_ + model.components_[:, 0] * z, model.noise_variance_)
        return given_z.pdf(x) * np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)

    for x in wine[:3]:
        total, _ = quad(joint, -12, 12, args=(x,), epsabs=0, epsrel=1e-9, limit=200)
        assert np.log(total) == pytest.approx(model.score_samples(x[None])[0], rel=1e-8)


def test_the_posterior_is_bayes_rule_on_a_grid(wine: np.ndarray) -> None:
    model = ProbabilisticPCA(2).fit(wine)
    axis = np.linspace(-7, 7, 281)
    z = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    mean, covariance = model.posterior(wine[:4])
    for x, expected in zip(wine[:4], mean, strict=True):
        squares = np.square(x - model.mean_ - z @ model.components_.T).sum(1)
        log_weight = -0.5 * (squares / model.noise_variance_ + np.square(z).sum(1))
        weight = np.exp(log_weight - log_weight.max())
        weight /= weight.sum()
        found = weight @ z
        np.testing.assert_allclose(found, expected, atol=1e-6)
        np.testing.assert_allclose((z - found).T @ ((z - found) * weight[:, None]), covariance, atol=1e-6)


def test_samples_have_the_models_mean_and_covariance(wine: np.ndarray) -> None:
    model = ProbabilisticPCA(4).fit(wine)
    n = 200_000
    drawn = model.sample(n, random_state=1)
    covariance = model.get_covariance()
    deviation = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(drawn.mean(0), model.mean_, atol=5 * deviation.max() / np.sqrt(n))
    spread = np.sqrt((covariance**2 + np.outer(deviation**2, deviation**2)) / n)  # of a covariance's estimate
    assert (np.abs(np.cov(drawn.T) - covariance) < 5 * spread).all()
    np.testing.assert_array_equal(model.sample(3, random_state=7), model.sample(3, random_state=7))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.floats(0.05, 0.9))
def test_missing_values_are_integrated_out(seed: int, components: int, share: float) -> None:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(40, 6)) @ generator.normal(size=(6, 6))
    model = ProbabilisticPCA(components).fit(x)
    x[generator.random(x.shape) < share] = np.nan
    scores, covariance = model.score_samples(x), model.get_covariance()
    for row, score in zip(x, scores, strict=True):
        seen = ~np.isnan(row)
        if not seen.any():
            assert score == 0
            continue
        marginal = multivariate_normal(model.mean_[seen], covariance[np.ix_(seen, seen)])
        assert score == pytest.approx(marginal.logpdf(row[seen]), rel=1e-6, abs=1e-6)


def test_fit_puts_the_columns_mean_where_a_value_is_missing(wine: np.ndarray) -> None:
    x = wine.copy()
    x[np.random.default_rng(0).random(x.shape) < 0.1] = np.nan
    filled = np.where(np.isnan(x), np.nanmean(x, 0), x)
    holed, whole = ProbabilisticPCA(3).fit(x), ProbabilisticPCA(3).fit(filled)
    np.testing.assert_allclose(holed.get_covariance(), whole.get_covariance(), atol=1e-12)


def test_with_as_many_components_as_columns_it_is_the_datas_own_gaussian(wine: np.ndarray) -> None:
    own = multivariate_normal(wine.mean(0), np.cov(wine.T, bias=True)).logpdf(wine)
    for components in (wine.shape[1], wine.shape[1] + 5):
        np.testing.assert_allclose(ProbabilisticPCA(components).fit(wine).score_samples(wine), own, rtol=1e-6)


def test_fewer_records_than_columns_give_the_likelihood_of_the_large_covariance() -> None:
    x = np.random.default_rng(0).normal(size=(8, 40))
    model = ProbabilisticPCA(3).fit(x)
    values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    noise = values[:-3].mean()
    covariance = (vectors[:, -3:] * (values[-3:] - noise)) @ vectors[:, -3:].T + noise * np.eye(40)
    np.testing.assert_allclose(model.get_covariance(), covariance, atol=1e-10)
    expected = multivariate_normal(x.mean(0), covariance).logpdf(x)
    np.testing.assert_allclose(model.score_samples(x), expected, rtol=1e-9)


@pytest.mark.parametrize(
    "x",
    [
        np.full((20, 3), 7.0),
        np.arange(4.0)[None],
        np.outer(np.arange(30.0), [1.0, 2.0, -1.0]),
        np.c_[np.random.default_rng(0).normal(size=(30, 2)), np.full(30, np.nan)],
        np.random.default_rng(0).normal(size=(30, 3)) * [1e-8, 1.0, 1e8],
    ],
    ids=["all records equal", "one record", "a line in space", "a column all missing", "scales far apart"],
)
@pytest.mark.parametrize("components", [1, 2, 9])
def test_degenerate_data_still_give_finite_scores_that_fall_with_distance(
    x: np.ndarray, components: int
) -> None:
    model = ProbabilisticPCA(components).fit(x)
    centre = np.nan_to_num(model.mean_)
    direction = np.ones(x.shape[1])
    scores = model.score_samples([centre + step * direction for step in (0, 1e3, 1e6, 1e9)])
    assert np.isfinite(scores).all()
    assert (np.diff(scores) < 0).all()
    assert np.isfinite(model.sample(5, random_state=0)).all()
    assert model.noise_variance_ > 0


def test_the_rotation_of_the_data_rotates_the_model(wine: np.ndarray) -> None:
    turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(13, 13)))
    straight = ProbabilisticPCA(4).fit(wine).score_samples(wine)
    turned = ProbabilisticPCA(4).fit(wine @ turn).score_samples(wine @ turn)
    np.testing.assert_allclose(turned, straight, rtol=1e-8)


@pytest.mark.parametrize(
    ("x", "components", "message"),
    [
        ([[1.0, np.inf]], 1, "infinity"),
        (np.zeros((0, 3)), 1, "0 sample"),
        ([[1.0, 2.0]], 0, "at least 1"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(x: object, components: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProbabilisticPCA(components).fit(x)


def test_it_works_in_a_pipeline(wine: np.ndarray) -> None:
    pipeline = make_pipeline(StandardScaler(), ProbabilisticPCA(3)).fit(wine)
    np.testing.assert_allclose(
        pipeline.score_samples(wine[:5]), ProbabilisticPCA(3).fit(wine).score_samples(wine[:5])
    )


@parametrize_with_checks([ProbabilisticPCA(1)])
def test_it_is_a_scikit_learn_estimator(estimator: ProbabilisticPCA, check: object) -> None:
    check(estimator)  # type: ignore[operator]
