"""The VAE against models whose log P(x) is known: closed forms, and numerical integration."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from vae_core.bounds import importance_bound, kl_standard_normal, log_weights
from vae_core.likelihoods import SPREAD_FLOOR
from vae_core.model import VAE, Architecture
from vae_core.networks import BatchedLinear
from vae_core.ppca import ProbabilisticPCA

MIXED = Architecture(
    ["gaussian", "categorical", "whole", "gaussian", "bernoulli", "categorical"],
    [1.0, 3.0, 0.4, 1.0, 1.0, 5.0],
    latent=2,
    hidden=[8],
    members=1,
    indicators=[0, 1],
)


def quadrature(latents: int, points: int) -> tuple[Tensor, Tensor]:
    """Nodes (s, p) and weights (s,) of the standard normal distribution (Gauss and Hermite's)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(points)
    grid = torch.tensor(list(product(nodes, repeat=latents)), dtype=torch.float64)
    together = np.prod(list(product(weights / weights.sum(), repeat=latents)), axis=1)
    return grid, torch.from_numpy(together)


def no_context(n: int) -> Tensor:
    return torch.zeros(n, 0, dtype=torch.float64)


def exact_elbo(vae: VAE, values: Tensor, mask: Tensor, *, points: int) -> Tensor:
    """The ELBO (e, n) with its expectation by quadrature instead of draws."""
    nodes, weights = quadrature(vae.architecture.latent, points)
    terms, kl, _ = vae.terms(values, mask, vae.inputs(values, mask), no_context(len(values)), nodes)
    return torch.einsum("s,esn->en", weights, terms.sum(-1)) - kl


def exact_log_density(vae: VAE, values: Tensor, mask: Tensor) -> Tensor:
    """log P(x) (e, n) of a VAE with up to two latents: log of the integral over z of P(x|z) P(z)."""
    p, step = vae.architecture.latent, 0.02 if vae.architecture.latent == 1 else 0.05
    axis = torch.arange(-7, 7 + step / 2, step, dtype=torch.float64)
    z = torch.cartesian_prod(*[axis] * p).reshape(-1, p)
    parameters = vae.decode(z.expand(vae.architecture.members, -1, -1), torch.zeros(1, len(z), 0))
    log_prior = -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1) + p * math.log(step)
    densities = []
    for x, observed in zip(values, mask, strict=True):
        terms = vae.log_prob(x.unsqueeze(0), parameters.unsqueeze(2), observed.unsqueeze(0)).sum((-1, -2))
        densities.append(torch.logsumexp(terms + log_prior, 1))
    return torch.stack(densities, 1)


def linear_vae(model: ProbabilisticPCA) -> VAE:
    """A VAE that is probabilistic PCA: posterior and model in its linear paths, its hidden layers silent."""
    m, p = model.components_.shape
    vae = VAE(Architecture(["gaussian"] * m, [1.0] * m, latent=p, hidden=[4], members=1)).double().eval()
    loadings = torch.from_numpy(model.components_)
    covariance = torch.linalg.inv(
        loadings.T @ loadings / model.noise_variance_ + torch.eye(p, dtype=torch.float64)
    )
    assert torch.allclose(
        covariance, torch.diag(covariance.diag()), atol=1e-12
    )  # Q is diagonal: it can be exact
    gain = loadings @ covariance / model.noise_variance_
    mean = torch.from_numpy(model.mean_)
    with torch.no_grad():
        for head in (vae.encoder_mean, vae.encoder_variance, vae.decoder_head):
            head.weight.zero_()
        vae.encoder_skip.weight.copy_(gain)
        vae.encoder_skip.bias.copy_(-mean @ gain)
        vae.encoder_variance.bias.copy_(covariance.diag().log())
        vae.decoder_skip.weight[..., 0::2].copy_(
            loadings.T
        )  # mean and raw spread of each feature, side by side
        vae.decoder_skip.bias[..., 0::2].copy_(mean)
        vae.decoder_skip.bias[..., 1::2].fill_(
            math.log(math.expm1(math.sqrt(model.noise_variance_) - SPREAD_FLOOR))
        )
    return vae


