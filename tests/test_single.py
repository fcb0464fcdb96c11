"""Scoring computes in single precision what `likelihoods` says in double: the two are held together here."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import special, stats

from vae_core import single
from vae_core.likelihoods import LIKELIHOODS, SPREAD_FLOOR
from vae_core.model import VAE, Architecture

SIZES = [1e-9, 1e-3, 0.3, 1.0, 3.0, 30.0, 1e4, 1e8, 1e15, 1e29]


def draws(name: str, step: float = 1.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Values of all sizes (n, m), parameters in single precision (n, m, k), scale (m,)."""
    generator = torch.Generator().manual_seed(0)
    n, m = 4000, len(SIZES)
    classes = 5
    outputs = LIKELIHOODS[name].outputs or classes
    parameters = 3 * torch.randn(n, m, outputs, generator=generator)
    scale = torch.full((m,), {"whole": step, "categorical": float(classes)}.get(name, 1.0))
    values = torch.randn(n, m, generator=generator, dtype=torch.float64) * torch.tensor(SIZES).double()
    if name == "bernoulli":
        values = (values > 0).double()
    if name == "categorical":
        values = torch.randint(0, classes, (n, m), generator=generator).double()
    return values, parameters, scale.double()


@pytest.mark.parametrize("size", [1e30, 1.0001e30, 1e37, 3e38, 1e39, 1e100, 1e300])
@pytest.mark.parametrize("name", ["gaussian", "whole"])
def test_values_beyond_single_precision_agree_too_alone_and_beside_others(name: str, size: float) -> None:
    values, parameters, scale = draws(name)
    values[::2, 3] = size * torch.sign(values[::2, 3])
    exact = LIKELIHOODS[name].log_prob(values, parameters.double(), scale=scale)
    quick = single.TERMS[name](single.Split.of(values), parameters, scale)
    torch.testing.assert_close(quick.double(), exact, rtol=2e-6, atol=2e-6)
    alone = single.TERMS[name](single.Split.of(values[1::2]), parameters[1::2], scale)
    assert torch.equal(quick[1::2], alone)  # a far record changes no bit of its neighbours


@pytest.mark.parametrize("step", [1e-6, 0.02, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("name", list(single.TERMS))
def test_terms_agree_with_double_precision(name: str, step: float) -> None:
    values, parameters, scale = draws(name, step)
    quick = single.TERMS[name](single.Split.of(values), parameters, scale).double()
    exact = LIKELIHOODS[name].log_prob(values, parameters.double(), scale=scale)
    torch.testing.assert_close(quick, exact, rtol=2e-6, atol=2e-6)


def test_values_beyond_single_precision_are_still_told_apart() -> None:
    x = torch.tensor([[1e31], [1e38], [1e60], [-1e200], [1e300]], dtype=torch.float64)
    parameters = torch.tensor([0.3, 0.1]).expand(5, 1, 2)
    scale = torch.ones(1, dtype=torch.float64)
    for name in ("gaussian", "whole"):
        quick = single.TERMS[name](single.Split.of(x), parameters, scale).double()
        exact = LIKELIHOODS[name].log_prob(x, parameters.double(), scale=scale)
        torch.testing.assert_close(quick, exact, rtol=2e-6, atol=0)


def test_the_mass_of_a_whole_number_is_a_difference_of_normal_distribution_functions() -> None:
    """Against scipy, where the difference is well conditioned."""
    parameters = torch.tensor([[0.2, 0.4]])
    deviation = SPREAD_FLOOR + np.log1p(np.exp(0.4))
    for step in (0.05, 0.5, 0.99, 1.01, 2.5, 6.0):
        x = step * np.arange(-6, 7)
        low, high = ((x + sign * step / 2 - 0.2) / deviation for sign in (-1, 1))
        outside = np.abs(stats.norm.sf(np.abs(low)) - stats.norm.sf(np.abs(high)))
        inside = stats.norm.cdf(high) - stats.norm.cdf(low)
        expected = np.log(np.where(low * high < 0, inside, outside))
        split = single.Split.of(torch.from_numpy(x).unsqueeze(-1))
        ours = single.whole_log_prob(split, parameters.expand(len(x), 1, 2), torch.tensor([step]))
        np.testing.assert_allclose(ours.squeeze(-1).numpy(), expected, rtol=3e-6, atol=3e-6)


def test_log_erfcx_is_scipys() -> None:
    x = np.r_[0.0, np.geomspace(1e-4, 1e6, 400)]
    ours = single.log_erfcx(torch.from_numpy(x).float()).numpy()
    np.testing.assert_allclose(ours, np.log(special.erfcx(x)), rtol=2e-7, atol=6e-7)


def test_nothing_of_a_value_is_lost_in_splitting_it() -> None:
    """Two records that differ in the tenth digit still have two scores."""
    x = torch.tensor([[1.0], [1.0 + 1e-10], [1e6], [1e6 + 1e-3], [0.1], [-7e11]], dtype=torch.float64)
    split = single.Split.of(x)
    torch.testing.assert_close(split.high.double() + split.low.double(), x, rtol=1e-14, atol=0)


def test_summed_terms_are_the_sums_of_log_prob_whatever_the_order_of_kinds() -> None:
    kinds = ["whole", "gaussian", "categorical", "bernoulli", "gaussian", "whole", "continuous_bernoulli"]
    architecture = Architecture(
        likelihoods=kinds, scales=[0.3, 1, 4, 1, 1, 1e-3, 1], latent=3, hidden=[8, 8], members=2
    )
    vae = VAE(architecture).eval()
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(50, 7, generator=generator, dtype=torch.float64)
    values[:, 2] = torch.randint(0, 4, (50,), generator=generator).double()
    values[:, [3, 6]] = (values[:, [3, 6]] > 0).double()
    mask = torch.rand(50, 7, generator=generator) > 0.2
    values = torch.where(mask, values, 0.0)
    outputs = sum(len(g.features) * g.outputs for g in vae.groups)
    parameters = torch.randn(2, 4, 50, outputs, generator=generator)
    summed = vae.summed_terms(vae.scored_cells(values, mask), parameters)[:, vae.index]
    expected = vae.log_prob(values, parameters, mask).sum((0, 1))
    torch.testing.assert_close(summed.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("step", [1e-6, 0.02, 0.3, 0.999, 1.001, 3.0, 100.0])
def test_the_gradient_of_a_whole_numbers_mass_is_that_of_double_precision(step: float) -> None:
    values, parameters, scale = draws("whole", step)
    values = values.float()
    given = parameters.clone().requires_grad_()
    single.whole_with_gradient(values, given, scale.float()).sum().backward()
    exact = parameters.double().requires_grad_()
    LIKELIHOODS["whole"].log_prob(values.double(), exact, scale=scale).sum().backward()
    assert given.grad is not None and exact.grad is not None
    assert torch.isfinite(given.grad).all()
    # Between near-equal ends of a bin the slope by the mean is a difference: absolute error 1e-6 / spread.
    torch.testing.assert_close(given.grad.double(), exact.grad, rtol=2e-3, atol=2e-4)
