"""What a table's columns are: statistics of one streaming pass, and the kind that follows from them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vae_core.errors import InputError

__all__ = ["KINDS", "Column", "describe", "type_name"]

KINDS = {
    "real": "a density in standardised units",
    "whole": "whole numbers: a mass",
    "boolean": "a mass on {false, true}",
    "category": "a mass on the categories of training and 'other'",
    "timestamp": "context: its hour, weekday and season condition the model; not scored itself",
    "constant": "one value in training: another one costs a fixed number of nats; not in the network",
    "empty": "no value in training: a value costs a fixed number of nats; not in the network",
    "identifier": "left out: nearly every value occurs once",
    "text": "left out: free text",
    "label": "left out: named as not to be used",
}
MODELLED = ("real", "whole", "boolean", "category")
FIXED = ("constant", "empty")
SAMPLE_CELLS = 20_000_000
SAMPLE_ROWS = 50_000
MAX_CATEGORIES = 63
MAX_COUNTED = 20_000
RARE_MISSING = 0.01  # below it a missing cell is a surprise of its own; above it, it does not count in the ranking


@dataclass
class Column:
    """One column of the user's table: its type, its kind, and what training rows said about it (user's units)."""

    name: str
    type: str  # double | int64 | bool | string | timestamp
    kind: str = ""
    rows: int = 0
    missing: int = 0
    minimum: float = math.nan
    maximum: float = math.nan
    mean: float = 0.0
    spread: float = 1.0
    low: float = 0.0  # scaled value 0: the limits of the affine map to [0, 1]
    high: float = 1.0  # scaled value 1
    categories: list[str] = field(default_factory=list)
    constant: str | None = None  # the one value of a constant text column (of a number: `minimum`)
    quantiles: list[float] = field(default_factory=list)  # 0, 1, ..., 100 %: the profile
    counts: list[int] = field(default_factory=list)  # of `categories`; the rest of the rows are 'other' or missing

    @property
    def observed(self) -> int:
        return self.rows - self.missing

    @property
    def missing_rate(self) -> float:
        """Smoothed share of missing cells in training (Jeffreys' prior): never 0 or 1."""
        return (self.missing + 0.5) / (self.rows + 1)

    @property
    def missing_is_rare(self) -> bool:
        return self.missing < RARE_MISSING * self.rows

    def to_json(self) -> dict[str, Any]:
        document = asdict(self)
        return {k: (None if isinstance(v, float) and not math.isfinite(v) else v) for k, v in document.items()}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Column:
        values = {k: (math.nan if v is None and k in ("minimum", "maximum") else v) for k, v in document.items()}
        return cls(**values)


def type_name(type_: pa.DataType) -> str:
    """The name of one of the five types that columns have after ingest; raises TypeError for any other."""
    if pa.types.is_floating(type_):
        return "double"
    if pa.types.is_integer(type_):
        return "int64"
    if pa.types.is_boolean(type_):
        return "bool"
    if pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_dictionary(type_):
        return "string"
    if pa.types.is_timestamp(type_) or pa.types.is_null(type_):
        return "timestamp" if pa.types.is_timestamp(type_) else "string"
    raise TypeError(f"{type_} is not one of double, int64, bool, string, timestamp")


def numbers(array: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """A column as float64, NaN where missing: booleans as 0 and 1, timestamps as microseconds since 1970 (UTC)."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if pa.types.is_timestamp(array.type):
        array = pc.cast(pc.cast(array, pa.timestamp("us", array.type.tz)), pa.int64())
    if pa.types.is_boolean(array.type):
        array = pc.cast(array, pa.int8())
    missing = np.asarray(pc.is_null(array).to_numpy(zero_copy_only=False))
    filled = pc.fill_null(array, 0) if array.null_count else array
    values = filled.to_numpy(zero_copy_only=False).astype(np.float64)
    if missing.any():
        values[missing] = np.nan
    return values


def texts(array: pa.Array | pa.ChunkedArray) -> pa.Array:
    """A column as strings, for columns that are used as categories whatever their type."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    return pc.cast(array, pa.string())


class _Accumulator:
    """Exact moments, range and missing count of one column, and its values' counts while they are few."""

    def __init__(self, name: str, type_: pa.DataType) -> None:
        self.column = Column(name, type_name(type_))
        self.mean = 0.0
        self.squares = 0.0
        self.counts: Counter[str] | None = Counter()

    def add(self, array: pa.Array) -> None:
        column = self.column
        column.rows += len(array)
        if column.type == "string":
            column.missing += array.null_count
        else:
            values = numbers(array)
            values = values[~np.isnan(values)]
            column.missing += len(array) - len(values)
            if len(values):
                self._add_moments(values)
        if self.counts is not None and column.type != "double":
            for entry in pc.value_counts(texts(array)).to_pylist():
                if entry["values"] is not None:
                    self.counts[entry["values"]] += entry["counts"]
            self._bound_counts()

    def _bound_counts(self) -> None:
        if self.counts is None or len(self.counts) <= MAX_COUNTED:
            return
        if self.column.type != "string" or len(self.counts) > 0.5 * self.column.observed:
            self.counts = None  # too many different values to be a category
        elif len(self.counts) > 4 * MAX_COUNTED:
            self.counts = Counter(dict(sorted(self.counts.items(), key=lambda e: (-e[1], e[0]))[:MAX_COUNTED]))

    def _add_moments(self, values: np.ndarray) -> None:
        column = self.column
        before = column.observed - len(values)
        with np.errstate(over="ignore", invalid="ignore"):
            mean = float(values.mean())
            delta = mean - self.mean
            total = before + len(values)
            self.squares += float(np.square(values - mean).sum()) + delta**2 * before * len(values) / total
            self.mean += delta * len(values) / total
        column.minimum = float(np.nanmin([column.minimum, values.min()]))
        column.maximum = float(np.nanmax([column.maximum, values.max()]))


def describe(
    batches: Iterable[pa.RecordBatch],
    *,
    kinds: Mapping[str, str] | None = None,
    scaling: str = "robust",
    random_state: int = 0,
) -> list[Column]:
    """One pass over the training rows -> the columns, with statistics, limits and kinds.

    `scaling`: "robust" puts 0 and 1 on the .5 and 99.5 percentiles widened by 10 %; "minmax" on the extremes.
    Percentiles come from a uniform sample of at most 50,000 rows; all else is exact. Raises InputError for an
    unknown kind, a kind that the column's type cannot have, or no rows at all.
    """
    accumulators: dict[str, _Accumulator] = {}
    sample = _RowSample(random_state)
    for batch in batches:
        for name, array in zip(batch.schema.names, batch.columns, strict=True):
            if name not in accumulators:
                accumulators[name] = _Accumulator(name, array.type)
            accumulators[name].add(array)
        sample.add(batch)
    if not sample.rows:
        raise InputError("there are no rows to learn from", fix="Check the input and the interval")
    wanted = dict(kinds or {})
    for name, kind in wanted.items():
        if kind not in KINDS:
            raise InputError(f'"{kind}" is not a kind', column=name, fix=f"Kinds are {', '.join(KINDS)}")
        if name not in accumulators:
            raise InputError("a kind is given for a column that is not there", column=name)
    table = sample.table()
    return [_finish(a, table.column(name), wanted.get(name), scaling) for name, a in accumulators.items()]


class _RowSample:
    """A uniform sample of rows of a stream: those with the smallest of independent random keys."""

    def __init__(self, random_state: int) -> None:
        self.generator = np.random.default_rng(random_state)
        self.batches: list[pa.RecordBatch] = []
        self.keys: list[np.ndarray] = []
        self.held = self.rows = 0

    def limit(self) -> int:
        return max(1, min(SAMPLE_ROWS, SAMPLE_CELLS // max(1, self.batches[0].num_columns)))

    def add(self, batch: pa.RecordBatch) -> None:
        self.rows += batch.num_rows
        self.held += batch.num_rows
        self.batches.append(batch)
        self.keys.append(self.generator.random(batch.num_rows))
        if self.held > 2 * self.limit():
            self._shrink()

    def _shrink(self) -> None:
        keys = np.concatenate(self.keys)
        keep = np.sort(np.argsort(keys, kind="stable")[: self.limit()])
        table = pa.Table.from_batches(self.batches).take(pa.array(keep)).combine_chunks()
        self.batches, self.keys, self.held = table.to_batches(), [], len(keep)
        start = 0
        for batch in self.batches:
            self.keys.append(keys[keep[start : start + batch.num_rows]])
            start += batch.num_rows

    def table(self) -> pa.Table:
        if self.held > self.limit():
            self._shrink()
        return pa.Table.from_batches(self.batches)


def _finish(accumulator: _Accumulator, sample: pa.ChunkedArray, kind: str | None, scaling: str) -> Column:
    column = accumulator.column
    column.kind = _checked(kind, column) if kind else infer_kind(column, accumulator.counts, sample)
    counts = accumulator.counts or Counter()
    if column.kind == "constant" and column.type == "string":
        column.constant = next(iter(counts))
    if column.kind == "category":
        ranked = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
        kept = [(value, n) for value, n in ranked[:MAX_CATEGORIES] if n > 1 or column.rows < 50]
        column.categories = [value for value, _ in kept]
        column.counts = [n for _, n in kept]
    if column.type != "string" and column.observed:
        values = numbers(sample)
        values = values[~np.isnan(values)]
        if not len(values):
            values = np.array([column.minimum, column.maximum])
        _set_limits(column, accumulator, values, scaling)
    return column


def _set_limits(column: Column, accumulator: _Accumulator, values: np.ndarray, scaling: str) -> None:
    column.quantiles = [float(q) for q in np.quantile(values, np.linspace(0, 1, 101))]
    if scaling == "minmax":
        column.low, column.high = column.minimum, column.maximum
    else:
        bottom, top = (float(q) for q in np.quantile(values, [0.005, 0.995]))
        if top <= bottom:
            bottom, top = column.minimum, column.maximum
        column.low, column.high = bottom - 0.1 * (top - bottom), top + 0.1 * (top - bottom)
    if not column.high > column.low:
        column.low, column.high = column.minimum - 0.5, column.minimum + 0.5
    column.mean = accumulator.mean
    deviation = math.sqrt(accumulator.squares / max(1, column.observed))
    if not (math.isfinite(deviation) and math.isfinite(column.mean)):
        column.mean, deviation = column.quantiles[50], (column.quantiles[75] - column.quantiles[25]) / 1.349
    column.spread = max(deviation, 0.01 * (column.high - column.low))


def infer_kind(column: Column, counts: Counter[str] | None, sample: pa.ChunkedArray) -> str:
    """The kind that a column's type and values suggest; `kinds` at training overrides it."""
    if column.observed == 0:
        return "empty"
    distinct = len(counts) if counts is not None else MAX_COUNTED + 1
    if column.type == "timestamp":
        return "timestamp"
    if column.type == "double":
        return "constant" if column.minimum == column.maximum and column.observed > 1 else "real"
    if distinct == 1 and column.observed > 1:
        return "constant"
    if column.type == "bool" or (column.type == "int64" and counts is not None and set(counts) <= {"0", "1"}):
        return "boolean"
    if column.type == "int64":
        every_value_once = column.maximum - column.minimum + 1 == column.observed
        return "identifier" if every_value_once and distinct >= min(column.observed, 50) > 20 else "whole"
    if column.observed >= 20 and distinct > max(20, 0.5 * column.observed):
        words = np.mean([len(value.split()) for value in sample.to_pylist()[:1000] if value is not None])
        return "text" if words > 3 else "identifier"
    return "category"


def _checked(kind: str, column: Column) -> str:
    numeric = {"double": ("real",), "int64": ("real", "whole", "boolean"), "bool": ("boolean",)}
    fits = {
        "real": column.type in ("double", "int64"),
        "whole": column.type in ("double", "int64"),
        "boolean": column.type in numeric and column.minimum >= 0 and column.maximum <= 1,
        "category": column.type in ("string", "int64", "bool"),
        "timestamp": column.type == "timestamp",
    }
    if not fits.get(kind, True):
        raise InputError(f"a column of type {column.type} cannot be used as {kind}", column=column.name)
    return "empty" if column.observed == 0 and kind in MODELLED else kind
