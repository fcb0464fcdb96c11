"""The drift table: for each column how far it has moved since training, and whether that matters.

Every distance is a share of records between 0 and 1: the largest gap between two distribution functions
(Kolmogorov and Smirnov) for numbers, total variation for classes, the difference of two rates for missing
cells. So one scale serves all, and the verdict goes by it; with a million records every p-value is small.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import special

from vae_core.drift.counts import SCORE, ColumnProfile, Counted, Profile

__all__ = ["DRIFT", "SCHEMA", "SCORE", "read", "summary", "table"]

DRIFT = "drift.parquet"
MODERATE, STRONG = 0.1, 0.25  # of the effect
SIGNIFICANT = 0.01  # of all columns together (Bonferroni): in a few records chance makes large distances
FEWEST_EXPECTED = 5  # records of a class in a chi-squared test; rarer classes are taken together
BINS = 20  # of a picture: twentieths of training

BIN = pa.struct(
    [
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("label", pa.string()),
        ("training", pa.float64()),
        ("current", pa.float64()),
    ]
)


def _field(name: str, kind: pa.DataType, description: str, *, null: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=null, metadata={"description": description})


SCHEMA = pa.schema(
    [
        _field("column", pa.string(), f"the column, or {SCORE}, which comes first; then by effect"),
        _field("kind", pa.string(), "real, whole, boolean, category, constant, empty, or score"),
        _field("verdict", pa.string(), "stable, moderate (effect from 0.1) or strong (from 0.25)"),
        _field("effect", pa.float64(), "0 to 1, the larger distance: a share of records that moved"),
        _field("statistic", pa.string(), "which distance that is: ks, total_variation or missing_rate"),
        _field("p_value", pa.float64(), "of that distance, records being independent", null=True),
        _field("distance", pa.float64(), "ks of numbers, total variation of classes; without missing cells"),
        _field("psi", pa.float64(), "population stability index over tenths of training, or classes"),
        _field("n_training", pa.int64(), "training's values in the comparison (of many a sample)"),
        _field("n_current", pa.int64(), "values of this table that are there"),
        _field("median_training", pa.float64(), "of numbers and the score", null=True),
        # No further than training's smallest and largest: of what lies beyond there is a count alone.
        _field("median_current", pa.float64(), "the same, read from the bins", null=True),
        _field("top_training", pa.string(), "the most frequent class", null=True),
        _field("top_current", pa.string(), "the same of this table", null=True),
        _field("missing_training", pa.float64(), "share of cells", null=True),
        _field("missing_current", pa.float64(), "share of cells", null=True),
        _field("outside_training", pa.float64(), "share of values out of range, or of no class", null=True),
        _field("outside_current", pa.float64(), "share of values out of range, or of no class", null=True),
        _field("change", pa.string(), "one line for a person: what has moved"),
        _field("bins", pa.list_(BIN), "for a picture: low and high or label, and two shares"),
    ]
)  # fmt: skip


def table(profile: Profile, counts: np.ndarray) -> pa.Table:
    """The drift table (SCHEMA) from the counts of all units added up; the same counts give the same table."""
    rows = [
        _row(column, counted) for column, counted in zip(profile.columns, profile.split(counts), strict=True)
    ]
    for row in rows:
        certain = row["p_value"] is not None and row["p_value"] * len(rows) <= SIGNIFICANT
        row["verdict"] = _verdict(row["effect"]) if certain else "stable"
    rows.sort(key=lambda row: (row["kind"] != "score", -row["effect"]))  # stable: equal ones as in the table
    return pa.Table.from_pylist(rows, SCHEMA)


def summary(drift: pa.Table) -> dict[str, Any]:
    """The worst verdict, and the columns that have moved, furthest first: plain values.

    `columns` counts those of the table; the score moves for itself, named among them as in the drift table.
    """
    told: dict[str, list[str]] = {"moderate": [], "strong": []}
    for name, verdict in zip(drift["column"].to_pylist(), drift["verdict"].to_pylist(), strict=True):
        if verdict in told:
            told[verdict].append(name)
    worst = "strong" if told["strong"] else "moderate" if told["moderate"] else "stable"
    return {"verdict": worst, "columns": sum(kind != "score" for kind in drift["kind"].to_pylist()), **told}


def read(folder: str | Path) -> pa.Table | None:
    """The drift table of a report's folder; None where the model keeps no profile, or in an older report."""
    path = Path(folder) / DRIFT
    return pq.read_table(path, page_checksum_verification=True) if path.is_file() else None


