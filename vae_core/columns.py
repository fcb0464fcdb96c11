"""What a table's columns are: statistics of one streaming pass, and the kind that follows from them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vae_core.arrow import numbers, texts, type_name, vector_width, without_vector
from vae_core.chance import private_generator
from vae_core.errors import InputError, columns_here, nearest

__all__ = ["KINDS", "Column", "describe", "numbers", "texts", "type_name"]

KINDS = {
    "real": "a density in standardised units",
    "whole": "whole numbers: a mass",
    "boolean": "a mass on {false, true}",
    "category": "a mass on the categories of training and 'other'",
    "vector": "a density of the whole vector; one column in reports and reasons",
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
DIFFERING = 0.95
# Below it a missing cell is a surprise of its own; above it, it does not count in the ranking.
RARE_MISSING = 0.01
# A standard deviation of so many ranges (of .5 to 99.5 %, widened) comes from a few wild values. In its units
# all others would lie closer together than the likelihood's floor, and the column would be blind to them.
BLINDING = 5.0
LARGEST, SMALLEST = float(np.finfo(np.float64).max), float(np.finfo(np.float64).tiny)


@dataclass
class Column:
    """One column of a table: its type, its kind, and what training rows said about it in the user's units."""

    name: str
    type: str  # double | int64 | bool | string | timestamp | vector[d]
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
    constant: str | None = None  # the one value of a constant column as text (of a double: `minimum`)
    quantiles: list[float] = field(default_factory=list)  # 0, 1, ..., 100 %: the profile
    # Of a sample of training: how many values lie below the first of the distinct quantiles, at it, between
    # it and the second, at that, and so on; and the share of values beyond `low` or `high`.
    histogram: list[int] = field(default_factory=list)
    outside: float | None = None
    # Of `categories`; the rest of the rows are 'other' or missing.
    counts: list[int] = field(default_factory=list)
    apart: str = ""  # why the column, though of a kind that can be modelled, is left to break ties
    temper: float = 0.0  # of a column set apart: the power of its shares in the score; 0 in older models
    lawful: bool = False  # see `never`

    @property
    def observed(self) -> int:
        return self.rows - self.missing

    @property
    def modelled(self) -> bool:
        """Whether the column has a likelihood in the network."""
        return (self.kind in MODELLED or self.kind == "vector") and not self.apart

    @property
    def fixed(self) -> bool:
        """Whether the column has a term in the score that needs no network."""
        return self.kind in FIXED or bool(self.apart)

    @property
    def strange_share(self) -> float:
        """Smoothed share (Jeffreys' prior) of training's observed cells that are no known value."""
        named = sum(self.counts) if self.kind == "category" else self.observed
        return (self.observed - named + 0.5) / (self.observed + 1)

    @property
    def missing_rate(self) -> float:
        """Smoothed share of missing cells in training (Jeffreys' prior): never 0 or 1. See `never`."""
        lawful = self.lawful and not self.missing
        return math.exp(self.never) if lawful else (self.missing + 0.5) / (self.rows + 1)

    @property
    def never(self) -> float:
        """log P of what none of training's n rows had, in nats: -2 log(n + 2), in older models -log(n + 2).

        Laplace's rule has 1 / (n + 2). With even odds beforehand for a law, a rate of 0, its odds are n + 1
        to 1 after n rows (Jeffreys 1961, section 3.2): what would break it has 1 / (n + 2)^2.
        """
        return (-2 if self.lawful else -1) * math.log(self.rows + 2)

    @property
    def missing_is_rare(self) -> bool:
        return self.missing < RARE_MISSING * self.rows

    def to_json(self) -> dict[str, Any]:
        unknown = {name: None for name in ("minimum", "maximum") if math.isnan(getattr(self, name))}
        return asdict(self) | unknown

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Column:
        unknown = {name: math.nan for name in ("minimum", "maximum") if document[name] is None}
        return cls(**{**document, **unknown})


