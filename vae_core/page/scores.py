"""The distribution of a report's scores, against that of training: one pass, flat memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

__all__ = ["P_EDGES", "Scale", "Scores", "read_scores", "scale_of"]

BINS = 48
P_EDGES = 10 ** np.linspace(-4, 0, 33)  # of the p-values' cumulative distribution


@dataclass(frozen=True)
class Scale:
    """A scale for scores that stays readable when one of them is a thousand times the rest.

    Linear around the middle, logarithmic far out: asinh((score - middle) / width).
    """

    middle: float
    width: float

    def __call__(self, score: np.ndarray | float) -> np.ndarray:
        return np.arcsinh((np.asarray(score, dtype=np.float64) - self.middle) / self.width)


@dataclass(frozen=True)
class Scores:
    """Counts of records by score and by p-value."""

    scale: Scale
    edges: np.ndarray  # (BINS + 1,) on the scale
    counts: np.ndarray  # (BINS,) records of this report
    training: np.ndarray | None  # (BINS,) held-out records of training, as shares
    threshold: float | None  # the lowest score that is flagged
    rows: int
    p_counts: np.ndarray  # (len(P_EDGES),) records with a p-value up to each edge
    with_p_value: int


def scale_of(quantiles: Sequence[float] | np.ndarray) -> Scale:
    """The scale on which scores with these quantiles are spread out."""
    middle, upper = np.quantile(np.asarray(quantiles, dtype=np.float64), [0.5, 0.9])
    return Scale(float(middle), max(float(upper - middle), 1e-6 + 1e-6 * abs(float(middle))))


def read_scores(path: Path, training: Mapping[str, Any] | None) -> Scores | None:
    """Read score, p-value and flag of all records, row group by row group; None where there is no record."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        rows = file.metadata.num_rows
        if rows == 0:
            return None
        quantiles = np.array(training["quantiles"]) if training else _quantiles(file, rows)
        scale = scale_of(quantiles)
        ends = [_at(file, place) for place in (rows - 1, 0)]
        low, high = scale(min(*ends, quantiles[0])), scale(max(*ends, quantiles[-1]))
        edges = np.linspace(float(low), float(high) + 1e-9, BINS + 1)
        counts, p_counts, with_p = np.zeros(BINS, np.int64), np.zeros(len(P_EDGES), np.int64), 0
        threshold: float | None = None
        for group in range(file.num_row_groups):
            table = file.read_row_group(
                group, columns=["anomaly_score", "p_value", "flagged"], use_threads=False
            )
            score = table["anomaly_score"].to_numpy()
            counts += np.histogram(scale(score).clip(edges[0], edges[-1]), edges)[0]
            p = np.sort(pc.drop_null(table["p_value"]).to_numpy())
            p_counts += np.searchsorted(p, P_EDGES * (1 + 1e-9), side="right")
            with_p += len(p)
            flagged = score[table["flagged"].to_numpy(zero_copy_only=False)]
            if len(flagged):
                threshold = (
                    float(flagged.min()) if threshold is None else min(threshold, float(flagged.min()))
                )
    shares = _shares(training, scale, edges) if training else None
    return Scores(scale, edges, counts, shares, threshold, rows, p_counts, with_p)


def _at(file: pq.ParquetFile, place: int) -> float:
    """The score at a place of the ranking, from 0."""
    for group in range(file.num_row_groups):
        here = file.metadata.row_group(group).num_rows
        if place < here:
            return float(
                file.read_row_group(group, columns=["anomaly_score"])["anomaly_score"][place].as_py()
            )
        place -= here
    raise IndexError(place)


def _quantiles(file: pq.ParquetFile, rows: int) -> np.ndarray:
    """The report is sorted: its quantiles stand at known places."""
    places = np.linspace(rows - 1, 0, 11).astype(int)
    return np.array([_at(file, int(place)) for place in places])


def _shares(training: Mapping[str, Any], scale: Scale, edges: np.ndarray) -> np.ndarray:
    """The share of training in each bin, from how many score at least so high: finely known at the top."""
    bulk = np.array(training["quantiles"], dtype=np.float64)
    top = np.array(training["curve"], dtype=np.float64)[:, :2]
    known = np.r_[np.c_[bulk, 1 - np.linspace(0, 1, len(bulk))][bulk < top[:, 0].max()], top]
    known = known[np.lexsort((-known[:, 1], known[:, 0]))]
    beyond = np.interp(edges, scale(known[:, 0]), np.minimum.accumulate(known[:, 1]), left=1.0, right=0.0)
    return beyond[:-1] - beyond[1:]
