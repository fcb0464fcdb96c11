"""What every likelihood promises, parametrised over the table of them; then each against its own oracle."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import ContinuousBernoulli

from vae_core.likelihoods import LIKELIHOODS, SPREAD_FLOOR, TAIL_START, Likelihood

CLASSES = 4
LEVELS = 256  # of grey
STEP = 0.3  # the width of a whole number's step, in standardised units
RAW = [-30.0, -4.0, -0.3, 0.0, 0.8, 3.0]  # decoder outputs
LOGITS = [-25.0, -4.0, -0.019, -0.3, 0.0, 0.021, 1.0, 7.0, 25.0]
EXTREME = [1e7, 1e20, 1e30]


def scale_of(likelihood: Likelihood) -> Tensor:
    value = {"whole": STEP, "categorical": float(CLASSES)}.get(likelihood.name, 1.0)
    if likelihood.normalised_on == "grey levels":
        value = 1 / LEVELS
    return torch.tensor([value], dtype=torch.float64)


def parameter_grid(likelihood: Likelihood) -> Tensor:
    """Some decoder outputs for one column: (settings, 1, outputs)."""
    if likelihood.name in ("gaussian", "whole"):
        settings = list(product([-2.0, 0.0, 0.13, 5.0], RAW))
    elif likelihood.outputs == 1:
        settings = [(logit,) for logit in LOGITS]
    elif likelihood.name == "discretised_logistic":
        settings = list(product([-9.0, -1.0, 0.0, 2.0, 30.0], [-30.0, -2.0, 0.0, 3.0]))
    else:
        rows = np.random.default_rng(0).normal(0, 3, (6, CLASSES)).tolist()
        settings = [tuple(row) for row in [*rows, [0.0] * CLASSES, [40.0, 0.0, 0.0, -40.0]]]
    return torch.tensor(settings, dtype=torch.float64).unsqueeze(1)


def support_grid(likelihood: Likelihood, parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Points x and weights w with sum w P(x) = 1 for a normalised likelihood."""
    if likelihood.name == "gaussian":
        mean, deviation = likelihood.moments(parameters, scale_of(likelihood))
        centre, width = float(mean), 12 * float(deviation.sqrt())
        x = torch.linspace(centre - width, centre + width, 8001, dtype=torch.float64)
        return x, torch.full_like(x, float(x[1] - x[0]))
    if likelihood.name == "whole":
        return STEP * torch.arange(-400, 401, dtype=torch.float64), torch.ones(801, dtype=torch.float64)
    if likelihood.name == "bernoulli":
        return torch.tensor([0.0, 1.0], dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    if likelihood.name == "categorical":
        return torch.arange(CLASSES, dtype=torch.float64), torch.ones(CLASSES, dtype=torch.float64)
    if likelihood.normalised_on == "grey levels":
        return torch.linspace(0, 1, LEVELS, dtype=torch.float64), torch.ones(LEVELS, dtype=torch.float64)
    nodes, weights = np.polynomial.legendre.leggauss(200)  # continuous Bernoulli, on [0, 1]
    return torch.from_numpy(0.5 * (nodes + 1)), torch.from_numpy(0.5 * weights)


def density(likelihood: Likelihood, x: Tensor, parameters: Tensor) -> Tensor:
    """P(x) at points (k,) under one setting of the parameters (1, outputs): (k,)."""
    terms = likelihood.log_prob(
        x.unsqueeze(-1), parameters.expand(len(x), -1, -1), scale=scale_of(likelihood)
    )
    return terms.squeeze(-1).exp()


ALL = pytest.mark.parametrize("likelihood", LIKELIHOODS.values(), ids=list(LIKELIHOODS))


@ALL
def test_the_density_integrates_to_one(likelihood: Likelihood) -> None:
    for parameters in parameter_grid(likelihood):
        x, weights = support_grid(likelihood, parameters)
        assert float((weights * density(likelihood, x, parameters)).sum()) == pytest.approx(1, abs=1e-9)


def test_the_narrow_bins_of_whole_numbers_sum_to_one_as_well() -> None:
    step, parameters = 0.01, torch.tensor([[0.3, 0.5]], dtype=torch.float64)  # .01 of the spread
    x = step * torch.arange(-2000, 2001, dtype=torch.float64).unsqueeze(-1)
    scale = torch.tensor([step], dtype=torch.float64)
    terms = LIKELIHOODS["whole"].log_prob(x, parameters.expand(len(x), 1, 2), scale=scale)
    assert float(terms.exp().sum()) == pytest.approx(1, abs=1e-5)


@ALL
def test_moments_are_those_of_the_density(likelihood: Likelihood) -> None:
    for parameters in parameter_grid(likelihood):
        x, weights = support_grid(likelihood, parameters)
        mass = weights * density(likelihood, x, parameters)
        mean, variance = likelihood.moments(parameters, scale_of(likelihood))
        if likelihood.name == "categorical":
            assert mean.item() == mass.argmax().item()
            assert variance.item() == pytest.approx(1 - mass.max().item())
            continue
        expected = float((mass * x).sum())
        grain = STEP**2 if likelihood.name == "whole" else 0.0  # its moments are those before rounding
        assert mean.item() == pytest.approx(expected, abs=1e-6 + grain)
        assert variance.item() == pytest.approx(
            float((mass * (x - expected) ** 2).sum()), rel=1e-4, abs=1e-9 + grain
        )


@ALL
def test_samples_follow_the_density(likelihood: Likelihood) -> None:
    generator = torch.Generator().manual_seed(0)
    n = 20_000
    for parameters in parameter_grid(likelihood):
        drawn = (
            likelihood.sample(parameters.expand(n, 1, -1), scale_of(likelihood), generator)
            .squeeze(-1)
            .double()
        )
        x, weights = support_grid(likelihood, parameters)
        mass = weights * density(likelihood, x, parameters)
        if likelihood.name == "whole":
            drawn = STEP * torch.round(drawn / STEP)  # as decoding does
        if likelihood.name == "categorical":
            mass[0] = 0  # 'other' has no name to write
            mass = mass / mass.sum()
        mean = float((mass * x).sum())
        error = math.sqrt(float((mass * (x - mean) ** 2).sum()) / n)
        assert float(drawn.mean()) == pytest.approx(mean, abs=5 * error + 1e-6)
        below = min(1.0, float(mass[x <= mean].sum()))
        share = float((drawn <= mean).double().mean())
        assert share == pytest.approx(below, abs=5 * math.sqrt(below * (1 - below) / n) + 0.002)


@ALL
def test_terms_are_finite_at_extreme_parameters(likelihood: Likelihood) -> None:
    for extreme in [*EXTREME, 1e3]:
        for signs in product([-1.0, 1.0], repeat=likelihood.outputs or CLASSES):
            parameters = torch.tensor([[signs]], dtype=torch.float64) * extreme
            x, _ = support_grid(likelihood, parameter_grid(likelihood)[0])
            some = x[:: max(1, len(x) // 50)]
            assert torch.isfinite(density(likelihood, some, parameters[0]).clamp(min=1e-300).log()).all()
            terms = likelihood.log_prob(
                some.unsqueeze(-1), parameters.expand(len(some), 1, -1), scale=scale_of(likelihood)
            )
            assert torch.isfinite(terms).all()


@ALL
def test_gradients_agree_with_finite_differences(likelihood: Likelihood) -> None:
    for setting in parameter_grid(likelihood):
        x, _ = support_grid(likelihood, setting)
        some = x[:: max(1, len(x) // 7)].unsqueeze(-1)
        parameters = setting.expand(len(some), -1, -1).clone().requires_grad_()
        likelihood.log_prob(some, parameters, scale=scale_of(likelihood)).sum().backward()
        assert parameters.grad is not None
        for k in range(setting.shape[-1]):
            change = torch.zeros_like(setting)
            change[:, k] = 1e-5
            up, down = (
                likelihood.log_prob(
                    some, (setting + sign * change).expand(len(some), -1, -1), scale=scale_of(likelihood)
                )
                for sign in (1, -1)
            )
            expected = ((up - down) / 2e-5).squeeze(-1)
            torch.testing.assert_close(parameters.grad[:, 0, k], expected, rtol=1e-4, atol=1e-5)


@ALL
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_far_from_anything_seen(likelihood: Likelihood, dtype: torch.dtype) -> None:
    low, high = likelihood.support
    values = [v for v in (-1e30, -1e7, -50.0, 0.0, 1.0, 50.0, 1e7, 1e30) if low <= v <= high]
    values = [v for v in values if likelihood.name != "categorical" or v < CLASSES]
    x = torch.tensor(values, dtype=dtype).unsqueeze(-1)
    for setting in parameter_grid(likelihood):
        parameters = setting.to(dtype).expand(len(values), -1, -1).clone().requires_grad_()
        terms = likelihood.log_prob(x, parameters, scale=scale_of(likelihood).to(dtype))
        terms.sum().backward()
        assert parameters.grad is not None
        assert torch.isfinite(terms).all()
        assert torch.isfinite(parameters.grad).all()


@ALL
def test_a_missing_cell_has_no_term_and_no_gradient_whatever_stands_in_it(likelihood: Likelihood) -> None:
    setting = parameter_grid(likelihood)[:2].reshape(1, 2, -1)
    scale = scale_of(likelihood).expand(2)
    mask = torch.tensor([[True, False]])
    results = []
    for hidden in (0.0, 1.0, -7.0, 1e30, math.nan, math.inf):
        parameters = setting.clone().requires_grad_()
        terms = likelihood.log_prob(
            torch.tensor([[1.0, hidden]], dtype=torch.float64), parameters, mask, scale
        )
        terms.sum().backward()
        assert parameters.grad is not None
        assert terms[0, 1].item() == 0
        assert (parameters.grad[0, 1] == 0).all()
        results.append((terms[0, 0].item(), parameters.grad[0, 0].tolist()))
    assert all(result == results[0] for result in results)


@ALL
def test_an_observed_value_outside_the_support_is_refused(likelihood: Likelihood) -> None:
    low, high = likelihood.support
    outside = [v for v in (-1e30, -1.0, -1e-9, 1 + 1e-9, 2.0, 1e30) if not low <= v <= high]
    if likelihood.name == "categorical":
        outside.append(float(CLASSES))
    setting = parameter_grid(likelihood)[:1]
    for value in outside:
        with pytest.raises(ValueError, match="outside"):
            likelihood.log_prob(
                torch.tensor([[value]], dtype=torch.float64), setting, scale=scale_of(likelihood)
            )
    assert outside or likelihood.name in ("gaussian", "whole")


@ALL
def test_terms_are_unsummed_and_broadcast_over_leading_axes(likelihood: Likelihood) -> None:
    setting = parameter_grid(likelihood)[:3].reshape(3, -1)
    x = torch.tensor([[0.0, 1.0, 0.0], [1.0, 1.0, 0.0]], dtype=torch.float64)
    together = likelihood.log_prob(
        x.expand(5, 2, 3), setting.expand(5, 2, 3, -1), scale=scale_of(likelihood).expand(3)
    )
    assert together.shape == (5, 2, 3)
    for row, column in product(range(2), range(3)):
        alone = likelihood.log_prob(
            x[row, column].view(1, 1), setting[column].view(1, 1, -1), scale=scale_of(likelihood)
        )
        torch.testing.assert_close(together[4, row, column], alone.squeeze(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["gaussian", "whole"])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("raw", RAW)
def test_farther_out_is_never_more_likely(name: str, sign: float, raw: float) -> None:
    distances = torch.cat([torch.linspace(0, 100, 2001), torch.logspace(2, 33, 400)]).double()
    likelihood = LIKELIHOODS[name]
    parameters = torch.tensor([[0.0, raw]], dtype=torch.float64).expand(len(distances), 1, 2)
    for step in (STEP, 1e-3, 0.0037, 0.04, 8.0, 100.0) if name == "whole" else (1.0,):
        terms = likelihood.log_prob(
            sign * distances.unsqueeze(-1), parameters, scale=torch.tensor([step], dtype=torch.float64)
        ).squeeze(-1)
        assert torch.isfinite(terms).all()
        assert (terms.diff() <= 0).all(), f"step {step}: {terms.diff().max()}"


@pytest.mark.parametrize("name", ["gaussian", "whole"])
def test_far_beyond_the_tails_start_another_order_of_magnitude_still_costs(name: str) -> None:
    x = torch.tensor([[1e7], [1e10], [1e20], [1e30]], dtype=torch.float64)
    parameters = torch.zeros(4, 1, 2, dtype=torch.float64)
    terms = (
        LIKELIHOODS[name].log_prob(x, parameters, scale=torch.tensor([STEP], dtype=torch.float64)).squeeze()
    )
    decades = torch.tensor([3.0, 10.0, 10.0], dtype=torch.float64)
    torch.testing.assert_close(terms.diff(), -2 * math.log(10) * decades, rtol=1e-3, atol=0)


def test_the_gaussian_is_scipys_and_its_spread_has_a_floor() -> None:
    x = np.linspace(-30, 30, 101)
    for mean, raw in product([-2.0, 0.4], RAW):
        parameters = torch.tensor([[[mean, raw]]], dtype=torch.float64).expand(len(x), 1, 2)
        ours = (
            LIKELIHOODS["gaussian"]
            .log_prob(torch.from_numpy(x).unsqueeze(-1), parameters)
            .squeeze(-1)
            .numpy()
        )
        deviation = SPREAD_FLOOR + np.logaddexp(0, raw)
        np.testing.assert_allclose(ours, stats.norm.logpdf(x, mean, deviation), rtol=1e-9)


def test_the_mass_beyond_the_tails_start_is_nothing() -> None:
    # Beyond TAIL_START the density is c r^-2: its mass is 2 c TAIL_START with c the Gaussian's value there.
    assert math.exp(-0.5 * TAIL_START**2) * 2 * TAIL_START == 0.0


@pytest.mark.parametrize("step", [1e-3, 0.02, 0.049, 0.051, 0.3, 2.0, 40.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_whole_numbers_mass_is_a_difference_of_normal_distribution_functions(
    step: float, dtype: torch.dtype
) -> None:
    deviation = SPREAD_FLOOR + math.log(2)
    x = np.concatenate([np.linspace(-12, 12, 97), [step / 2 + 0.2, -25.0, 25.0]])
    low, high = (x - step / 2 - 0.2) / deviation, (x + step / 2 - 0.2) / deviation
    flip = low + high > 0  # differences of the upper tails where those are the small ones
    low, high = np.where(flip, -high, low), np.where(flip, -low, high)
    log_high, log_low = stats.norm.logcdf(high), stats.norm.logcdf(low)
    expected = log_high + np.log(-np.expm1(log_low - log_high))
    parameters = torch.tensor([[[0.2, 0.0]]], dtype=dtype).expand(len(x), 1, 2)
    scale = torch.tensor([step], dtype=dtype)
    ours = LIKELIHOODS["whole"].log_prob(torch.from_numpy(x).to(dtype).unsqueeze(-1), parameters, scale=scale)
    tolerance = 3e-4 if dtype == torch.float64 else 2e-3
    np.testing.assert_allclose(ours.squeeze(-1).numpy(), expected, atol=tolerance, rtol=1e-6)


def test_the_bernoulli_is_never_above_zero_even_on_grey_values_and_wild_logits() -> None:
    grey = torch.linspace(0, 1, 101)
    logits = torch.cat([torch.linspace(-40, 40, 401), torch.tensor([-1e30, -1e7, 1e7, 1e30])])
    for dtype in (torch.float32, torch.float64):
        x = grey.to(dtype).unsqueeze(0).expand(len(logits), -1)
        parameters = logits.to(dtype)[:, None, None].expand(-1, len(grey), 1)
        terms = LIKELIHOODS["bernoulli"].log_prob(x, parameters)
        assert (terms <= 0).all()
        assert torch.isfinite(terms).all()


@pytest.mark.parametrize("levels", [256, 65_536])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_mass_of_a_grey_level_and_its_slope_are_those_of_the_sum_over_levels(
    levels: int, dtype: torch.dtype
) -> None:
    sizes = torch.tensor([1e-35, 1e-6, 0.01, 0.29, 0.31, 1.0, 7.0, 60.0, 5000.0], dtype=dtype)
    logits = torch.cat([-sizes, sizes.new_zeros(1), sizes])
    level = torch.tensor([0, 1, levels // 3, levels - 2, levels - 1])
    x = (level / (levels - 1)).to(dtype)
    parameters = logits[:, None, None].expand(-1, len(x), 1).clone().requires_grad_()
    scale = torch.full((len(x),), 1 / levels, dtype=dtype)
    terms = LIKELIHOODS["grey_bernoulli"].log_prob(x, parameters, scale=scale)
    (slope,) = torch.autograd.grad(terms.sum(), parameters)

    shares = torch.arange(levels, dtype=torch.float64) / levels
    exact = logits.double().requires_grad_()
    normaliser = torch.logsumexp(exact[:, None] * shares, 1)
    (mean,) = torch.autograd.grad(normaliser.sum(), exact, retain_graph=True)
    of_x = x.detach().double() * (levels - 1) / levels
    expected = (exact[:, None] * of_x - normaliser[:, None]).detach()
    # x is rounded, which counts times the logit; and the sum over levels is rounded itself.
    rounding = 4 * torch.finfo(dtype).eps * (1 + expected.abs() + exact.detach().abs()[:, None])
    assert ((terms.detach().double() - expected).abs() <= rounding).all()
    assert ((slope[..., 0].double() - of_x + mean[:, None]).abs() <= 1e-8 + 8 * torch.finfo(dtype).eps).all()


def test_on_grey_values_the_bernoulli_is_not_a_density_but_the_continuous_one_is() -> None:
    nodes, weights = np.polynomial.legendre.leggauss(60)
    x = torch.from_numpy(0.5 * (nodes + 1)).unsqueeze(-1)
    parameters = torch.full((60, 1, 1), 0.5, dtype=torch.float64)
    totals = {
        name: float(
            (LIKELIHOODS[name].log_prob(x, parameters).squeeze(-1).exp().numpy() * 0.5 * weights).sum()
        )
        for name in ("bernoulli", "continuous_bernoulli")
    }
    assert totals["continuous_bernoulli"] == pytest.approx(1)
    assert totals["bernoulli"] < 0.6


@pytest.mark.parametrize("logit", [-15.0, -3.0, -0.05, -0.015, 0.0, 0.015, 0.05, 0.3, 3.0, 15.0])
def test_the_continuous_bernoulli_is_that_of_torch_distributions(logit: float) -> None:
    x = torch.linspace(0, 1, 21, dtype=torch.float64)
    parameters = torch.full((21, 1, 1), logit, dtype=torch.float64)
    reference = ContinuousBernoulli(logits=torch.tensor(logit, dtype=torch.float64), lims=(0.4999, 0.5001))
    ours = LIKELIHOODS["continuous_bernoulli"].log_prob(x.unsqueeze(-1), parameters).squeeze(-1)
    torch.testing.assert_close(ours, reference.log_prob(x), rtol=1e-6, atol=1e-7)
    mean, variance = LIKELIHOODS["continuous_bernoulli"].moments(parameters[:1], torch.ones(1))
    torch.testing.assert_close(mean.squeeze(), reference.mean, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(variance.squeeze(), reference.variance, rtol=1e-3, atol=0)


def test_an_unseen_category_costs_finite_nats_however_sure_the_decoder_is() -> None:
    sure = torch.tensor([[[-1e30, 1e30, -1e30]]], dtype=torch.float64)
    scale = torch.tensor([3.0], dtype=torch.float64)
    other = LIKELIHOODS["categorical"].log_prob(torch.zeros(1, 1, dtype=torch.float64), sure, scale=scale)
    assert other.item() == pytest.approx(math.log(1e-4 / 3))


def test_columns_with_fewer_classes_ignore_the_padding_of_the_widest() -> None:
    logits = torch.tensor([[0.3, -0.2, 99.0, 99.0]], dtype=torch.float64)
    alone = logits[:, None, :2]
    scale = torch.tensor([2.0], dtype=torch.float64)
    x = torch.ones(1, 1, dtype=torch.float64)
    padded = LIKELIHOODS["categorical"].log_prob(x, logits.unsqueeze(1), scale=scale)
    torch.testing.assert_close(padded, LIKELIHOODS["categorical"].log_prob(x, alone, scale=scale))
