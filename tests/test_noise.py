"""The draws of E_Q against closed forms: moments, integrals, and the linear model's exact bound."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from tests.toy_tables import mixed_table, trained
from vae_core.bounds import elbo, kl_standard_normal, reparameterize
from vae_core.noise import noise_blocks
from vae_core.ppca import ProbabilisticPCA
from vae_core.scoring import Scores


def draws(number: int, latents: int, seed: int = 0) -> Tensor:
    """All draws of four blocks: (number, latents), float64."""
    return noise_blocks(4, number // 4, latents, seed=seed).flatten(0, 1).double()


def test_noise_follows_from_the_seed_and_leaves_the_worlds_generator_alone() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (noise_blocks(4, 4, 3, seed=s) for s in (5, 5, 6))
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.dtype == torch.float32


def test_neighbouring_seeds_share_no_block() -> None:
    blocks = [block for seed in range(4) for block in noise_blocks(4, 4, 12, seed=seed)]
    for number, block in enumerate(blocks):
        assert not any(torch.equal(block, other) for other in blocks[:number])


@pytest.mark.parametrize("latents", [2, 3, 9, 40])
@pytest.mark.parametrize("each", [2, 4, 6, 64])
def test_every_block_has_the_mean_0_and_the_mean_square_1(each: int, latents: int) -> None:
    for block in noise_blocks(4, each, latents, seed=1).double():
        torch.testing.assert_close(block.mean(0), torch.zeros(latents).double())
        torch.testing.assert_close(block.square().mean(0), torch.ones(latents).double(), rtol=1e-6, atol=0)


def test_a_lone_latent_has_mean_0_and_mean_square_1_over_all_blocks() -> None:
    z = draws(8, 1)
    assert z.mean().item() == 0
    assert z.square().mean().item() == pytest.approx(1, rel=1e-6)
    assert len(z.abs().unique()) == 4  # its blocks are no copies of each other


@pytest.mark.parametrize(("number", "latents"), [(8, 2), (8, 3), (8, 4), (32, 16)])
def test_as_many_latents_as_pairs_have_uncorrelated_signs(number: int, latents: int) -> None:
    signs = draws(number, latents).sign()
    torch.testing.assert_close(signs.T @ signs / number, torch.eye(latents).double())


def test_of_more_latents_the_signs_are_correlated_as_little_as_can_be() -> None:
    """Welch (1974): n unit vectors in d dimensions have squared products of n^2 / d in all, or more."""
    signs = draws(8, 32).sign()
    assert (signs.T @ signs / 8).square().sum().item() == pytest.approx(32**2 / 4)


@pytest.mark.parametrize("latents", [1, 2, 3, 4])
def test_eight_draws_integrate_every_quadratic_exactly(latents: int) -> None:
    generator = np.random.default_rng(latents)
    z = draws(8, latents, seed=3).numpy()
    matrix, slope = generator.normal(size=(latents, latents)), generator.normal(size=latents)
    found = np.einsum("si,ij,sj->s", z, matrix, z) + z @ slope + 1
    assert found.mean() == pytest.approx(np.trace(matrix) + 1, abs=1e-6)


@pytest.mark.parametrize("latents", [2, 6])
def test_eight_draws_give_the_linear_models_log_density_itself(latents: int) -> None:
    """Probabilistic PCA with its posterior as Q: ELBO = log P(x), also with more latents than pairs."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(300, latents)) @ generator.normal(size=(latents, 9))
    model = ProbabilisticPCA(latents).fit(x + 0.3 * generator.normal(size=x.shape))
    mean, covariance = (torch.from_numpy(part) for part in model.posterior(x))
    log_variance = covariance.diag().log().expand(mean.shape)
    z = reparameterize(mean, log_variance, draws(8, latents).unsqueeze(1))
    expected = z @ torch.from_numpy(model.components_.T) + torch.from_numpy(model.mean_)
    decoder = torch.distributions.Normal(expected, math.sqrt(model.noise_variance_))
    log_likelihood = decoder.log_prob(torch.from_numpy(x)).sum(-1)
    found = elbo(log_likelihood, kl_standard_normal(mean, log_variance))
    np.testing.assert_allclose(found.numpy(), model.score_samples(x), atol=1e-5)


@pytest.mark.parametrize("latents", [1, 3])
def test_many_draws_tend_to_the_normal_distribution(latents: int) -> None:
    z = draws(4096, latents)
    for one in z.T.numpy():
        assert stats.kstest(one, "norm").statistic < 0.005
        assert stats.kurtosis(one) == pytest.approx(0, abs=0.05)
    # E exp(a z) = exp(a^2 / 2), for all latents together
    assert z.mul(0.4).sum(1).exp().mean().item() == pytest.approx(math.exp(0.08 * latents), rel=0.02)


def test_an_odd_draw_is_standard_normal_over_the_seeds() -> None:
    lone = torch.stack([noise_blocks(1, 1, 4, seed=s) for s in range(250)]).flatten(1).double()
    third = torch.stack([noise_blocks(1, 3, 4, seed=s)[:, 2] for s in range(250)]).flatten(1).double()
    for points in torch.cat([lone, third], 1).T.numpy():
        assert stats.kstest(points, "norm").pvalue > 1e-4


@pytest.fixture(scope="module")
def errors() -> dict[str, np.ndarray]:
    """A trained VAE's ELBOs less those of 4,096 draws, (seeds, records): our draws' and independent ones'."""
    table = mixed_table(400, 9)
    model = trained(table, columns_weight=0.0, kernel_weight=0.0, latent=6)
    encoded = model.encoding.encode(table)

    def scores(noise: Tensor) -> Scores:
        return replace(model, noise=noise).evaluate(encoded, reasons=False).scores

    exact = model.with_draws(4096).evaluate(encoded, reasons=False).scores.elbo
    ours = [scores(noise_blocks(4, 2, 6, seed=seed)) for seed in range(20)]
    generator = torch.Generator().manual_seed(0)
    independent = [scores(torch.randn((4, 2, 6), generator=generator)) for _ in range(20)]
    return {
        "ours": np.stack([found.elbo for found in ours]) - exact,
        "estimated": np.stack([found.elbo_se for found in ours]),
        "independent": np.stack([found.elbo for found in independent]) - exact,
    }


def common(errors: np.ndarray) -> float:
    """The root mean square over the seeds of the records' median error."""
    return float(np.sqrt(np.square(np.median(errors, axis=1)).mean()))


def test_a_models_common_error_is_a_fraction_of_that_of_independent_draws(
    errors: dict[str, np.ndarray],
) -> None:
    assert common(errors["ours"]) < 0.4 * common(errors["independent"])


def test_what_a_records_own_error_adds_is_less_too(errors: dict[str, np.ndarray]) -> None:
    own = {name: errors[name] - np.median(errors[name], 1, keepdims=True) for name in ("ours", "independent")}
    assert np.median(np.abs(own["ours"])) < 0.7 * np.median(np.abs(own["independent"]))


def test_the_spread_of_the_blocks_tells_the_error_and_does_not_flatter_it(
    errors: dict[str, np.ndarray],
) -> None:
    estimated, actual = (
        np.sqrt(np.square(errors["estimated"]).mean(0)),
        np.sqrt(np.square(errors["ours"]).mean(0)),
    )
    assert 0.8 < np.median(estimated / actual) < 3
