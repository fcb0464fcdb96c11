"""Tables <-> what the model sees: scaled values, masks, context, and the terms that need no network.

The default scaling is affine and never clips: a value outside the training limits maps outside [0, 1] and is
scored as such. The likelihoods see standardised values (real and whole columns in units of their training
spread), booleans as 0 and 1, categories as class numbers (0 is 'other').
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vae_core.columns import FIXED, MODELLED, Column, describe, numbers, texts
from vae_core.errors import InputError

__all__ = ["Encoded", "Feature", "TableEncoding"]

FAR = 1e30  # standardised values beyond it are compressed logarithmically, so that every finite input stays finite
DAY = 86_400_000_000  # microseconds
ARROW_TYPES = {
    "double": pa.float64(),
    "int64": pa.int64(),
    "bool": pa.bool_(),
    "string": pa.string(),
    "timestamp": pa.timestamp("us", "UTC"),
}


@dataclass(frozen=True)
class Feature:
    """One axis of the likelihood: a column, or one class of a column in the lecture's one-hot coding."""

    column: int  # index into the encoding's columns
    likelihood: str
    scale: float = 1.0  # whole: the width of a step; categorical: the number of classes
    category: int = -1  # one-hot: the class; else -1


@dataclass
class Encoded:
    """A batch of records as the model takes it; n records, m features."""

    values: np.ndarray  # (n, m) float64; 0 where missing
    mask: np.ndarray  # (n, m) bool; False = missing
    context: np.ndarray  # (n, c) float32: periodic functions of the timestamp
    fixed: np.ndarray  # (n, columns) float64: nats of missingness and of columns outside the network
    n_missing: np.ndarray  # (n,) int32
    n_out_of_range: np.ndarray  # (n,) int32
    n_unseen: np.ndarray  # (n,) int32


