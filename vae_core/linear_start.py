"""The VAE's starting point: the linear latent variable model's closed form, with the VAE's own likelihoods.

The encoder's and decoder's linear paths take the maximum-likelihood solution of probabilistic PCA (Tipping &
Bishop 1999) on the standardised encoder inputs, after a linear regression on the context. Its held-out bound
is the yardstick that training has to beat.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vae_core.encoding import Encoded
from vae_core.likelihoods import SPREAD_FLOOR
from vae_core.model import VAE
from vae_core.ppca import ProbabilisticPCA
from vae_core.scoring import FittedModel

__all__ = ["linear_model", "set_input_scaling", "start_linear"]

MOST_ROWS = 50_000


@torch.no_grad()
def linear_model(model: FittedModel, records: Encoded) -> FittedModel:
    """The linear start of a model with the same encoding, likelihoods and noise, fitted to these records."""
    vae = VAE(model.vae.architecture)
    values, mask = torch.from_numpy(records.values.astype(np.float32)), torch.from_numpy(records.mask)
    if vae.architecture.standardise_inputs:
        set_input_scaling(vae, values, mask)
    start_linear(vae, vae.inputs(values, mask), torch.from_numpy(records.context))
    for head in (vae.encoder_mean, vae.encoder_variance, vae.decoder_head):
        torch.nn.init.zeros_(head.weight)  # the hidden layers' small random start is no part of it
    return FittedModel(model.encoding, vae.eval(), model.noise)


@torch.no_grad()
def set_input_scaling(vae: VAE, values: Tensor, mask: Tensor) -> None:
    """Centre and scale the encoder inputs that are not standardised: discrete columns and indicators."""
    raw, seen = vae.raw_inputs(values, mask)
    standardised = [vae.architecture.likelihoods[j] in ("gaussian", "whole") for j in vae.numeric]
    real = torch.tensor(standardised, dtype=torch.bool)  # said, since an empty list has none
    keep = torch.nn.functional.pad(real, (0, raw.shape[1] - len(real)), value=False).to(raw.device)
    count = seen.sum(0).clamp(min=1)
    mean = torch.where(seen, raw, 0.0).sum(0) / count
    deviation = (torch.where(seen, raw - mean, 0.0).square().sum(0) / count).sqrt().clamp(min=0.1)
    vae.input_mean.copy_(torch.where(keep, torch.zeros_like(mean), mean))
    vae.input_spread.copy_(torch.where(keep, torch.ones_like(mean), deviation))


@torch.no_grad()
def start_linear(vae: VAE, inputs: Tensor, context: Tensor) -> None:
    """Set the linear paths of a VAE from encoder inputs (n, d) and context (n, c) of the training records."""
    chosen = slice(None, None, 1 + (len(inputs) - 1) // MOST_ROWS)  # evenly over the whole span
    x, c = inputs[chosen].double().cpu().numpy(), context[chosen].double().cpu().numpy()
    latents = vae.architecture.latent
    # No value lies farther than sqrt(n) spreads out, unless the spread is a robust one (squares overflowed).
    x = x.clip(-np.sqrt(len(x)), np.sqrt(len(x)))
    slope = (
        np.linalg.lstsq(np.c_[np.ones(len(c)), c], x, rcond=None)[0]
        if c.shape[1]
        else x.mean(0, keepdims=True)
    )
    residual = x - np.c_[np.ones(len(c)), c] @ slope
    loadings, noise = _loadings(residual, latents)
    eigenvalues = np.square(loadings).sum(0) + noise  # of the directions kept: W'W + noise is diagonal
    gain = (loadings / eigenvalues).T  # posterior mean of z given x: (W'W + noise I)^-1 W'(x - mean)
    _set(vae.encoder_skip.weight, np.r_[gain.T, -slope[1:] @ gain.T])
    _set(vae.encoder_skip.bias, -slope[:1] @ gain.T)
    variance = (noise / eigenvalues)[None]
    _set(
        vae.encoder_variance.bias,
        np.log(variance) if vae.architecture.positivity == "exp" else np.sqrt(variance),
    )
    rest = np.maximum(residual.var(0) - np.square(loadings).sum(1), noise)
    weight, bias = _decoder(vae, loadings, slope, rest)
    _set(vae.decoder_skip.weight, weight)
    _set(vae.decoder_skip.bias, bias)


def _loadings(residual: np.ndarray, latents: int) -> tuple[np.ndarray, float]:
    """W (d, p), with orthogonal columns, and probabilistic PCA's noise variance; zero columns fill up."""
    width = max(1, min(latents, residual.shape[1] - 1, len(residual) - 1))
    model = ProbabilisticPCA(n_components=width).fit(residual)
    loadings = np.zeros((residual.shape[1], latents))
    loadings[:, : model.components_.shape[1]] = model.components_
    return loadings, float(max(model.noise_variance_, SPREAD_FLOOR**2))


def _decoder(
    vae: VAE, loadings: np.ndarray, slope: np.ndarray, rest: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Linear maps from (z, context) to the likelihoods' parameters: means, logits to first order, spreads."""
    # (p + c, d): standardised inputs as a linear function of z and context.
    path = np.r_[loadings.T, slope[1:]]
    outputs = sum(len(g.features) * g.outputs for g in vae.groups)
    weight, bias = np.zeros((len(path), outputs)), np.zeros((1, outputs))
    centre, deviation = vae.input_mean.cpu().double().numpy(), vae.input_spread.cpu().double().numpy()
    place = {j: i for i, j in enumerate(vae.numeric)}
    first_class = len(vae.numeric)
    for j in vae.categorical:
        place[j] = first_class
        first_class += int(vae.architecture.scales[j])
    for group in vae.groups:
        for k, j in enumerate(group.features):
            at, i = group.first + k * group.outputs, place[j]
            if group.likelihood.name in ("gaussian", "whole"):
                weight[:, at], bias[0, at] = path[:, i], slope[0, i]
                bias[0, at + 1] = _inverse_softplus(np.sqrt(rest[i]) - SPREAD_FLOOR)
                continue
            width = int(vae.architecture.scales[j]) if group.likelihood.name == "categorical" else 1
            span = slice(i, i + width)
            share = (centre[span] + slope[0, span] * deviation[span]).clip(1e-3, 1 - 1e-3)
            steep = (deviation[span] / (share * (1 - share))).clip(max=10)  # d logit = d share / (p (1 - p))
            weight[:, at : at + width] = path[:, span] * steep
            bias[0, at : at + width] = np.log(share) if width > 1 else np.log(share / (1 - share))
    return weight, bias


def _inverse_softplus(y: float) -> float:
    y = max(float(y), 0.01)
    return y + float(np.log(-np.expm1(-y)))


def _set(parameter: Tensor, value: np.ndarray) -> None:
    parameter.copy_(torch.as_tensor(value, dtype=parameter.dtype).to(parameter.device).expand_as(parameter))
