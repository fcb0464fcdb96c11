"""P-values from held-out scores: how often a record like those of training scores at least as anomalous."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from scipy.special import logsumexp

__all__ = ["Calibration"]

ENOUGH_FOR_A_TAIL = 100  # held-out records; with fewer the p-value is the empirical one
TAIL_SHARE = 0.1
# Shapes (below 0: with an end; 0: exponential; 1: no mean) and log scales, in median excesses, that the tail
# is averaged over, and the log excesses where it is tabulated.
SHAPES, LOG_SCALES, LOG_KNOTS = (
    np.linspace(-0.9375, 1, 32),
    np.linspace(-1.75, 2.25, 41),
    np.linspace(-4, 12, 129),
)
VANISHING = 1e-250
ENDLESS = 1e-3  # the weight of the exponential, at least
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
    root: tuple[float, float] | None = None  # median and spread: the tail is that of the scores' square root
    tail: np.ndarray = field(default_factory=lambda: np.empty((2, 0)))  # log excess, log share beyond it
    shape: float = 0.0  # of the tail of models from before, which have no table
    scale: float = 1.0
    ranges: dict[str, float] = field(default_factory=dict)

    @classmethod
    def fit(cls, scores: np.ndarray, typical: Mapping[str, float], *, squared: bool = False) -> Calibration:
        """Sort the held-out anomaly scores (n,) and fit a generalised Pareto tail to the highest tenth.

        The tail is predictive: averaged over shapes and scales by their posterior, because one best estimate
        from a few excesses promises too much (with 250 heavy-tailed scores, twice as many records as it said
        had p <= .001; simulated). The exponential keeps a weight of a thousandth, so that the tail has no end
        and different scores never tie: of scores that do have an end, and of few, the smallest p-values come
        out too large.

        `squared`: scores that grow by the square of what they measure (`Tilt`). The tail is then fitted to
        their distance from the median under a square root: on its own it is so heavy that few records cannot
        tell its shape (three times as many normal records as promised had p <= .001, in eleven tables).
        """
        ordered = np.sort(np.asarray(scores, dtype=np.float64))
        calibration = cls(ordered, dict(typical))
        if squared and len(ordered):
            low, usual, high = np.quantile(ordered, [0.25, 0.5, 0.75])
            calibration.root = float(usual), max(float(high - low), ROUNDING)
        n = len(ordered)
        if n >= ENOUGH_FOR_A_TAIL:
            k = int(TAIL_SHARE * n)
            excess = calibration._excess(ordered[n - k :], float(ordered[n - k - 1]))
            if excess[-1] > 0:
                calibration.threshold = float(ordered[n - k - 1])
                calibration.tail = _predictive_tail(excess)
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
            excess = self._excess(np.where(beyond, scores, self.threshold), self.threshold)
            p = np.where(beyond, start * self._survival(excess), p)
        return p

    def _excess(self, scores: np.ndarray, threshold: float) -> np.ndarray:
        """How far scores lie beyond a threshold, on the scale that the tail is fitted on."""
        if self.root is None:
            return np.asarray(scores - threshold)
        usual, spread = self.root
        ends = (np.sqrt(1 + np.maximum(s - usual, 0.0) / spread) for s in (scores, threshold))
        return np.asarray(np.subtract(*ends))

    def _survival(self, excess: np.ndarray) -> np.ndarray:
        if self.tail.shape[1]:
            return self._tabulated(excess)
        scaled = excess / self.scale
        nats = scaled if self.shape < 1e-6 else np.log1p(self.shape * scaled) / self.shape
        # Beyond exp(-100), which no data can support, it falls as a power: different scores go on to
        # differ, and none reaches 0, which would claim certainty.
        nats = np.where(nats > 100, 100 + 20 * np.log(np.maximum(nats, 100) / 100), nats)
        return np.exp(-np.minimum(nats, 700.0))

    def _tabulated(self, excess: np.ndarray) -> np.ndarray:
        """Between the knots linear in logs, before them linear, beyond them a power: it never ties."""
        knots, survival = self.tail
        at = np.log(np.maximum(excess, 1e-300))
        slope = (survival[-1] - survival[-2]) / (knots[-1] - knots[-2])
        log_share = np.interp(at, knots, survival) + slope * np.maximum(at - knots[-1], 0)
        log_share = np.where(at < knots[0], survival[0] * excess / math.exp(knots[0]), log_share)
        return np.exp(np.maximum(log_share, -700.0))

    def to_json(self) -> dict[str, Any]:
        return {
            "scores": [float(s) for s in self.scores],
            "typical": self.typical,
            "threshold": self.threshold if np.isfinite(self.threshold) else None,
            **({"root": list(self.root)} if self.root else {}),
            "tail": self.tail.tolist(),
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
            tuple(document["root"]) if "root" in document else None,
            np.asarray(document.get("tail", [[], []]), dtype=np.float64),
            document["shape"],
            document["scale"],
            dict(document.get("ranges", {})),  # models from before have none
        )


def _predictive_tail(excess: np.ndarray) -> np.ndarray:
    """Log excess and log share beyond it, (2, knots), for another excess like these positive ones (k,).

    The generalised Pareto distribution's survival (1 + shape y / scale)^(-1 / shape), averaged over its
    posterior on a grid: shapes uniform, log scales uniform.
    """
    unit = float(np.median(excess)) or float(excess.mean())
    shape, scale = SHAPES[:, None], np.exp(LOG_SCALES)[None, :]
    log_posterior = np.zeros((len(SHAPES), len(LOG_SCALES)))
    for some in np.array_split(excess / unit, math.ceil(len(excess) / 128)):
        nats = _nats(some[:, None, None], shape, scale)
        log_posterior -= ((1 + shape) * nats + np.log(scale)).sum(0)
    log_weight = log_posterior - logsumexp(log_posterior)
    endless = log_posterior[SHAPES == 0] - logsumexp(log_posterior[SHAPES == 0])
    log_weight[SHAPES == 0] = np.logaddexp(log_weight[SHAPES == 0], math.log(ENDLESS) + endless)
    nats, survival = _at_the_knots()
    share = survival @ np.exp(log_weight).ravel()
    log_share = np.log(np.maximum(share, VANISHING))
    far = share <= VANISHING  # of scores with an end, and many of them: summed in logs, which takes longer
    if far.any():
        log_share[far] = logsumexp(log_weight.ravel() - nats[far], axis=1)
    return np.stack([LOG_KNOTS + math.log(unit), log_share - math.log1p(ENDLESS)])


@cache
def _at_the_knots() -> tuple[np.ndarray, np.ndarray]:
    """Minus the log of the survival at each knot, and the survival, by shape and scale: (knots, grid)."""
    nats = _nats(np.exp(LOG_KNOTS)[:, None, None], SHAPES[:, None], np.exp(LOG_SCALES)).reshape(
        len(LOG_KNOTS), -1
    )
    return nats, np.exp(-nats)


def _nats(excess: np.ndarray, shape: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Minus the log of the generalised Pareto's survival."""
    scaled = excess / scale
    with np.errstate(divide="ignore"):
        bent = np.log1p(np.maximum(shape * scaled, -1)) / np.where(shape == 0, 1, shape)
    return np.where(shape == 0, scaled, bent)