class _Accumulator:
    """Exact moments, range and missing count of one column, and its values' counts while they are few."""

    def __init__(self, name: str, type_: pa.DataType) -> None:
        self.column = Column(name, type_name(type_), lawful=True)
        self.mean = 0.0
        self.squares = 0.0
        self.counts: Counter[str] | None = Counter()

    def add(self, array: pa.Array) -> None:
        column = self.column
        column.rows += len(array)
        if vector_width(column.type):
            column.missing += int(without_vector(array).sum())
        elif column.type == "string":
            column.missing += array.null_count
        else:
            values = numbers(array)
            values = values[~np.isnan(values)]
            column.missing += len(array) - len(values)
            if len(values):
                self._add_moments(values)
        if self.counts is not None and column.type != "double" and not vector_width(column.type):
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
            frequent = sorted(self.counts.items(), key=lambda entry: (-entry[1], entry[0]))
            self.counts = Counter(dict(frequent[:MAX_COUNTED]))

    def _add_moments(self, values: np.ndarray) -> None:
        column = self.column
        before = column.observed - len(values)
        with np.errstate(over="ignore", invalid="ignore"):
            mean = float(values.mean())
            delta = mean - self.mean
            total = before + len(values)
            between = delta * delta * before * len(values) / total
            self.squares += float(np.square(values - mean).sum()) + between
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
    return survey(batches, kinds=kinds, scaling=scaling, random_state=random_state)[0]


def survey(
    batches: Iterable[pa.RecordBatch],
    *,
    keys: Sequence[str] = (),
    kinds: Mapping[str, str] | None = None,
    scaling: str = "robust",
    random_state: int = 0,
) -> tuple[list[Column], pa.Table]:
    """The columns as `describe` has them, and the sample of rows that its percentiles come from.

    A column of `keys` in which nearly every value differs names the record and is no feature.
    """
    accumulators: dict[str, _Accumulator] = {}
    sample = _RowSample(random_state)
    for batch in batches:
        for name, array in zip(batch.schema.names, batch.columns, strict=True):
            if name not in accumulators:
                accumulators[name] = _Accumulator(name, array.type)
            accumulators[name].add(array)
        sample.add(_without_vectors(batch))
    if not sample.rows:
        raise InputError("there are no rows to learn from", fix="Check the input and the interval")
    wanted = dict(kinds or {})
    for name, kind in wanted.items():
        if kind not in KINDS:
            raise InputError(f'"{kind}" is not a kind', column=name, fix=f"Kinds are {', '.join(KINDS)}")
        if name not in accumulators:
            problem = f"a kind is given for a column that is not there{nearest(name, accumulators)}"
            raise InputError(problem, column=name, fix=columns_here(accumulators))
    table = sample.table()
    for name in set(keys) & (accumulators.keys() - wanted.keys()):
        if _names_records(accumulators[name], table.column(name)):
            wanted[name] = "identifier"
    columns = [_finish(a, table.column(name), wanted.get(name), scaling) for name, a in accumulators.items()]
    return columns, table


def _names_records(accumulator: _Accumulator, sample: pa.ChunkedArray) -> bool:
    """Whether more than 95 % of a key column's values differ. A time is context, and no feature anyway."""
    column, counts = accumulator.column, accumulator.counts
    if column.type == "timestamp" or vector_width(column.type) or not column.observed:
        return False
    if counts and column.type != "double":
        return len(counts) > DIFFERING * column.observed
    # Of a value that occurs twice both are in the sample as often as the sample is a share of the rows.
    values = sample.drop_null()
    repeated = len(values) - pc.count_distinct(values).as_py()
    return repeated * column.observed < (1 - DIFFERING) * len(values) ** 2


def _without_vectors(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A batch with, in a vector's place, whether it is there: nothing else of it is summed up here."""
    arrays = [pc.is_valid(a) if pa.types.is_fixed_size_list(a.type) else a for a in batch.columns]
    return pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)


class _RowSample:
    """A uniform sample of rows of a stream: those with the smallest of independent random keys."""

    def __init__(self, random_state: int) -> None:
        self.generator = private_generator("sample of rows", random_state)
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
    counts = accumulator.counts or Counter()
    plain = column.type != "string" and not vector_width(column.type)
    values = numbers(sample) if plain else np.empty(0)
    values = values[~np.isnan(values)]
    if not len(values) and plain and column.observed:
        values = np.array([column.minimum, column.maximum])
    inferred = infer_kind(column, accumulator.counts, sample)
    column.kind = _checked(kind, column, inferred, values) if kind else inferred
    if column.kind == "constant" and column.type != "double":
        column.constant = next(iter(counts))
    if column.kind == "category":
        ranked = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
        kept = [(value, n) for value, n in ranked[:MAX_CATEGORIES] if n > 1 or column.rows < 50]
        column.categories = [value for value, _ in kept]
        column.counts = [n for _, n in kept]
        column.kind = "category" if kept else "identifier"
    if len(values):
        _set_limits(column, accumulator, values, scaling)
    return column


