"""Where the lecture's VAE starts: its hidden units tell records apart from the first step on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from vae_core.balanced_start import start_balanced
from vae_core.model import VAE, Architecture


def lopsided(n: int = 500, m: int = 12) -> Tensor:
    """Yes/no records with rare and frequent columns: many a unit drawn at random is on, or off, for most."""
    generator = np.random.default_rng(0)
    shares = np.linspace(0.02, 0.98, m)
    return torch.from_numpy((generator.random((n, m)) < shares).astype(np.float64))


def lecture(m: int, **changes: object) -> VAE:
    shape = {"likelihoods": ["bernoulli"] * m, "scales": [1.0] * m, "latent": 3, "hidden": [32, 16]}
    rest = {"activation": "relu", "linear_skip": False, "standardise_inputs": False, "members": 2}
    return VAE(Architecture.from_json(shape | rest | changes))


def before_activation(vae: VAE, x: Tensor, context: Tensor) -> list[Tensor]:
    h = vae.near(x.float(), context).expand(2, -1, -1)
    units = []
    for layer in vae.encoder.layers:
        units.append(layer(h))
        h = vae.encoder.activation(units[-1])
    return units


@pytest.mark.parametrize("context", [0, 2])
def test_hidden_units_start_with_mean_0_and_spread_1_over_the_records(context: int) -> None:
    x = lopsided()
    c = torch.randn(len(x), context, generator=torch.Generator().manual_seed(1))
    vae = lecture(x.shape[1], context=context)
    start_balanced(vae, x, torch.ones(x.shape, dtype=torch.bool), c)
    for units in before_activation(vae, x, c):
        np.testing.assert_allclose(units.mean(1).detach(), 0, atol=1e-5)
        np.testing.assert_allclose(units.std(1, correction=0).detach(), 1, atol=1e-4)
        assert bool((units > 0).any(1).all() and (units < 0).any(1).all())  # none is dead, none is linear


def test_units_without_spread_stay_finite_and_missing_cells_count_for_nothing() -> None:
    x = torch.ones(200, 5, dtype=torch.float64)
    mask = torch.ones(x.shape, dtype=torch.bool)
    x[:10, 0], mask[:10, 0] = np.nan, False
    vae = lecture(5)
    start_balanced(vae, torch.where(mask, x, 0), mask, torch.zeros(200, 0))
    assert all(bool(torch.isfinite(p).all()) for p in vae.parameters())
    np.testing.assert_allclose(torch.sigmoid(vae.decoder_head.bias).detach(), 0.99, atol=1e-6)


def test_without_what_the_code_says_outputs_are_the_columns_shares() -> None:
    x = lopsided()
    vae = lecture(x.shape[1])
    start_balanced(vae, x, torch.ones(x.shape, dtype=torch.bool), torch.zeros(len(x), 0))
    expected = x.mean(0).clamp(0.01, 0.99)
    np.testing.assert_allclose(torch.sigmoid(vae.decoder_head.bias[1, 0]).detach(), expected, atol=1e-6)


def test_few_records_leave_all_as_it_was_drawn() -> None:
    x = lopsided(n=99)
    vae, drawn = lecture(x.shape[1]), lecture(x.shape[1])
    start_balanced(vae, x, torch.ones(x.shape, dtype=torch.bool), torch.zeros(len(x), 0))
    assert all(torch.equal(a, b) for a, b in zip(vae.parameters(), drawn.parameters(), strict=True))