def _verdict(effect: float) -> str:
    return "strong" if effect >= STRONG else "moderate" if effect >= MODERATE else "stable"


def _row(column: ColumnProfile, counted: Counted) -> dict[str, Any]:
    n, m = round(column.training.sum()), counted.observed
    rows = counted.observed + counted.missing
    before = column.missing / column.rows if column.rows else None
    now = counted.missing / rows if rows else None
    numeric = len(column.edges) > 0
    was, is_ = _shares(column.training), _shares(counted.cells)
    distance = p = 0.0
    if n and m:
        distance = _ks(was, is_) if numeric else 0.5 * float(np.abs(was - is_).sum())
        p = ks_p_value(distance, n, m) if numeric else chi_squared_p_value(column.training, counted.cells)
    row: dict[str, Any] = {
        "column": column.name,
        "kind": column.kind,
        "effect": distance,
        "statistic": "ks" if numeric else "total_variation",
        "p_value": p if n and m else None,
        "distance": distance,
        "psi": _psi(column, counted) if n and m else 0.0,
        "n_training": n,
        "n_current": m,
        "missing_training": before,
        "missing_current": now,
        "outside_training": column.outside,
        "outside_current": counted.outside / m if m else None,
    }
    if before is not None and now is not None and abs(now - before) > distance:
        p = rates_p_value(column.missing, column.rows, counted.missing, rows)
        row |= {"effect": abs(now - before), "statistic": "missing_rate", "p_value": p}
    measured = numeric and column.kind != "boolean"
    for when, cells in (("training", column.training), ("current", counted.cells)):
        row[f"median_{when}"] = _median(column, cells) if measured else None
        row[f"top_{when}"] = None if measured else _top(column, cells)
    row["bins"] = _bins(column, counted)
    row["change"] = _change(row, _beyond(counted.cells) if measured else "")
    return row


def _shares(counts: np.ndarray) -> np.ndarray:
    total = counts.sum()
    return counts / total if total else np.zeros(len(counts))


def _ks(was: np.ndarray, is_: np.ndarray) -> float:
    """Largest gap between the distribution functions, at the edges and just before them."""
    return float(np.abs(np.cumsum(was - is_)[:-1]).max(initial=0.0))


def ks_p_value(distance: float, n: int, m: int) -> float:
    """Two-sample Kolmogorov-Smirnov, asymptotic; too large, never too small, for repeated values."""
    return float(special.kolmogorov(math.sqrt(n * m / (n + m)) * distance))


def chi_squared_p_value(was: np.ndarray, is_: np.ndarray) -> float:
    """Pearson's test that two lists of counts come from the same classes, rare classes taken together.

    Where even those together are too rare for it: Fisher's exact test of each class against the others, the
    smallest of the p-values times the number of classes (Bonferroni).
    """
    both = np.stack([was, is_]).astype(np.float64)
    both = both[:, both.sum(0) > 0]
    total = both.sum()
    expected = both.sum(1, keepdims=True) * both.sum(0) / total
    rare = (expected < FEWEST_EXPECTED).any(0)
    if rare.any():
        pooled = np.c_[both[:, ~rare], both[:, rare].sum(1)]
        expected = pooled.sum(1, keepdims=True) * pooled.sum(0) / total
        if (expected < FEWEST_EXPECTED).any():
            each = [_fisher(one[0], both[0].sum(), one[1], both[1].sum()) for one in both.T]
            return min(1.0, len(each) * min(each))
        both = pooled
    freedom = both.shape[1] - 1
    return float(special.chdtrc(freedom, ((both - expected) ** 2 / expected).sum())) if freedom else 1.0


def rates_p_value(few: int, n: int, others: int, m: int) -> float:
    """Two-sided test that two rates, few / n and others / m, are one.

    By the normal approximation; where fewer than 5 are expected somewhere, Fisher's exact test.
    """
    pooled = (few + others) / (n + m)
    if min(n, m) * min(pooled, 1 - pooled) < FEWEST_EXPECTED:
        return _fisher(few, n, others, m)
    error = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    return math.erfc(abs(few / n - others / m) / error / math.sqrt(2)) if error else 1.0


def _fisher(few: float, n: float, others: float, m: float) -> float:
    """Fisher's exact test, two-sided: few of n and others of m."""
    from scipy import stats  # half a second to import, for the rare table that needs it

    table = np.array([[few, n - few], [others, m - others]])
    return float(stats.fisher_exact(np.rint(table).astype(np.int64)).pvalue)


