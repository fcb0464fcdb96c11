"""The noise of a model's draws: E_Q by a few shared draws in mirrored pairs, with matched moments.

The mean of log P(x|z) over few draws errs by what their moments lack, and nearly all of that is two things:
their mean is not 0 (the slope of log P(x|z), another one for each record, so that ranks move) and their mean
square is not 1 (its curvature, much the same for all records: in eight independent draws about .25 nats for
each latent in use). So draws come as pairs z, -z, and within a block each latent's squares have the mean 1:
a block's mean is exact for odd functions and for sums of squares of single latents, and blocks differ by the
rest alone. With few draws that is no unbiased estimate, but its error is a fraction of one's, see
docs/model.md; as draws grow in number they tend to N(0, I).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from vae_core.chance import private_generator

__all__ = ["BLOCKS", "noise_blocks", "noise_of"]

BLOCKS = 4  # of a model's noise, each with matched moments: their spread gives elbo_se


def noise_of(draws: int, latents: int, *, seed: int) -> Tensor:
    """A model's noise: that many draws in 4 blocks, 2 or 1, each of whole pairs where there are any."""
    blocks = next(b for b in (BLOCKS, 2, 1) if draws % (2 * b) == 0 or b == 1)
    return noise_blocks(blocks, draws // blocks, latents, seed=seed)


def noise_blocks(blocks: int, draws: int, latents: int, *, seed: int) -> Tensor:
    """Draws for z = mean + noise * deviation, shared by all records: (blocks, draws, latents), float32.

    They belong to a model: a score depends on the record alone. Distances from 0 are those of a Latin
    hypercube (McKay, Beckman & Conover 1979), each stratum of |N(0, 1)| at its root mean square. Signs are
    columns of Sylvester's Hadamard matrix, in random order: of as many latents as there are pairs no two are
    correlated, of more as little as can be (Welch 1974). With an odd number of draws to a block its last one,
    and so a lone one, is a sample of N(0, I).

    >>> noise_blocks(4, 2, 3, seed=0).sum((0, 1)).tolist()
    [0.0, 0.0, 0.0]
    >>> noise_blocks(4, 2, 3, seed=0).square().mean(1).tolist()[0]
    [1.0, 1.0, 1.0]
    """
    return _noise_blocks(blocks, draws, latents, seed).clone()


@lru_cache(maxsize=32)
def _noise_blocks(blocks: int, draws: int, latents: int, seed: int) -> Tensor:
    """Each draw lies beside its mirror image."""
    generator = private_generator("noise", seed)
    pairs = draws // 2
    # A lone latent has two signs only: there it is the distances that differ between blocks.
    groups, matched = (1, blocks * pairs) if latents == 1 else (blocks, pairs)
    distances = np.broadcast_to(_distances(matched)[:, None], (groups, matched, latents))
    half = generator.permuted(distances, axis=1).reshape(-1, latents)
    half *= _signs(len(half), latents, generator)
    paired = np.stack([half, -half], 1).reshape(blocks, 2 * pairs, latents)
    odd = generator.standard_normal((blocks, draws % 2, latents))
    return torch.from_numpy(np.concatenate([paired, odd], 1)).float()


def _distances(strata: int) -> np.ndarray:
    """The root mean square of |N(0, 1)| in each of equally likely strata; the mean of their squares is 1."""
    if not strata:
        return np.empty(0)
    edges = torch.special.ndtri(0.5 + torch.arange(strata, dtype=torch.float64) / (2 * strata)).numpy()
    density = np.exp(-0.5 * edges**2) / math.sqrt(2 * math.pi)
    # The integral of z^2 over a stratum is its probability less the difference of z times the density.
    return np.sqrt(1 - 2 * strata * np.diff(edges * density, append=0.0))


def _signs(pairs: int, latents: int, generator: np.random.Generator) -> np.ndarray:
    """Columns of a Hadamard matrix, as often as it takes, each turned or not by chance: (pairs, latents)."""
    order = 1 << max(0, pairs - 1).bit_length()  # a power of 2; where pairs is none, its first rows
    columns = np.concatenate([generator.permutation(order) for _ in range(-(-latents // order))])[:latents]
    odd = np.bitwise_count(np.arange(pairs)[:, None] & columns) % 2 == 1
    return np.where(odd, -1.0, 1.0) * generator.choice([-1.0, 1.0], latents)
