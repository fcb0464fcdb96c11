"""The bounds against other implementations, closed forms and numerical integration."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from vae_core.bounds import (
    elbo,
    importance_bound,
    kl_standard_normal,
    log_normal,
    log_weights,
    reparameterize,
)
from vae_core.likelihoods import LIKELIHOODS

# The slide's worked example: a record, what the decoder expected, and the summed log-likelihood.
SLIDE_RECORD = [0.1, 0.8, 0.7, 0.23, 0.5]
SLIDE_EXPECTED = [0.08, 0.83, 0.58, 0.21, 0.42]
SLIDE_NATS = -2.7192


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def derivative(function: Callable[[Tensor], Tensor], x: Tensor, step: float = 1e-6) -> Tensor:
    """The gradient of a scalar function by central differences."""
    result = torch.zeros_like(x)
    for place in range(x.numel()):
        change = torch.zeros_like(x).view(-1)
        change[place] = step
        change = change.view_as(x)
        result.view(-1)[place] = (function(x + change) - function(x - change)) / (2 * step)
    return result


def assert_gradient_is_right(function: Callable[[Tensor], Tensor], x: Tensor) -> None:
    x = x.clone().requires_grad_()
    function(x).backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, derivative(function, x.detach()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("log_variance", [-120.0, -60.0, -3.0, 0.0, 0.7, 60.0])
@pytest.mark.parametrize("mean", [0.0, -1.5, 40.0])
def test_the_kl_is_that_of_torch_distributions(mean: float, log_variance: float) -> None:
    means = torch.full((2, 3), mean, dtype=torch.float64)
    log_variances = torch.full((2, 3), log_variance, dtype=torch.float64)
    q = Independent(Normal(means, (0.5 * log_variances).exp()), 1)
    prior = Independent(Normal(torch.zeros_like(means), torch.ones_like(means)), 1)
    torch.testing.assert_close(kl_standard_normal(means, log_variances), kl_divergence(q, prior))
    single = kl_standard_normal(means.float(), log_variances.float())
    torch.testing.assert_close(single, kl_divergence(q, prior), rtol=1e-6, atol=1e-6)


def test_the_kl_at_a_log_variance_of_minus_120_is_finite_in_float32() -> None:
    q_has_no_width = kl_standard_normal(torch.zeros(1, 1), torch.full((1, 1), -120.0))
    assert torch.exp(torch.tensor(-120.0)) == 0  # a network that carried variances would give infinity here
    assert q_has_no_width.item() == pytest.approx(59.5)


def test_the_kl_is_the_expected_log_ratio_of_q_and_prior() -> None:
    mean, deviation = 0.8, 0.4
    z = np.linspace(mean - 12 * deviation, mean + 12 * deviation, 20_001)
    log_q = stats.norm.logpdf(z, mean, deviation)
    expected = np.trapezoid(np.exp(log_q) * (log_q - stats.norm.logpdf(z)), z)
    log_variance = torch.tensor([[2 * math.log(deviation)]], dtype=torch.float64)
    ours = kl_standard_normal(torch.tensor([[mean]], dtype=torch.float64), log_variance)
    assert ours.item() == pytest.approx(expected, rel=1e-9)


def test_the_kl_is_zero_at_the_prior_and_positive_elsewhere() -> None:
    assert kl_standard_normal(torch.zeros(1, 5), torch.zeros(1, 5)).item() == 0
    assert (kl_standard_normal(normal(200, 3), normal(200, 3, seed=1)) > 0).all()


def test_the_kl_is_summed_over_the_latents_not_averaged() -> None:
    mean, log_variance = normal(4, 1), normal(4, 1, seed=1)
    repeated = kl_standard_normal(mean.expand(4, 7), log_variance.expand(4, 7))
    torch.testing.assert_close(repeated, 7 * kl_standard_normal(mean, log_variance))


def test_gradients_of_the_kl_agree_with_finite_differences() -> None:
    mean, log_variance = normal(3, 2), normal(3, 2, seed=1)
    assert_gradient_is_right(lambda x: kl_standard_normal(x, log_variance).sum(), mean)
    assert_gradient_is_right(lambda x: kl_standard_normal(mean, x).sum(), log_variance)


def test_the_slides_worked_example() -> None:
    record = torch.tensor([SLIDE_RECORD], dtype=torch.float64)
    expected = torch.tensor([SLIDE_EXPECTED], dtype=torch.float64)
    terms = LIKELIHOODS["bernoulli"].log_prob(record, torch.logit(expected).unsqueeze(-1))
    assert terms.sum().item() == pytest.approx(SLIDE_NATS, abs=5e-5)
    entropy = -torch.nn.functional.binary_cross_entropy(expected, record, reduction="sum")
    assert terms.sum().item() == pytest.approx(entropy.item(), rel=1e-12)


def test_of_the_slides_cost_all_but_a_twentieth_of_a_nat_is_the_grey_values_own_entropy() -> None:
    record = torch.tensor([SLIDE_RECORD], dtype=torch.float64)
    perfect = LIKELIHOODS["bernoulli"].log_prob(record, torch.logit(record).unsqueeze(-1)).sum().item()
    entropy = sum(stats.bernoulli(x).entropy() for x in SLIDE_RECORD)
    assert perfect == pytest.approx(-entropy)
    assert perfect - SLIDE_NATS == pytest.approx(0.050, abs=1e-3)


def test_reparameterized_noise_has_the_mean_and_spread_of_q() -> None:
    mean, log_variance = torch.tensor([1.0, -2.0]).double(), torch.tensor([0.0, -3.0]).double()
    z = reparameterize(mean, log_variance, normal(200_000, 2))
    error = (0.5 * log_variance).exp() / math.sqrt(200_000)
    assert ((z.mean(0) - mean).abs() < 5 * error).all()
    torch.testing.assert_close(z.var(0), log_variance.exp(), rtol=0.02, atol=0)


def test_the_reparameterized_code_is_differentiable_in_mean_and_log_variance() -> None:
    mean, log_variance, noise = normal(2, 3), normal(2, 3, seed=1), normal(2, 3, seed=2)
    assert_gradient_is_right(lambda x: reparameterize(x, log_variance, noise).square().sum(), mean)
    assert_gradient_is_right(lambda x: reparameterize(mean, x, noise).square().sum(), log_variance)


def test_the_elbo_is_the_mean_over_draws_less_the_kl() -> None:
    log_likelihood, kl = normal(5, 4), normal(4, seed=1).abs()
    expected = log_likelihood.numpy().mean(axis=0) - kl.numpy()
    np.testing.assert_allclose(elbo(log_likelihood, kl).numpy(), expected, rtol=1e-12)


def test_the_importance_bound_is_the_log_of_the_mean_weight_even_where_weights_underflow() -> None:
    weights = normal(6, 3)
    torch.testing.assert_close(importance_bound(weights), weights.exp().mean(0).log())
    torch.testing.assert_close(importance_bound(weights - 1e5), weights.exp().mean(0).log() - 1e5)


def test_with_one_draw_the_importance_bound_is_the_weight_itself() -> None:
    weights = normal(1, 8)
    torch.testing.assert_close(importance_bound(weights), weights[0])


def test_log_normal_is_that_of_torch_distributions() -> None:
    z, mean, log_variance = normal(4, 3), normal(4, 3, seed=1), normal(4, 3, seed=2)
    reference = Normal(mean, (0.5 * log_variance).exp()).log_prob(z).sum(-1)
    torch.testing.assert_close(log_normal(z, mean, log_variance), reference)


def test_log_weights_are_joint_over_q() -> None:
    mean, log_variance, noise = normal(4, 3), normal(4, 3, seed=1), normal(6, 1, 3, seed=2)
    log_likelihood = normal(6, 4, seed=3)
    z = mean + noise * (0.5 * log_variance).exp()
    log_prior = Normal(0.0, 1.0).log_prob(z).sum(-1)
    log_q = Normal(mean, (0.5 * log_variance).exp()).log_prob(z).sum(-1)
    weights = log_weights(log_likelihood, mean, log_variance, noise)
    torch.testing.assert_close(weights, log_likelihood + log_prior - log_q)


def test_log_weights_stay_exact_where_q_has_no_width_in_float32() -> None:
    mean, log_variance, noise = torch.ones(1, 1), torch.full((1, 1), -120.0), torch.full((1, 1, 1), 0.5)
    weight = log_weights(torch.zeros(1, 1, dtype=torch.float64), mean, log_variance, noise)
    # z is 1 in float32: log P(z) = -1/2 - log(2 pi)/2 and log Q(z) = -1/8 + 60 - log(2 pi)/2
    assert weight.item() == pytest.approx(-0.5 + 0.125 - 60)


def linear_joint(x: float, noise: Tensor, *, shift: float) -> tuple[Tensor, Tensor, float]:
    """z ~ N(0, 1), x = 2 z + N(0, 0.5^2): weights and KL of a shifted Q, and the exact log P(x)."""
    variance = 1 / (1 + 4 / 0.25)
    mean = torch.full((1, 1), variance * 2 * x / 0.25 + shift, dtype=torch.float64)
    log_variance = torch.full((1, 1), math.log(variance), dtype=torch.float64)
    z = reparameterize(mean, log_variance, noise)
    log_likelihood = Normal(2 * z, 0.5).log_prob(torch.tensor(x, dtype=torch.float64)).sum(-1)
    weights = log_weights(log_likelihood, mean, log_variance, noise)
    bound = elbo(log_likelihood, kl_standard_normal(mean, log_variance))
    return weights, bound, float(stats.norm.logpdf(x, 0, math.sqrt(4 + 0.25)))


def test_every_weight_is_log_p_of_x_when_q_is_the_posterior() -> None:
    weights, _, exact = linear_joint(1.3, normal(50, 1, 1), shift=0.0)
    torch.testing.assert_close(weights, torch.full_like(weights, exact))


def test_elbo_below_importance_bound_below_log_p_of_x_in_expectation_over_noise() -> None:
    repeats, draws = 4000, 5
    noise = normal(draws, repeats, 1)
    weights, _, exact = linear_joint(1.3, noise, shift=0.3)
    one = weights.mean(0)  # an estimate of the ELBO: the mean log-weight
    many = importance_bound(weights)
    several = importance_bound(weights[:2])

    def error(values: Tensor) -> float:
        return 4 * float(values.std()) / math.sqrt(repeats)

    assert one.mean() + error(many - one) < many.mean()
    assert several.mean() + error(many - several) < many.mean()  # rises with the number of draws
    assert many.mean() < exact + error(many)
    _, bound, _ = linear_joint(1.3, noise.reshape(-1, 1, 1), shift=0.3)
    assert bound.item() == pytest.approx(float(one.mean()), abs=error(one))
