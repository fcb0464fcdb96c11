"""What the crowd of training records says, a record's nearest ones not heard."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from vae_core.members.kernel import CROWD, KernelDensity
from vae_core.members.powers import log_sum

__all__ = ["Crowd"]

NEAREST = 0.1  # of the exemplars that are left out
SAMPLED = 8  # every 8th exemplar says about where the largest term lies that is heard;
CLOSE = 256.0  # bits from there single precision is exact to 8e-6 bits


class Crowd(KernelDensity):
    """A lower bound on the density of a random sample of a kernel density's exemplars.

    bound(x) = log sum_i w_i prod_j k_ij(x_j) over all exemplars but the tenth with the largest terms at x. A
    sum that leaves terms out is a lower bound, the ELBO of the exemplar's number at a posterior that is 0
    there. Where anomalies cluster among the training records, they vouch for each other in a kernel density;
    here a few of them cannot. In nats, in the VAE's base measure. Low = anomalous. It holds training records.
    """

    @classmethod
    def of(cls, kernel: KernelDensity) -> Crowd:
        """Its first exemplars, a random sample of all, with the widths they have."""
        some = slice(CROWD)
        exemplars, observed, widths = kernel.exemplars[some], kernel.observed[some], kernel.widths[some]
        tables = exemplars, observed, widths, kernel.scales, kernel.shares
        return cls(*tables, kernel.features, leaves_own=False)  # it is among the nearest

    @classmethod
    def fit(cls, *given: Any, **options: Any) -> Crowd:
        """The crowd of the kernel density that is fitted to the same."""
        return cls.of(KernelDensity.fit(*given, **options))

    @property
    def _kept(self) -> int:
        count = len(self.exemplars)
        return count - min(max(1, round(NEAREST * count)), count - 1)

    def _bits(self, joint: Tensor, quick: bool) -> Tensor:
        joint, kept = joint[:, : len(self.exemplars)], self._kept
        about = self._about(joint) if quick else joint.new_zeros(len(joint))
        differences = joint - about.unsqueeze(1)
        rest = _sorted(differences.float() if quick else differences)[:, :kept]
        largest = rest[:, -1].clone()
        total = log_sum(rest.sub_(largest.unsqueeze(1)), about + largest)
        if not quick or float(largest.abs().amax()) <= CLOSE:
            return total
        return torch.where(largest.abs() > CLOSE, self._bits(joint, quick=False), total)

    def _about(self, joint: Tensor) -> Tensor:
        """Roughly each row's largest term that is heard, from a sample of them: (n, N) -> (n,)."""
        sample = _sorted(joint[:, ::SAMPLED].float())
        return sample[:, round((1 - NEAREST) * (sample.shape[1] - 1))].double()

    def _responsibilities(self, joint: Tensor, total: Tensor) -> Tensor:
        kept = self._kept
        order = np.argpartition(joint[:, : len(self.exemplars)].cpu().numpy(), kept - 1, axis=1)
        nearest = torch.from_numpy(np.ascontiguousarray(order[:, kept:])).to(joint.device)
        return super()._responsibilities(joint, total).scatter_(1, nearest, 0.0)


def _sorted(rows: Tensor) -> Tensor:
    """Each row in order, used up: quicker than a partition, and of one order everywhere."""
    if rows.is_cuda:
        return rows.sort(1).values
    rows.numpy().sort(axis=1)  # a fifth of the time of torch's
    return rows
