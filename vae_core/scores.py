"""What scoring says of records: scores, and the bound taken apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

import numpy as np

__all__ = ["Contributions", "Scores"]


@dataclass
class Scores:
    """What scoring says of n records; float64 (n,) in nats unless noted."""

    anomaly_score: np.ndarray  # high = anomalous; -bound
    bound: np.ndarray  # lower bound on log P(x) of the whole model; low = anomalous
    elbo: np.ndarray  # of the VAE: reconstruction - kl
    reconstruction: np.ndarray
    kl: np.ndarray
    elbo_se: np.ndarray  # spread of the block means over sqrt(blocks): rough
    p_value: np.ndarray  # nan where there is none
    n_missing: np.ndarray  # int32
    n_out_of_range: np.ndarray  # int32
    n_unseen: np.ndarray  # int32
    # (n, blocks), float32: the anomaly score by each block of draws alone, less anomaly_score
    by_block: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))

    @classmethod
    def joined(cls, pieces: Sequence[Any]) -> Self:
        """Scores of several batches as one."""
        return cls(**{f.name: np.concatenate([getattr(p, f.name) for p in pieces]) for f in fields(cls)})


@dataclass
class Contributions:
    """The bound taken apart: bound = nats.sum(1) + kl_nats + tilt_nats."""

    scores: Scores
    nats: np.ndarray  # (n, columns): each column's share of the bound
    kl_nats: np.ndarray  # (n,): minus the members' weighted KLs
    tilt_nats: np.ndarray  # (n,): what the members' objections lower it by, at most 0