class TableEncoding:
    """The table's schema as learnt from training rows, and the maps to and from the model's values.

    `preset="default"`: one feature for each column, each with the likelihood of its kind. `preset="lecture"`:
    min-max scaling to [0, 1], categories one-hot, every feature Bernoulli (the lecture's m sigmoid outputs).
    """

    def __init__(
        self,
        columns: Sequence[Column],
        *,
        ids: Sequence[str] = (),
        time: str | None = None,
        preset: str = "default",
        likelihood: str | None = None,
        periods: Sequence[str] = (),
    ) -> None:
        self.described = list(columns)
        self.ids = tuple(ids)
        self.time = time
        self.preset = preset
        self.likelihood = likelihood
        self.periods = tuple(periods)
        self.features = [f for i, c in enumerate(self.described) for f in self._features(i, c)]
        if not self.features:
            reasons = ", ".join(f"{c.name} ({c.kind})" for c in self.described)
            raise InputError(f"no column can be learnt from: {reasons or 'there are none'}")

    @classmethod
    def fit(
        cls,
        batches: Iterable[pa.RecordBatch],
        *,
        ids: Sequence[str] = (),
        time: str | None = None,
        kinds: Mapping[str, str] | None = None,
        preset: str = "default",
        likelihood: str | None = None,
        random_state: int = 0,
    ) -> TableEncoding:
        """Learn kinds, limits, categories and missing rates in one pass over training rows.

        `time` names the timestamp that serves as context (by default the only or first one). `likelihood`
        replaces the Gaussian of real columns ("bernoulli", "continuous_bernoulli": scaled to [0, 1] by min-max).
        """
        scaling = "minmax" if preset == "lecture" or likelihood else "robust"
        columns = describe(
            (_user_columns(b) for b in batches), kinds=kinds, scaling=scaling, random_state=random_state
        )
        stamps = [c.name for c in columns if c.kind == "timestamp"]
        if time is not None and time not in stamps:
            raise InputError("is not a timestamp column", column=time)
        time = time or (stamps[0] if stamps else None)
        periods = _periods(next(c for c in columns if c.name == time)) if time else ()
        return cls(columns, ids=ids, time=time, preset=preset, likelihood=likelihood, periods=periods)

    def _features(self, index: int, column: Column) -> list[Feature]:
        if column.kind not in MODELLED:
            return []
        if column.kind == "category":
            if self.preset == "lecture":
                return [Feature(index, "bernoulli", category=k) for k in range(len(column.categories))]
            return [Feature(index, "categorical", scale=float(len(column.categories) + 1))]
        if self.preset == "lecture" or column.kind == "boolean":
            return [Feature(index, "bernoulli")]
        if self.likelihood:
            return [Feature(index, self.likelihood)]
        if column.kind == "whole":
            return [Feature(index, "whole", scale=1 / column.spread)]
        return [Feature(index, "gaussian")]

    @property
    def columns(self) -> dict[str, str]:
        """Name -> type of every column of the input, in order: what a scoring run must bring."""
        return {c.name: c.type for c in self.described}

    @property
    def kinds(self) -> dict[str, str]:
        return {c.name: c.kind for c in self.described}

    @property
    def left_out(self) -> dict[str, str]:
        """Columns that take no part in the score, with the reason."""
        reasons = {c.name: c.kind for c in self.described if c.kind in ("identifier", "text", "label")}
        extra = {c.name: "a second timestamp" for c in self.described if c.kind == "timestamp" and c.name != self.time}
        return reasons | extra

    @property
    def context_width(self) -> int:
        return sum({"hour": 4, "weekday": 2, "season": 2}[p] for p in self.periods)

    @property
    def log_jacobian(self) -> float:
        """Nats to add to a complete record's bound for a density in the user's units (real columns only)."""
        real = {f.column for f in self.features if f.likelihood == "gaussian"}
        scaled = {f.column for f in self.features if f.likelihood == "continuous_bernoulli"}
        return -sum(math.log(self.described[i].spread) for i in real) - sum(
            math.log(self.described[i].high - self.described[i].low) for i in scaled
        )

    def encode(self, batch: pa.RecordBatch | pa.Table) -> Encoded:
        """A batch with this schema -> values, masks, context, fixed terms and counts. Raises InputError if a column is missing."""
        n, m = batch.num_rows, len(self.features)
        encoded = Encoded(
            values=np.zeros((n, m)),
            mask=np.ones((n, m), bool),
            context=np.zeros((n, self.context_width), np.float32),
            fixed=np.zeros((n, len(self.described))),
            n_missing=np.zeros(n, np.int32),
            n_out_of_range=np.zeros(n, np.int32),
            n_unseen=np.zeros(n, np.int32),
        )
        names = set(batch.schema.names)
        start = 0
        for index, column in enumerate(self.described):
            width = sum(f.column == index for f in self.features) if column.kind == "category" else 1
            if column.name not in names:
                raise InputError("is missing", column=column.name, fix="The model was trained with it")
            array = batch.column(column.name)
            if column.kind in MODELLED:
                self._encode_column(encoded, index, slice(start, start + width), array)
                start += width
            elif column.kind in FIXED:
                _encode_fixed(encoded, index, column, array)
            elif column.name == self.time and self.periods:
                encoded.context[:] = periodic(numbers(array), self.periods)
        return encoded

    def _encode_column(self, encoded: Encoded, index: int, place: slice, array: pa.ChunkedArray) -> None:
        column = self.described[index]
        if column.kind == "category":
            codes, missing = _codes(column, array)
            encoded.n_unseen += (codes == 0) & ~missing
            if self.preset == "lecture":
                encoded.values[:, place] = codes[:, None] == np.arange(1, len(column.categories) + 1)
            else:
                encoded.values[:, place] = codes[:, None]
        else:
            values = numbers(array)
            missing = np.isnan(values)
            scaled = self._scaled(column, values)
            if column.kind != "boolean":
                encoded.n_out_of_range += np.where(missing, 0, (scaled < 0) | (scaled > 1)).astype(np.int32)
            unit_interval = self.preset == "lecture" or self.likelihood is not None
            model_values = values if column.kind == "boolean" else scaled if unit_interval else standardise(column, values)
            encoded.values[:, place] = np.where(missing, 0, model_values)[:, None]
        encoded.values[missing, place] = 0
        encoded.mask[:, place] = ~missing[:, None]
        encoded.n_missing += missing
        if column.missing_is_rare:
            rate = column.missing_rate
            encoded.fixed[:, index] = np.where(missing, math.log(rate), math.log1p(-rate))

    @staticmethod
    def _scaled(column: Column, values: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore"):
            return (values - column.low) / (column.high - column.low)

    def transform(self, batch: pa.RecordBatch | pa.Table) -> tuple[np.ndarray, np.ndarray]:
        """A batch -> values in [0, 1]^m (outside where a value is out of range) and the mask (n, m).

        Real and whole columns by their limits, booleans as 0 and 1, categories one-hot. Missing cells are 0
        with mask False.
        """
        values, masks = [], []
        for column in (c for c in self.described if c.kind in MODELLED):
            if column.kind == "category":
                codes, missing = _codes(column, batch.column(column.name))
                values.append((codes[:, None] == np.arange(1, len(column.categories) + 1)).astype(np.float64))
            else:
                raw = numbers(batch.column(column.name))
                missing = np.isnan(raw)
                scaled = raw if column.kind == "boolean" else self._scaled(column, raw)
                values.append(np.where(missing, 0, scaled)[:, None])
            masks.append(np.repeat(~missing[:, None], values[-1].shape[1], axis=1))
        return np.concatenate(values, axis=1), np.concatenate(masks, axis=1)

    def inverse_transform(self, values: np.ndarray, mask: np.ndarray | None = None) -> pa.Table:
        """Model values (n, m) as `encode` gives them -> a table in the user's units, types and categories.

        Only the modelled columns and constants come back; a cell with mask False is null.
        """
        arrays: dict[str, pa.Array] = {}
        start = 0
        for index, column in enumerate(self.described):
            if column.kind == "constant":
                value = column.constant if column.type == "string" else column.minimum
                arrays[column.name] = _typed(np.full(len(values), value, object if column.type == "string" else float), column, None)
            if column.kind not in MODELLED:
                continue
            width = sum(f.column == index for f in self.features) if column.kind == "category" else 1
            block = values[:, start : start + width]
            missing = None if mask is None else ~mask[:, start]
            arrays[column.name] = _typed(self._user_units(column, block), column, missing)
            start += width
        return pa.table(arrays)

    def _user_units(self, column: Column, block: np.ndarray) -> np.ndarray:
        if column.kind == "category":
            codes = block.argmax(1) + 1 if self.preset == "lecture" else block[:, 0].astype(np.int64)
            return np.array(["other", *column.categories], dtype=object)[codes]
        if column.kind == "boolean":
            return block[:, 0] >= 0.5
        if self.preset == "lecture" or self.likelihood is not None:
            return column.low + block[:, 0] * (column.high - column.low)
        return column.mean + block[:, 0] * column.spread

    def to_json(self) -> dict[str, Any]:
        return {
            "columns": [c.to_json() for c in self.described],
            "ids": list(self.ids),
            "time": self.time,
            "preset": self.preset,
            "likelihood": self.likelihood,
            "periods": list(self.periods),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> TableEncoding:
        columns = [Column.from_json(c) for c in document["columns"]]
        rest = {k: document[k] for k in ("ids", "time", "preset", "likelihood", "periods")}
        return cls(columns, **rest)


def standardise(column: Column, values: np.ndarray) -> np.ndarray:
    """(x - mean) / spread in float64; beyond FAR compressed logarithmically, still monotone, always finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        u = (values - column.mean) / column.spread
        size = np.abs(u)
        far = size > FAR
        if far.any():
            log_size = np.log(np.abs(values[far] / 2 - column.mean / 2)) + math.log(2) - math.log(column.spread)
            u[far] = np.sign(values[far]) * FAR * (1 + log_size - math.log(FAR))
    return u


def _user_columns(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Without the record's identity (`_record_id`, `_source`, `_row`), which ingest adds."""
    names = [n for n in batch.schema.names if n not in ("_record_id", "_source", "_row")]
    return batch.select(names)


def _codes(column: Column, array: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Class numbers (0 = other) and missing cells of a category column."""
    text = texts(array)
    missing = np.asarray(pc.is_null(text).to_numpy(zero_copy_only=False))
    found = pc.index_in(text, value_set=pa.array(column.categories, pa.string()))
    codes = pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int64) + 1
    return codes, missing


def _encode_fixed(encoded: Encoded, index: int, column: Column, array: pa.ChunkedArray) -> None:
    """A column without variation: a value unlike all of training's costs log(n + 2) nats (Laplace's rule)."""
    missing = np.asarray(pc.is_null(array).to_numpy(zero_copy_only=False))
    if column.kind == "empty":
        differs = ~missing
    elif column.type == "string":
        differs = np.asarray(pc.fill_null(pc.not_equal(array, pa.scalar(column.constant)), False))
    else:
        values = numbers(array)
        missing = np.isnan(values)
        differs = ~missing & (values != column.minimum)
    surprise = -math.log(column.rows + 2)
    encoded.fixed[:, index] = np.where(differs, surprise, math.log1p(-1 / (column.rows + 2)))
    if column.kind == "constant" and column.missing_is_rare:
        rate = column.missing_rate
        encoded.fixed[:, index] = np.where(missing, math.log(rate), encoded.fixed[:, index] + math.log1p(-rate))
        encoded.n_missing += missing
    elif column.kind == "constant":
        encoded.fixed[missing, index] = 0
        encoded.n_missing += missing
    encoded.n_unseen += differs


def _periods(column: Column) -> tuple[str, ...]:
    """The periods that the data's span allows: each must be seen at least once in full (hours and weeks twice)."""
    span = (column.maximum - column.minimum) / DAY if column.observed else 0.0
    steps = np.unique(np.mod(np.array(column.quantiles), DAY)) if column.quantiles else np.zeros(1)
    within_day = len(steps) > 1
    allowed = (("hour", span >= 2 and within_day), ("weekday", span >= 14), ("season", span >= 365))
    return tuple(name for name, fits in allowed if fits)


def periodic(micros: np.ndarray, periods: Sequence[str]) -> np.ndarray:
    """Sines and cosines of the hour (two harmonics), weekday and season; 0 where the timestamp is missing."""
    lengths = {"hour": (DAY, DAY / 2), "weekday": (7 * DAY,), "season": (365.2425 * DAY,)}
    waves = []
    for period in periods:
        for length in lengths[period]:
            angle = 2 * np.pi * np.mod(micros, length) / length
            waves += [np.sin(angle), np.cos(angle)]
    return np.nan_to_num(np.stack(waves, axis=1)).astype(np.float32)


def _typed(values: np.ndarray, column: Column, missing: np.ndarray | None) -> pa.Array:
    type_ = ARROW_TYPES[column.type]
    if column.type == "int64" and column.kind != "category":
        values = np.rint(values.astype(np.float64)).clip(-(2.0**63), 2.0**63 - 1024).astype(np.int64)
    if column.type in ("int64", "bool", "timestamp") and column.kind == "category":
        return pc.cast(pa.array(values, pa.string(), mask=missing), type_)
    if column.kind == "whole" and column.type == "double":
        values = np.rint(values)
    if column.type == "bool":
        values = values.astype(bool)
    return pa.array(values, type_, mask=missing)
