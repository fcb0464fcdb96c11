"""Sums of kernels from their logarithms in bits: powers of 2 are cheaper than those of e."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from vae_core.members.own import ABSENT

__all__ = ["LOG_2", "log_sum", "padded", "together"]

LOG_2 = math.log(2)
FAINTEST = -100.0  # bits below the largest kernel: what is less costs time and changes nothing


def log_sum(differences: Tensor, largest: Tensor) -> Tensor:
    """log2 of the rows' sums, from their terms' differences in bits (n, N), used up, to the largest (n,)."""
    return differences.clamp_(min=FAINTEST).exp2_().sum(1).double().log2_().add_(largest)


def padded(table: np.ndarray) -> Tensor:
    """Log kernels in nats (q, N) in bits, N up to a multiple of 16: narrow products differ in bits between a
    batch's rows."""
    count = -table.shape[1] % 16
    last = np.zeros((len(table), count))
    last[-1] = ABSENT
    return torch.from_numpy(np.ascontiguousarray(np.concatenate([table / LOG_2, last], axis=1)))


def together(rows: np.ndarray) -> slice | np.ndarray:
    """Ascending row numbers, as a slice where none is left out: what it reads is a view."""
    return slice(int(rows[0]), int(rows[-1]) + 1) if rows[-1] - rows[0] < len(rows) else rows
