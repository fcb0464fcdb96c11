"""P-values from held-out scores: how often a record like those of training scores at least as anomalous."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["Calibration"]

ENOUGH_FOR_A_TAIL = 100  # held-out records; with fewer the p-value is the empirical one
TAIL_SHARE = 0.1
# Scores that differ by less are equal: another processor, or another order of sums, gives other last bits,
# and a held-out record met again must count itself.
ROUNDING = 1e-5


@dataclass
class Calibration:
    """Anomaly scores of held-out training records (used neither for fitting nor for early stopping), sorted.

    `typical`: for each contribution (columns, then "kl") its median in nats on those records. `ranges`: how
    much wider than the decoder says the range of a number must be to hold 80 % of them (column -> factor).
    """

    scores: np.ndarray = field(default_factory=lambda: np.empty(0))
    typical: dict[str, float] = field(default_factory=dict)
    threshold: float = float("nan")  # the score where the fitted tail takes over; nan: no tail
    shape: float = 0.0
    scale: float = 1.0
    ranges: dict[str, float] = field(default_factory=dict)

    @classmethod
    def fit(cls, scores: np.ndarray, typical: Mapping[str, float]) -> Calibration:
        """Sort the held-out anomaly scores (n,) and fit a generalised Pareto tail to the highest tenth.

        Probability-weighted moments (Hosking & Wallis 1987); the shape is kept at 0 or above, so that the
        tail has no end and different scores never tie. Where scores do have an end, the smallest p-values
        come out too large, and those near .05 up to a third too small (uniform scores, simulated).
        """
        ordered = np.sort(np.asarray(scores, dtype=np.float64))
        calibration = cls(ordered, dict(typical))
        n = len(ordered)
        if n >= ENOUGH_FOR_A_TAIL:
            k = int(TAIL_SHARE * n)
            excess = ordered[n - k :] - ordered[n - k - 1]
            if excess[-1] > 0:
                calibration.threshold = float(ordered[n - k - 1])
                calibration.shape, calibration.scale = _generalised_pareto(excess)
        return calibration

    def p_values(self, scores: np.ndarray) -> np.ndarray:
        """Share of held-out records at least as anomalous, (1 + count) / (1 + n): (n,) -> (n,).

        Low = anomalous. Above the tail's threshold the fitted tail replaces the count, continuous with it.
        nan without held-out records.
        """
        n = len(self.scores)
        if n == 0:
            return np.full(len(scores), np.nan)
        least = scores - ROUNDING * np.maximum(1, np.abs(scores))
        at_least = n - np.searchsorted(self.scores, least, side="left")
        p = (1 + at_least) / (1 + n)
        if np.isfinite(self.threshold):
            beyond = scores > self.threshold
            start = (1 + np.count_nonzero(self.scores > self.threshold)) / (1 + n)
            p = np.where(beyond, start * self._survival(np.where(beyond, scores - self.threshold, 0.0)), p)
        return p

    def _survival(self, excess: np.ndarray) -> np.ndarray:
        scaled = excess / self.scale
        nats = scaled if self.shape < 1e-6 else np.log1p(self.shape * scaled) / self.shape
        # Beyond exp(-100), which no data can support, it falls as a power: different scores go on to
        # differ, and none reaches 0, which would claim certainty.
        nats = np.where(nats > 100, 100 + 20 * np.log(np.maximum(nats, 100) / 100), nats)
        return np.exp(-np.minimum(nats, 700.0))

    def to_json(self) -> dict[str, Any]:
        return {
            "scores": [float(s) for s in self.scores],
            "typical": self.typical,
            "threshold": self.threshold if np.isfinite(self.threshold) else None,
            "shape": self.shape,
            "scale": self.scale,
            "ranges": self.ranges,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Calibration:
        threshold = document["threshold"]
        return cls(
            np.asarray(document["scores"], dtype=np.float64),
            dict(document["typical"]),
            float("nan") if threshold is None else threshold,
            document["shape"],
            document["scale"],
            dict(document.get("ranges", {})),  # models from before have none
        )


def _generalised_pareto(excess: np.ndarray) -> tuple[float, float]:
    """Shape and scale of sorted positive excesses (k,) by probability-weighted moments, shape in [0, 0.9]."""
    k = len(excess)
    mean = float(excess.mean())
    weighted = float((excess * (1 - (np.arange(1, k + 1) - 0.35) / k)).mean())
    shape = 2 - mean / max(mean - 2 * weighted, 1e-12 * max(mean, 1e-300))
    shape = float(np.clip(shape, 0.0, 0.9))
    return shape, max(mean * (1 - shape), 1e-300)
