"""What training looked like, column by column, and the counts of a unit's records in the same cells.

A profile cuts each column into cells: a number's line at training's percentiles (101 points and the gaps
between them, so that repeated values such as 0 have a cell of their own), a category into its classes. The
counts of a unit are one vector of whole numbers. The vectors of all units add up to that of the whole table,
in whatever units it was cut and by whatever engine they were counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from vae_core.cells import codes_of, fixed_nats
from vae_core.columns import FIXED, MODELLED, Column, cells, numbers
from vae_core.drift.grid import Grid

__all__ = ["SCORE", "ColumnProfile", "Counted", "Profile", "profile_of"]

SCORE = "(anomaly score)"  # the score's entry among the columns
OTHER = "other"


@dataclass(frozen=True)
class ColumnProfile:
    """One column of training: its cells and how many of training's records lie in each.

    Of numbers with k distinct percentiles there are 2k + 1 cells: below the first, at it, between it and the
    second, at that, and so on. Of classes there is one for each, the first for all others.
    """

    name: str
    kind: str
    training: np.ndarray  # (cells,) float64: records of training, or of a sample of it
    edges: np.ndarray  # (k,) sorted percentiles; empty for classes
    classes: tuple[str, ...] = ()
    rows: int = 0  # of training
    missing: int = 0
    outside: float | None = None  # share of training's values beyond the limits, or of no known class
    low: float = -np.inf  # the limits
    high: float = np.inf
    column: Column | None = None  # None: the score

    @property
    def width(self) -> int:
        """Numbers in the counts: the cells, values outside, missing cells."""
        return len(self.training) + 2

    def count(self, array: pa.ChunkedArray) -> np.ndarray:
        """int64 (width,) for these cells of the table."""
        assert self.column is not None
        if len(self.edges):
            return self.count_numbers(numbers(array))
        if self.kind == "category":
            codes, missing = codes_of(self.column, array)
            counts = np.bincount(codes[~missing], minlength=len(self.classes))
            return np.r_[counts, counts[0], missing.sum()]
        _, missing, differs = fixed_nats(self.column, array)
        other, lost = int(differs.sum()), int(missing.sum())
        if self.kind == "empty":
            return np.array([other, other, lost])
        return np.array([other, len(missing) - lost - other, other, lost])

    def count_numbers(self, values: np.ndarray) -> np.ndarray:
        """The same for float64 values, nan where missing."""
        missing = np.isnan(values)
        lost = np.count_nonzero(missing)
        here = values[~missing] if lost else values
        beyond = np.count_nonzero(here > self.high) + np.count_nonzero(here < self.low)
        return np.r_[self._grid.count(here), beyond, lost].astype(np.int64)

    @cached_property
    def _grid(self) -> Grid:
        return Grid(self.edges)


@dataclass(frozen=True)
class Counted:
    """One column of a table that was scored: records in each cell, outside, and with a missing cell."""

    cells: np.ndarray
    outside: int
    missing: int

    @property
    def observed(self) -> int:
        return int(self.cells.sum())


@dataclass(frozen=True)
class Profile:
    """All that a table is compared with; the score last, where there are held-out scores."""

    columns: tuple[ColumnProfile, ...]

    @property
    def width(self) -> int:
        return sum(column.width for column in self.columns)

    def count(self, table: pa.Table, scores: Any) -> np.ndarray:
        """int64 (width,): the counts of these records. Scores without a p-value do not count: the model has
        been trained on those records, and knows them better than it will know others."""
        parts = [
            column.count(table.column(column.name))
            if column.column is not None
            else column.count_numbers(scores.anomaly_score[~np.isnan(scores.p_value)])
            for column in self.columns
        ]
        return np.concatenate(parts).astype(np.int64)

    def split(self, counts: np.ndarray) -> list[Counted]:
        """Counts, of one unit or added up, taken apart by column."""
        if len(counts) != self.width:
            raise ValueError(f"{len(counts)} counts are not those of this profile, which has {self.width}")
        ends = np.cumsum([column.width for column in self.columns])[:-1]
        return [Counted(part[:-2], int(part[-2]), int(part[-1])) for part in np.split(counts, ends)]


def profile_of(model: Any) -> Profile | None:
    """A fitted model's profile; None for what keeps none (a model that is no FittedModel)."""
    encoding = getattr(model, "encoding", None)
    calibration = getattr(model, "calibration", None)
    if encoding is None or calibration is None:
        return None
    kept = (*MODELLED, *FIXED)
    described: Sequence[Column] = getattr(encoding, "described", ())
    columns = [_of_column(c) for c in described if isinstance(c, Column) and c.kind in kept]
    if len(calibration.scores):
        columns.append(_of_scores(calibration.scores))
    return Profile(tuple(columns)) if columns else None


def _of_column(column: Column) -> ColumnProfile:
    common: dict[str, Any] = {"name": column.name, "kind": column.kind, "rows": column.rows}
    common |= {"missing": column.missing, "column": column}
    nothing = np.empty(0)
    if column.kind == "category":
        known = np.array(column.counts, dtype=np.float64)
        other = max(0.0, column.observed - known.sum())
        outside = other / max(1, column.observed)
        classes = (OTHER, *column.categories)
        return ColumnProfile(
            training=np.r_[other, known], edges=nothing, classes=classes, outside=outside, **common
        )
    if column.kind == "empty":
        return ColumnProfile(training=np.zeros(1), edges=nothing, classes=("a value",), **common)
    if column.kind == "constant":
        value = f"{column.minimum:.6g}" if column.constant is None else column.constant
        training = np.array([0.0, column.observed])
        return ColumnProfile(training=training, edges=nothing, classes=(OTHER, value), outside=0.0, **common)
    if column.kind == "boolean":
        true = round(column.mean * column.observed)
        training = np.array([0.0, column.observed - true, 0.0, true, 0.0])
        common |= {"low": 0.0, "high": 1.0, "outside": 0.0}
        return ColumnProfile(training=training, edges=np.array([0.0, 1.0]), **common)
    edges = np.unique(np.array(column.quantiles))
    common |= {"low": column.low, "high": column.high, "outside": column.outside}
    training = np.array(column.histogram, dtype=np.float64)
    if len(training) != 2 * len(edges) + 1:  # of a model folder from before they were kept
        training = _by_percentiles(np.array(column.quantiles), edges) * column.observed
    return ColumnProfile(training=training, edges=edges, **common)


def _of_scores(scores: np.ndarray) -> ColumnProfile:
    """Held-out scores, sorted; beyond their largest is outside."""
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, 101)))
    training = cells(scores, edges).astype(np.float64)
    return ColumnProfile(
        SCORE, "score", training, edges, rows=len(scores), outside=0.0, high=float(scores[-1])
    )


def _by_percentiles(quantiles: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Shares of the cells, to a percent, from the percentiles alone: (2k + 1,), 1 in all."""
    last = np.searchsorted(quantiles, edges, "right") - 1
    first = np.searchsorted(quantiles, edges, "left")
    bounds = np.zeros(2 * len(edges) + 2)
    bounds[1:-1:2], bounds[2:-1:2], bounds[-1] = first, last, len(quantiles) - 1
    return np.diff(bounds) / (len(quantiles) - 1)