@pytest.fixture(scope="module")
def linear() -> tuple[VAE, ProbabilisticPCA, Tensor]:
    """Records of a linear latent variable model, its maximum-likelihood fit, and the VAE that equals it."""
    generator = np.random.default_rng(0)
    loadings = generator.normal(0, 0.5, (5, 2))
    records = generator.normal(size=(400, 2)) @ loadings.T + 0.3 * generator.normal(size=(400, 5)) + 0.2
    model = ProbabilisticPCA(2).fit(records)
    values = torch.from_numpy(
        records[np.abs(records).max(1) < 4][:50]
    )  # the encoder's linear path is linear to 4
    return linear_vae(model), model, values


def test_the_bound_is_tight_when_q_is_the_posterior(linear: tuple[VAE, ProbabilisticPCA, Tensor]) -> None:
    vae, model, values = linear
    bound = exact_elbo(vae, values, torch.ones_like(values, dtype=torch.bool), points=3)
    np.testing.assert_allclose(bound[0].detach().numpy(), model.score_samples(values.numpy()), rtol=1e-10)


@pytest.mark.parametrize(("shift", "widen"), [(0.4, 0.0), (0.0, 1.0), (-0.2, -0.7)])
def test_the_gap_below_log_p_of_x_is_the_kl_from_q_to_the_posterior(
    linear: tuple[VAE, ProbabilisticPCA, Tensor], shift: float, widen: float
) -> None:
    _, model, values = linear
    vae = linear_vae(model)
    with torch.no_grad():
        vae.encoder_skip.bias += shift
        vae.encoder_variance.bias += widen
    mask = torch.ones_like(values, dtype=torch.bool)
    bound = exact_elbo(vae, values, mask, points=3)[0].detach()
    mean, log_variance = vae.encode(vae.inputs(values, mask), no_context(len(values)))
    posterior_mean, covariance = (torch.from_numpy(a) for a in model.posterior(values.numpy()))
    q = MultivariateNormal(mean[0], torch.diag_embed(log_variance[0].exp()))
    gap = kl_divergence(q, MultivariateNormal(posterior_mean, covariance.expand(len(values), -1, -1)))
    assert (bound < torch.from_numpy(model.score_samples(values.numpy()))).all()
    torch.testing.assert_close(bound + gap, torch.from_numpy(model.score_samples(values.numpy())))


def test_with_missing_cells_the_bound_stays_below_the_marginal_density_of_the_observed_ones(
    linear: tuple[VAE, ProbabilisticPCA, Tensor],
) -> None:
    vae, model, values = linear
    mask = torch.rand(values.shape, generator=torch.Generator().manual_seed(0)) > 0.3
    bound = exact_elbo(vae, torch.where(mask, values, 0.0), mask, points=3)[0].detach().numpy()
    marginal = model.score_samples(torch.where(mask, values, math.nan).numpy())
    assert (bound <= marginal + 1e-9).all()
    assert (bound < marginal - 0.01).any()


def test_the_numerical_oracle_agrees_with_the_closed_form(
    linear: tuple[VAE, ProbabilisticPCA, Tensor],
) -> None:
    vae, model, values = linear
    some = values[:5]
    numerical = exact_log_density(vae, some, torch.ones_like(some, dtype=torch.bool))[0]
    np.testing.assert_allclose(numerical.detach().numpy(), model.score_samples(some.numpy()), rtol=1e-6)


def wild(architecture: Architecture, *, seed: int = 0) -> VAE:
    """A VAE with every weight random, the linear paths too."""
    generator = torch.Generator().manual_seed(seed)
    vae = VAE(architecture, generator=generator)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return vae.double().eval()


