"""Where a VAE without a linear start begins: with hidden units that tell records apart.

Drawn at random, many a rectified unit is on, or off, for every record: it says nothing of them, and where it
is off for all it gets no gradient and stays so. The weights that are drawn are shifted and scaled by training
records instead. Network and objective are what they are without.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor

from vae_core.model import VAE
from vae_core.networks import MLP, BatchedLinear

__all__ = ["start_balanced"]

MOST_ROWS = 4096
FEWEST_ROWS = 100  # of fewer records a unit's spread says little of others, and these would go far beyond it
LEAST_SPREAD = 0.05  # of a unit over records: one that spreads less tells nothing, and keeps its weights
SURE = 0.01  # of a share from 0 and 1: what was never seen is not ruled out


@torch.no_grad()
def start_balanced(vae: VAE, values: Tensor, mask: Tensor, context: Tensor) -> None:
    """Start an MLP's encoder with units of mean 0 and spread 1 before their activation, over these records.

    Values and mask (n, m), context (n, c). Bernoulli outputs start at their column's share. Of fewer than
    100 records all stays as drawn. For the units see Mishkin & Matas (2016), "All you need is a good init".
    """
    if not isinstance(vae.encoder, MLP) or len(values) < FEWEST_ROWS:
        return
    chosen = slice(None, None, 1 + (len(values) - 1) // MOST_ROWS)  # evenly over the whole span
    values, mask = values[chosen], mask[chosen]
    near = vae.near(vae.inputs(values, mask), context[chosen])
    h = near.expand(vae.architecture.members, -1, -1)
    for layer in cast(Iterable[BatchedLinear], vae.encoder.layers):
        spread, mean = torch.std_mean(h @ layer.weight, 1, correction=0, keepdim=True)
        spread = torch.where(spread < LEAST_SPREAD, 1.0, spread)
        layer.weight.div_(spread)
        layer.bias.copy_(-mean / spread)
        h = vae.encoder.activation(layer(h))
    shares = torch.where(mask, values, 0.0).sum(0) / mask.sum(0).clamp(min=1)
    for group in vae.groups:
        if group.likelihood.name == "bernoulli":
            logits = torch.logit(shares[group.features].clamp(SURE, 1 - SURE))
            vae.decoder_head.bias[..., group.first : group.last] = logits.to(vae.decoder_head.bias.dtype)
