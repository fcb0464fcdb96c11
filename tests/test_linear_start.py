"""The VAE starts as the linear latent variable model, and the yardstick of training is that model."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from vae_core.linear_start import set_input_scaling, start_linear
from vae_core.model import VAE, Architecture
from vae_core.ppca import ProbabilisticPCA


def linear_records(n: int = 600, *, noise: float = 0.35, seed: int = 0) -> Tensor:
    """z ~ N(0, I), x = W z + N(0, noise^2), m = 5, p = 2, within 4 standard units."""
    generator = np.random.default_rng(seed)
    loadings = generator.normal(0, 0.5, (5, 2))
    records = generator.normal(size=(n, 2)) @ loadings.T + noise * generator.normal(size=(n, 5))
    return torch.from_numpy(records.clip(-3.9, 3.9))


def started(values: Tensor, context: Tensor | None = None, **changes: object) -> VAE:
    """A VAE of real columns with its linear start, hidden layers silenced."""
    n, m = values.shape
    context = torch.zeros(n, 0) if context is None else context
    shape = {"likelihoods": ["gaussian"] * m, "scales": [1.0] * m, "latent": 2, "hidden": [8], "members": 2}
    vae = VAE(Architecture.from_json(shape | {"context": context.shape[1]} | changes)).double().eval()
    mask = torch.ones(values.shape, dtype=torch.bool)
    set_input_scaling(vae, values, mask)
    start_linear(vae, vae.inputs(values, mask), context.double())
    with torch.no_grad():
        for head in (vae.encoder_mean, vae.encoder_variance, vae.decoder_head):
            head.weight.zero_()
    return vae


def mean_bound(vae: VAE, values: Tensor, context: Tensor | None = None) -> float:
    """Mean ELBO over records, its expectation by Gauss-Hermite quadrature (exact: the decoder is linear)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    grid = torch.tensor([(a, b) for a in nodes for b in nodes], dtype=torch.float64)
    together = torch.from_numpy(np.outer(weights, weights).ravel() / weights.sum() ** 2)
    context = torch.zeros(len(values), 0).double() if context is None else context.double()
    mask = torch.ones(values.shape, dtype=torch.bool)
    terms, kl, _ = vae.terms(values, mask, vae.inputs(values, mask), context, grid)
    return float((torch.einsum("s,esn->en", together, terms.sum(-1)) - kl).mean().detach())


@pytest.mark.parametrize("positivity", ["exp", "square"])
def test_on_linear_data_the_start_is_as_good_as_the_exact_linear_model(positivity: str) -> None:
    values, fresh = linear_records(), linear_records(2000, seed=0)[600:]
    exact = float(ProbabilisticPCA(2).fit(values.numpy()).score_samples(fresh.numpy()).mean())
    assert mean_bound(started(values, positivity=positivity), fresh) == pytest.approx(exact, abs=0.02)


def test_all_members_share_the_linear_start() -> None:
    vae = started(linear_records())
    assert torch.equal(vae.encoder_skip.weight[0], vae.encoder_skip.weight[1])
    assert torch.equal(vae.decoder_skip.weight[0], vae.decoder_skip.weight[1])


def test_the_start_takes_what_the_context_explains_out_of_the_latents() -> None:
    values = linear_records(seed=1)
    angle = torch.linspace(0, 60, len(values), dtype=torch.float64)
    context = torch.stack([torch.sin(angle), torch.cos(angle)], 1)
    effect = torch.tensor([[0.8, 0.0, -0.5, 0.3, 0.0], [0.0, 0.4, 0.2, 0.0, -0.6]], dtype=torch.float64)
    moved = values + context @ effect
    with_context = mean_bound(started(moved, context), moved, context)
    assert with_context == pytest.approx(mean_bound(started(values), values), abs=0.03)
    assert with_context > mean_bound(started(moved), moved) + 0.1


def test_at_the_origin_of_the_codes_discrete_columns_have_their_shares() -> None:
    generator = np.random.default_rng(0)
    columns = [
        generator.random(2000) < 0.2,
        generator.choice(3, 2000, p=[0.1, 0.6, 0.3]),
        generator.normal(size=2000),
    ]
    values = torch.from_numpy(np.stack(columns, axis=1).astype(np.float64))
    mask = torch.ones(values.shape, dtype=torch.bool)
    vae = VAE(
        Architecture(
            ["bernoulli", "categorical", "gaussian"], [1.0, 3.0, 1.0], latent=2, hidden=[8], members=1
        )
    )
    vae.eval()
    set_input_scaling(vae, values, mask)
    start_linear(vae, vae.inputs(values, mask), torch.zeros(2000, 0))
    with torch.no_grad():
        vae.decoder_head.weight.zero_()
        parameters = vae.decode(torch.zeros(1, 1, 2), torch.zeros(1, 1, 0)).double()
    for group in vae.groups:
        chosen = vae.parameters_of(group, parameters)[0, 0, 0]
        if group.likelihood.name == "bernoulli":
            assert float(torch.sigmoid(chosen)) == pytest.approx(float(values[:, 0].mean()), abs=1e-4)
        if group.likelihood.name == "categorical":
            shares = [float((values[:, 1] == k).double().mean()) for k in range(3)]
            np.testing.assert_allclose(torch.softmax(chosen, -1).numpy(), shares, atol=1e-4)


def test_input_scaling_leaves_real_columns_alone_and_standardises_discrete_ones() -> None:
    generator = np.random.default_rng(0)
    values = torch.from_numpy(
        np.stack([generator.normal(3, 2, 500), generator.random(500) < 0.3], 1).astype(float)
    )
    mask = torch.ones(values.shape, dtype=torch.bool)
    mask[:100, 1] = False
    vae = VAE(
        Architecture(["gaussian", "bernoulli"], [1.0, 1.0], latent=1, hidden=[4], members=1, indicators=[1])
    )
    set_input_scaling(vae, values, mask)
    inputs = vae.inputs(values, mask)
    torch.testing.assert_close(inputs[:, 0], values[:, 0].float())
    assert (inputs[:100, 1] == 0).all()  # a missing cell is 0 after scaling: the mean
    assert float(inputs[:, 1].mean()) == pytest.approx(0, abs=0.02)
    assert float(inputs[:, 2].std(unbiased=False)) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    "values",
    [
        torch.zeros(1, 3),
        torch.ones(2, 1),
        torch.arange(6.0).reshape(2, 3),
        torch.zeros(30, 4),
        torch.randn(10, 40, generator=torch.Generator().manual_seed(0)),
        torch.randn(50, 1, generator=torch.Generator().manual_seed(0)).expand(50, 4),
    ],
    ids=[
        "one record",
        "one column",
        "two records",
        "all constant",
        "wider than long",
        "copies of one column",
    ],
)
def test_the_start_is_finite_where_the_closed_form_is_degenerate(values: Tensor) -> None:
    vae = started(values.double())
    assert all(torch.isfinite(p).all() for p in vae.parameters())
    assert math.isfinite(mean_bound(vae, values.double()))