def mixed_records(n: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Records for MIXED, some cells missing: values and mask (n, 6)."""
    generator = np.random.default_rng(seed)
    values = np.stack(
        [
            generator.normal(size=n),
            generator.integers(0, 3, n),
            0.4 * generator.integers(-3, 4, n),
            generator.normal(size=n),
            generator.integers(0, 2, n),
            generator.integers(0, 5, n),
        ],
        axis=1,
    )
    mask = torch.from_numpy(generator.random((n, 6)) > 0.2)
    return torch.where(mask, torch.from_numpy(values), 0.0), mask


@pytest.mark.parametrize("latent", [1, 2])
@pytest.mark.parametrize("positivity", ["exp", "square"])
def test_elbo_below_importance_bound_below_log_p_of_x(latent: int, positivity: str) -> None:
    shape = MIXED.to_json() | {"latent": latent, "positivity": positivity}
    vae = wild(Architecture.from_json(shape))
    values, mask = mixed_records(6)
    with torch.no_grad():
        exact = exact_log_density(vae, values, mask)[0]
        lower = exact_elbo(vae, values, mask, points=40)[0]
        inputs = vae.inputs(values, mask)
        mean, log_variance = vae.encode(inputs, no_context(6))
        noise = torch.randn(
            4000 * 4, 1, latent, generator=torch.Generator().manual_seed(1), dtype=torch.float64
        )
        terms, _, _ = vae.terms(values, mask, inputs, no_context(6), noise[:, 0])
        weights = log_weights(terms[0].sum(-1), mean[0], log_variance[0], noise)
        many = importance_bound(weights.unflatten(0, (4, 4000)))
    error = 4 * many.std(0) / math.sqrt(4000)
    assert (lower < many.mean(0) + error).all()
    assert (many.mean(0) < exact + error).all()
    assert (lower < exact).all()
    assert (many.mean(0) > lower + 0.1 * (exact - lower) - error).all()  # and it is the tighter one


@pytest.mark.parametrize("members", [2, 3])
def test_an_ensemble_of_members_is_as_many_single_ones(members: int) -> None:
    together = wild(Architecture.from_json(MIXED.to_json() | {"members": members}))
    values, mask = mixed_records(40)
    noise = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    terms, kl, _ = together.terms(values, mask, together.inputs(values, mask), no_context(40), noise)
    for e in range(members):
        alone = VAE(MIXED).double().eval()
        buffers = {name for name, _ in alone.named_buffers()}
        state = together.state_dict()
        alone.load_state_dict({k: v if k in buffers else v[e : e + 1] for k, v in state.items()})
        own_terms, own_kl, _ = alone.terms(values, mask, alone.inputs(values, mask), no_context(40), noise)
        torch.testing.assert_close(terms[e], own_terms[0], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(kl[e], own_kl[0], rtol=1e-10, atol=1e-10)


def test_members_start_from_different_weights() -> None:
    vae = VAE(Architecture.from_json(MIXED.to_json() | {"members": 3}))
    weight = vae.encoder.layers[0].weight
    assert not torch.equal(weight[0], weight[1])


@pytest.mark.parametrize("latent", [1, 3])
def test_q_puts_out_2p_entries_and_its_variances_are_positive_by_exp_or_square(latent: int) -> None:
    outputs = {}
    for positivity in ("exp", "square"):
        vae = wild(Architecture.from_json(MIXED.to_json() | {"latent": latent, "positivity": positivity}))
        with torch.no_grad():
            vae.encoder_variance.bias.zero_()
        values, mask = mixed_records(100)
        inputs = vae.inputs(values, mask)
        mean, log_variance = vae.encode(inputs, no_context(100))
        assert mean.shape == log_variance.shape == (1, 100, latent)
        raw = vae.encoder_variance(vae.encoder(3 * torch.tanh(inputs / 3).unsqueeze(0)))
        outputs[positivity] = (raw, log_variance.exp())
    torch.testing.assert_close(outputs["exp"][1], outputs["exp"][0].exp())
    torch.testing.assert_close(outputs["square"][1], outputs["square"][0].square() + 1e-8)
    assert (outputs["square"][0] < 0).any()  # where squaring had something to do


def test_a_squared_output_of_zero_still_gives_a_finite_log_variance() -> None:
    vae = VAE(Architecture.from_json(MIXED.to_json() | {"positivity": "square"})).eval()
    with torch.no_grad():
        vae.encoder_variance.weight.zero_()
        vae.encoder_variance.bias.zero_()
    values, mask = mixed_records(3)
    mean, log_variance = vae.encode(vae.inputs(values, mask), torch.zeros(3, 0))
    log_variance.sum().backward()
    assert torch.isfinite(kl_standard_normal(mean, log_variance)).all()
    assert all(torch.isfinite(p.grad).all() for p in vae.parameters() if p.grad is not None)


def test_a_value_under_the_mask_changes_nothing() -> None:
    vae = wild(MIXED)
    values, mask = mixed_records(60)
    noise = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    reference = vae.terms(values, mask, vae.inputs(values, mask), no_context(60), noise)
    for hidden in (1.0, -7.0, 1e30, math.nan, math.inf):
        planted = torch.where(mask, values, hidden)
        changed = vae.terms(planted, mask, vae.inputs(planted, mask), no_context(60), noise)
        for a, b in zip(reference, changed, strict=True):
            assert torch.equal(a, b)
    assert (reference[0][:, :, ~mask] == 0).all()


def test_a_missing_cell_is_not_a_zero_that_looks_like_data() -> None:
    vae = wild(MIXED)
    values, seen = torch.zeros(1, 6, dtype=torch.float64), torch.ones(1, 6, dtype=torch.bool)
    hidden = seen.clone()
    hidden[0, 0] = False
    assert not torch.equal(vae.inputs(values, seen), vae.inputs(values, hidden))
    assert not torch.equal(
        vae.encode(vae.inputs(values, seen), no_context(1))[0],
        vae.encode(vae.inputs(values, hidden), no_context(1))[0],
    )


def test_a_features_term_looks_at_its_own_value_and_its_own_parameters() -> None:
    vae = wild(MIXED)
    values, _ = mixed_records(30)
    mask = torch.ones(30, 6, dtype=torch.bool)
    parameters = torch.randn(30, sum(len(g.features) * g.outputs for g in vae.groups), dtype=torch.float64)
    reference = vae.log_prob(values, parameters, mask)
    for j in range(6):
        changed = values.clone()
        changed[:, j] = (values[:, j] + 1) % 2 if j in (1, 4, 5) else values[:, j] + 0.4
        difference = (vae.log_prob(changed, parameters, mask) != reference).any(0)
        assert difference.tolist() == [k == j for k in range(6)]
    for group in vae.groups:
        for k, j in enumerate(group.features):
            changed = parameters.clone()
            vae.parameters_of(group, changed)[:, k] *= 0.5  # a view
            assert (vae.log_prob(values, changed, mask) != reference).any(0).tolist() == [
                i == j for i in range(6)
            ]


def test_the_training_objective_is_the_bound_that_scoring_computes() -> None:
    vae = wild(Architecture.from_json(MIXED.to_json() | {"members": 2}))
    values, mask = mixed_records(20)
    inputs, noise = vae.inputs(values, mask), torch.randn(1, 2, dtype=torch.float64)
    terms, kl, _ = vae.terms(values, mask, inputs, no_context(20), noise)
    objective = vae(values, mask, inputs, no_context(20), noise.expand(2, 20, 2))
    torch.testing.assert_close(objective, terms.sum(-1)[:, 0] - kl)


@pytest.mark.parametrize("positivity", ["exp", "square"])
def test_gradients_of_the_training_objective_agree_with_finite_differences(positivity: str) -> None:
    vae = wild(Architecture.from_json(MIXED.to_json() | {"positivity": positivity}))
    values, mask = mixed_records(8)
    inputs = vae.inputs(values, mask)
    noise = torch.randn(1, 8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))

    def objective() -> Tensor:
        return vae(values, mask, inputs, no_context(8), noise).sum()

    objective().backward()
    generator = np.random.default_rng(0)
    for name, parameter in vae.named_parameters():
        assert parameter.grad is not None, name
        for place in generator.choice(parameter.numel(), min(3, parameter.numel()), replace=False):
            flat = parameter.data.view(-1)
            before = float(flat[place])
            results = []
            for change in (1e-6, -1e-6):
                flat[place] = before + change
                results.append(float(objective().detach()))
            flat[place] = before
            slope = (results[0] - results[1]) / 2e-6
            assert float(parameter.grad.view(-1)[place]) == pytest.approx(slope, rel=1e-4, abs=1e-5), name


@pytest.mark.parametrize("far", [1e7, 1e20, 1e30])
def test_the_encoder_stays_finite_however_far_a_value_lies(far: float) -> None:
    vae = VAE(MIXED).eval()
    values, mask = mixed_records(4)
    values[:, [0, 2, 3]] = torch.tensor([far, -far, far], dtype=torch.float64)
    mask[:] = True
    terms, kl, _ = vae.terms(values, mask, vae.inputs(values, mask), torch.zeros(4, 0), torch.zeros(1, 2))
    assert torch.isfinite(terms).all()
    assert torch.isfinite(kl).all()


def test_an_architecture_survives_json() -> None:
    assert Architecture.from_json(MIXED.to_json()) == MIXED


def test_what_a_layer_keeps_follows_its_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    layer = BatchedLinear(1, 5, 3, generator).eval()
    x = torch.randn(1, 4, 5, generator=generator)
    with torch.no_grad():
        before = layer(x).clone()
        layer.weight.mul_(2)
        torch.testing.assert_close(layer(x), 2 * before)
        buffer = torch.ones(15)
        layer.train().weight.data = buffer.view(1, 5, 3)  # as the optimiser's flat buffer
        layer.eval()(x)
        layer.train()
        buffer.zero_()
        torch.testing.assert_close(layer.eval()(x), torch.zeros(1, 4, 3))


def test_categories_in_groups_by_size_say_what_they_say_in_one() -> None:
    classes = [5, 60, 3, 9, 16, 17]
    kinds, scales = ["gaussian", *["categorical"] * 6], [1.0, *map(float, classes)]
    one = Architecture(kinds, scales, latent=2, hidden=[8], members=1)
    several = Architecture(kinds, scales, latent=2, hidden=[8], members=1, by_size=True)
    assert Architecture.from_json(one.to_json()) == one  # an older model's document has no `by_size`
    assert "by_size" not in one.to_json()
    assert Architecture.from_json(several.to_json()) == several
    logits = [torch.randn(40, 2 if j == 0 else int(k)) for j, k in enumerate(scales)]
    values = torch.stack([torch.randn(40), *(torch.randint(k, (40,)).double() for k in classes)], 1)
    mask = torch.rand(40, 7) < 0.8
    terms, outputs = [], []
    for architecture in (one, several):
        vae = VAE(architecture)
        outputs.append(sum(len(g.features) * g.outputs for g in vae.groups))
        parameters = torch.full((40, outputs[-1]), 99.0)  # of no class: never heard
        for group in vae.groups:
            for k, j in enumerate(group.features):
                vae.parameters_of(group, parameters)[:, k, : logits[j].shape[1]] = logits[j]  # a view
        terms.append(vae.log_prob(values, parameters, mask))
        sums = vae.summed_terms(vae.scored_cells(values, mask), parameters.view(1, 1, 40, -1))[:, vae.index]
        torch.testing.assert_close(sums.double(), terms[-1], rtol=1e-5, atol=1e-5)
    expected = [torch.log_softmax(own.double(), -1) for own in logits[1:]]
    own = torch.stack([t.gather(1, values[:, j + 1 : j + 2].long())[:, 0] for j, t in enumerate(expected)], 1)
    torch.testing.assert_close(terms[1][:, 1:], torch.where(mask[:, 1:], own, 0.0), rtol=0, atol=0.02)
    torch.testing.assert_close(terms[0], terms[1], rtol=1e-12, atol=1e-12)
    assert outputs == [2 + 6 * 60, 2 + 2 * 5 + 2 * 16 + 60 + 17]