def _grouped(column: ColumnProfile, groups: int) -> np.ndarray:
    """For each cell of numbers its group: so many of about equal shares of training, the two ends apart."""
    before = np.cumsum(column.training)
    middle = (before - 0.5 * column.training) / max(1.0, before[-1])
    inner = 1 + np.minimum((middle * groups).astype(int), groups - 1)
    inner[0], inner[-1] = 0, groups + 1
    return inner


def _psi(column: ColumnProfile, counted: Counted) -> float:
    """sum (p - q) ln(p / q); an empty share counts as half a record. Of numbers by tenths."""
    was, is_ = column.training, counted.cells
    if len(column.edges):
        group = np.clip(_grouped(column, 10), 1, 10)
        was, is_ = (np.bincount(group, cells, minlength=11)[1:] for cells in (was, is_))
    used = was + is_ > 0
    p, q = (np.maximum(cells[used], 0.5) / cells.sum() for cells in (was, is_))
    return float(((p - q) * np.log(p / q)).sum())


def _median(column: ColumnProfile, cells: np.ndarray) -> float | None:
    """The median as the cells tell it: a percentile itself, or a point between two.

    Of numbers that mostly lie beyond training's own, the nearest of these: no cell tells how far beyond.
    """
    total = float(cells.sum())
    if not total:
        return None
    upto = np.cumsum(cells)
    cell = int(np.searchsorted(upto, total / 2))
    edges, place = column.edges, cell // 2
    if cell % 2 or cell in (0, len(cells) - 1):
        value = float(edges[min(place, len(edges) - 1)])
    else:
        share = float((total / 2 - (upto[cell] - cells[cell])) / cells[cell])
        value = float((1 - share) * edges[place - 1] + share * edges[place])
    return round(value) if column.kind == "whole" else value


def _beyond(cells: np.ndarray) -> str:
    """'below ' or 'above ' where most numbers lie beyond all of training's on one side; else nothing."""
    half = cells.sum() / 2
    return "below " if cells[0] > half else "above " if cells[-1] > half else ""


def _top(column: ColumnProfile, cells: np.ndarray) -> str | None:
    return _label(column, int(cells.argmax())) if cells.sum() else None


def _label(column: ColumnProfile, cell: int) -> str:
    if column.classes:
        return column.classes[cell]
    return ("neither", "false", "neither", "true", "neither")[cell]  # a boolean's cells


def _bins(column: ColumnProfile, counted: Counted) -> list[dict[str, Any]]:
    """Shares of training and of this table: classes, or up to 22 stretches of the line."""
    was, is_ = _shares(column.training), _shares(counted.cells)
    if column.classes or column.kind == "boolean":
        return [
            {"low": None, "high": None, "label": _label(column, i), "training": float(w), "current": float(c)}
            for i, (w, c) in enumerate(zip(was, is_, strict=True))
            if column.classes or w or c
        ]
    group = _grouped(column, BINS)
    edges = column.edges
    lows = [None, *(v for edge in edges for v in (float(edge), float(edge)))]
    highs = [*(v for edge in edges for v in (float(edge), float(edge))), None]
    bins = []
    for number in np.unique(group):
        cells = np.flatnonzero(group == number)
        here = {"low": lows[cells[0]], "high": highs[cells[-1]], "label": None}
        bins.append({**here, "training": float(was[cells].sum()), "current": float(is_[cells].sum())})
    return bins


def _change(row: dict[str, Any], beyond: str) -> str:
    """What moved, in one line: medians, the most frequent class, or a rate, before and now; see `_beyond`."""
    if row["p_value"] is None:
        return "no values to compare"
    if row["statistic"] == "missing_rate":
        return f"missing {_percent(row['missing_training'])}, now {_percent(row['missing_current'])}"
    if row["median_training"] is not None:
        text = f"median {row['median_training']:.4g}, now {beyond}{row['median_current']:.4g}"
    else:
        most = max(row["bins"], key=lambda one: abs(one["current"] - one["training"]))
        text = f"{most['label']} {_percent(most['training'])}, now {_percent(most['current'])}"
    outside, before = row["outside_current"] or 0.0, row["outside_training"] or 0.0
    outside_of = "beyond all held-out scores" if row["kind"] == "score" else "out of range"
    if row["median_training"] is not None and outside > before + 0.005:
        text += f"; {_percent(outside)} {outside_of}"
    return text


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
