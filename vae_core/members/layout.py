"""Where the kinds of features stand among a kernel density's tables, and the sums of lattices' kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vae_core.encoding import Feature

__all__ = ["Layout", "log_theta"]

TINY = 1e-300


@dataclass
class Layout:
    """Which features are numbers and which are classes, and where the classes' indicators stand."""

    numeric: list[int]
    steps: np.ndarray  # (numeric,): the step of whole numbers, 0 for real ones
    discrete: list[int]
    classes: list[int]

    @classmethod
    def of(cls, features: Sequence[Feature]) -> Layout:
        numeric = [j for j, f in enumerate(features) if f.likelihood in ("gaussian", "whole")]
        discrete = [j for j, f in enumerate(features) if f.likelihood in ("bernoulli", "categorical")]
        steps = [features[j].scale if features[j].likelihood == "whole" else 0.0 for j in numeric]
        classes = [2 if features[j].likelihood == "bernoulli" else int(features[j].scale) for j in discrete]
        return cls(numeric, np.array(steps), discrete, classes)

    def indicators(self, values: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Discrete features one-hot, side by side, all zero where missing: (n, m) -> (n, sum of classes)."""
        blocks = [
            (values[:, [j]] == np.arange(size)) & mask[:, [j]]
            for j, size in zip(self.discrete, self.classes, strict=True)
        ]
        return np.concatenate([np.zeros((len(values), 0), bool), *blocks], axis=1).astype(np.float64)


def log_theta(width: np.ndarray, offset: np.ndarray, layout: Layout, scales: np.ndarray) -> np.ndarray:
    """log of sum_d N(offset + d step) step over the lattice of whole numbers: (N, numeric), 0 for real ones.

    Poisson's summation: 1 + 2 sum_k exp(-2 (pi k width / step)^2) cos(2 pi k offset / step), the sum itself
    where the kernel is narrow.
    """
    result = np.zeros(width.shape)
    for k, step in enumerate(layout.steps):
        if step <= 0:
            continue
        ratio = width[:, k] * scales[layout.numeric[k]] / step
        order, shift = np.arange(1, 6)[:, None], offset[:, k] / step
        waves = np.cos(2 * math.pi * order * shift)
        wide = 1 + 2 * (np.exp(-2 * np.square(math.pi * order * ratio)) * waves).sum(0)
        places = np.arange(-6, 7)[:, None] + shift
        direct = np.exp(-0.5 * np.square(places / ratio)).sum(0) / (ratio * math.sqrt(2 * math.pi))
        result[:, k] = np.log(np.where(ratio > 0.4, wide, np.maximum(direct, TINY)))
    return result