def _set_limits(column: Column, accumulator: _Accumulator, values: np.ndarray, scaling: str) -> None:
    # A percentile between two timestamps is no time of the data: daily data would seem to have hours.
    column.quantiles = _quantiles(values, np.linspace(0, 1, 101), between=column.type != "timestamp")
    if scaling == "minmax":
        column.low, column.high = column.minimum, column.maximum
    else:
        bottom, top = _quantiles(values, np.array([0.005, 0.995]))
        if top <= bottom:
            bottom, top = column.minimum, column.maximum
        headroom = 0.2 * (0.5 * top - 0.5 * bottom)  # 10 % of the range; no difference here may overflow
        column.low, column.high = max(bottom - headroom, -LARGEST), min(top + headroom, LARGEST)
    if not column.high > column.low:
        column.low, column.high = column.minimum - 0.5, column.minimum + 0.5
    if not column.high > column.low:  # above 2^53 one half is nothing
        size = 1e-12 * abs(column.minimum)
        column.low, column.high = column.minimum - size, column.minimum + size
    column.mean = accumulator.mean
    deviation = math.sqrt(accumulator.squares / max(1, column.observed))
    if not (math.isfinite(deviation) and math.isfinite(column.mean)):
        column.mean = column.quantiles[50]
        deviation = min(2 * (0.5 * column.quantiles[75] - 0.5 * column.quantiles[25]) / 1.349, LARGEST)
    if scaling == "robust" and deviation > BLINDING * (column.high - column.low):
        inside = values.clip(column.low, column.high)
        column.mean, deviation = float(inside.mean()), float(inside.std())
    column.spread = max(deviation, 0.02 * (0.5 * column.high - 0.5 * column.low), SMALLEST)
    if column.kind in ("real", "whole"):
        column.histogram = cells(np.sort(values), np.unique(column.quantiles)).tolist()
        column.outside = float(((values < column.low) | (values > column.high)).mean())


def cells(ordered: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """How many of sorted values lie below the first edge, at it, up to the second, ...: (2k + 1,)."""
    bounds = np.empty(2 * len(edges) + 2, np.int64)
    bounds[0], bounds[-1] = 0, len(ordered)
    bounds[1:-1:2] = np.searchsorted(ordered, edges, "left")
    bounds[2:-1:2] = np.searchsorted(ordered, edges, "right")
    return np.diff(bounds)


def _quantiles(values: np.ndarray, shares: np.ndarray, *, between: bool = True) -> list[float]:
    """Quantiles of finite values, also where their range is beyond the largest number."""
    halves = np.quantile(0.5 * values, shares, method="linear" if between else "nearest")
    return [float(q) for q in 2 * halves]


def infer_kind(column: Column, counts: Counter[str] | None, sample: pa.ChunkedArray) -> str:
    """The kind that a column's type and values suggest; `kinds` at training overrides it."""
    if column.observed == 0:
        return "empty"
    if vector_width(column.type):
        return "vector"
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
        consecutive = column.maximum - column.minimum + 1 == column.observed
        all_differ = distinct == column.observed if counts is not None else _all_differ(sample)
        return "identifier" if consecutive and all_differ and column.observed > 20 else "whole"
    if column.observed >= 20 and distinct > max(20, 0.5 * column.observed):
        some = sample.drop_null().slice(0, 1000).to_pylist()
        return "text" if sum(len(value.split()) for value in some) > 3 * len(some) else "identifier"
    return "category"


def _all_differ(sample: pa.ChunkedArray) -> bool:
    return pc.count_distinct(sample).as_py() == len(sample) - sample.null_count


def _checked(kind: str, column: Column, inferred: str, values: np.ndarray) -> str:
    """The kind that the user asks for, or InputError where type or values do not allow it."""
    number = column.type in ("double", "int64")
    fits = {
        "real": number,
        "whole": number and bool((values == np.rint(values)).all()),
        "boolean": column.type == "bool" or (number and bool(np.isin(values, (0, 1)).all())),
        "category": column.type in ("string", "int64", "bool"),
        "timestamp": column.type == "timestamp",
        "vector": vector_width(column.type) > 0,
        "constant": inferred == "constant",
        "empty": inferred == "empty",
    }
    if inferred == "empty" and kind in (*MODELLED, "vector", "timestamp"):
        return "empty"
    if not fits.get(kind, True):
        wrong = f"a column of type {column.type} with these values cannot be used as {kind}"
        raise InputError(wrong, column=column.name)
    return kind
