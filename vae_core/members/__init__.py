"""Companions of the VAE: other normalised densities of the same record on the same base measure.

Each takes encoded values and mask (n, m) and says log P(x) in nats, low = anomalous, with its exact parts:
terms of the features (n, m) and a KL (n,) so that log P(x) = terms.sum(1) - kl. A new one is a class here
and a line in COMPANIONS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, Self

import numpy as np
import torch

from vae_core.encoding import Feature
from vae_core.members.columns import IndependentColumns
from vae_core.members.crowd import Crowd
from vae_core.members.kernel import KernelDensity

__all__ = ["COMPANIONS", "Companion", "Crowd", "IndependentColumns", "KernelDensity", "scores_of"]


class Companion(Protocol):
    """What scoring and storage ask of a companion."""

    def score(self, values: np.ndarray, mask: np.ndarray, *, quick: bool = False) -> np.ndarray:
        """log P(x) of each record in nats: (n, m) -> (n,); `quick` may round to 1e-6 of it."""

    def parts(
        self, values: np.ndarray, mask: np.ndarray, *, quick: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same taken apart: terms (n, m) and KL (n,), score = terms.sum(1) - kl, of either kind."""

    def on(self, device: torch.device) -> Self:
        """The same on a device, where it gains by that."""

    def arrays(self) -> dict[str, np.ndarray]:
        """What storage writes."""

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], features: Sequence[Feature]) -> Self:
        """The way back."""


COMPANIONS: dict[str, type[Companion]] = {
    "columns": IndependentColumns,
    "kernel": KernelDensity,
    "crowd": Crowd,
}


def scores_of(
    companions: Mapping[str, Companion], values: np.ndarray, mask: np.ndarray, *, own: bool = False
) -> dict[str, np.ndarray]:
    """Quick scores by name; a kernel density and its crowd share their kernels, the dearest part.

    With `own` training records hear their own kernels too (where there is a crowd, as beside every balanced
    kernel density).
    """
    found, rest = {}, dict(companions)
    kernel, crowd = rest.get("kernel"), rest.get("crowd")
    if isinstance(kernel, KernelDensity) and isinstance(crowd, Crowd) and kernel.begins_with(crowd):
        together = kernel.scores([kernel, crowd], values, mask, quick=True, own=own)
        found = dict(zip(("kernel", "crowd"), together, strict=True))
    return found | {
        name: companion.score(values, mask, quick=True)
        for name, companion in rest.items()
        if name not in found
    }
