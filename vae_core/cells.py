"""One column's cells <-> numbers: standardised values, classes, periodic context, fixed columns' nats."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vae_core.arrow import TYPES, numbers, texts, vector_array, without_vector
from vae_core.columns import Column

__all__ = [
    "apart_nats",
    "by_column",
    "codes_of",
    "constant",
    "fixed_nats",
    "missing_nats",
    "periodic",
    "periods_of",
    "standardise",
    "typed",
]

# Standardised values beyond it are compressed logarithmically, so that every finite input stays finite.
FAR = 1e30
DAY = 86_400_000_000  # microseconds
APART = 128  # bytes between columns


def by_column(rows: int, columns: int, value: float | bool = 0.0) -> np.ndarray:
    """A table (rows, columns) of one value, of its type, in which a column's cells lie side by side.

    Columns lie a little apart: where a power of two lies from one to the next, as in most batches, a row's
    cells share one set of the processor's cache, and push each other out.
    """
    room = rows + APART // np.dtype(type(value)).itemsize
    made = np.full((columns, room), value) if value else np.zeros((columns, room), type(value))
    return made[:, :rows].T


def standardise(column: Column, values: np.ndarray) -> np.ndarray:
    """(x - mean) / spread in float64; beyond FAR compressed logarithmically, still monotone, always finite.

    Taken of halves, since the difference of the largest numbers overflows.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        u = 0.5 * values
        u -= 0.5 * column.mean
        u /= 0.5 * column.spread
        far = np.abs(u) > FAR
        if far.any():
            distance = 0.5 * values - 0.5 * column.mean
            log_size = np.log(np.abs(distance[far])) - math.log(0.5 * column.spread)
            u[far] = np.sign(distance[far]) * FAR * (1 + log_size - math.log(FAR))
    return u


def codes_of(column: Column, array: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Class numbers (0 = other) and missing cells of a category column."""
    text = texts(array)
    missing = np.asarray(pc.is_null(text).to_numpy(zero_copy_only=False))
    found = pc.index_in(text, value_set=pa.array(column.categories, pa.string()))
    codes = pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int64) + 1
    return codes, missing


def fixed_nats(column: Column, array: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nats of a column without variation in training, and which cells are missing and which differ from it.

    A value unlike all of training's has the log-probability `column.never`, a missing cell where it was rare
    the log of its rate.
    """
    if pa.types.is_floating(array.type):
        values = numbers(array)
        missing = np.isnan(values)
    elif pa.types.is_fixed_size_list(array.type):
        values, missing = np.empty(0), without_vector(array)
    else:
        values, missing = np.empty(0), np.asarray(pc.is_null(array).to_numpy(zero_copy_only=False))
    if column.kind == "empty":
        differs = ~missing
    elif len(values) or column.constant is None:
        differs = ~missing & (values != column.minimum)
    else:
        differs = np.asarray(pc.fill_null(pc.not_equal(texts(array), pa.scalar(column.constant)), False))
    nats = np.where(differs, column.never, math.log1p(-math.exp(column.never)))
    if column.kind == "constant":
        nats = np.where(missing, 0.0, nats) + missing_nats(column, missing)
    return nats, missing, differs


def apart_nats(column: Column, array: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nats of a column set apart: whether its cell is known to training, and a whisper of which value it has.

    A mass of unknown, missing and the V known values, these in multiples of 1/V. Among them it goes by the
    training shares to the power `column.temper`, so it is nearly uniform, but records that differ here alone
    do not tie. Returns nats and which cells are missing and which are unknown (a new category; neither true
    nor false).
    """
    if column.kind == "category":
        codes, missing = codes_of(column, array)
        strange = (codes == 0) & ~missing
        place = codes - 1
    else:
        values = numbers(array)
        missing = np.isnan(values)
        strange = ~np.isin(values, (0, 1)) & ~missing
        place = values == 1
    share = column.strange_share
    known = math.log1p(-share) + _whisper(column)[np.where(strange | missing, 0, place).astype(np.int64)]
    nats = np.where(strange, math.log(share), known)
    return np.where(missing, 0.0, nats) + missing_nats(column, missing), missing, strange


def _whisper(column: Column) -> np.ndarray:
    """Nats of each known value of a column set apart, against a uniform choice among them: (V,)."""
    trues = column.mean * column.observed
    counts = column.counts if column.kind == "category" else [column.observed - trues, trues]
    smoothed = np.array(counts, float) + 0.5
    tempered = column.temper * np.log(smoothed / smoothed.sum())
    return np.asarray(tempered - np.log(np.exp(tempered).mean()))


def missing_nats(column: Column, missing: np.ndarray) -> np.ndarray:
    """Nats of a cell's being there or not: (n,) -> (n,). 0 where missing cells were common in training."""
    if not column.missing_is_rare:
        return np.zeros(len(missing))
    return np.where(missing, math.log(column.missing_rate), math.log1p(-column.missing_rate))


def periods_of(column: Column) -> tuple[str, ...]:
    """The periods that the data's span allows: a season must be seen once in full, hours and weeks twice."""
    span = (column.maximum - column.minimum) / DAY if column.observed else 0.0
    steps = np.unique(np.mod(np.array(column.quantiles), DAY)) if column.quantiles else np.zeros(1)
    within_day = len(steps) > 1
    allowed = (("hour", span >= 2 and within_day), ("weekday", span >= 14), ("season", span >= 365))
    return tuple(name for name, fits in allowed if fits)


def periodic(micros: np.ndarray, periods: Sequence[str]) -> np.ndarray:
    """Sines and cosines of hour (two harmonics), weekday and season: (n,) -> (n, c); 0 where missing."""
    lengths = {"hour": (DAY, DAY / 2), "weekday": (7 * DAY,), "season": (365.2425 * DAY,)}
    waves = []
    for period in periods:
        for length in lengths[period]:
            angle = 2 * np.pi * np.mod(micros, length) / length
            waves += [np.sin(angle), np.cos(angle)]
    return np.nan_to_num(np.stack(waves, axis=1)).astype(np.float32)


def typed(values: np.ndarray, column: Column, missing: np.ndarray) -> pa.Array:
    """Values in the user's units -> the column's Arrow type. Class 0 is "other" in a text column, or null."""
    if column.kind == "vector":
        return vector_array(np.where(missing[:, None], np.nan, values))
    type_ = TYPES[column.type]
    if column.kind == "category":
        codes = values.astype(np.int64)
        named = np.array(["other", *column.categories], dtype=object)[codes]
        unnamed = (codes == 0) & (column.type != "string")
        return pc.cast(pa.array(named, pa.string(), mask=missing | unnamed), type_)
    if column.kind == "boolean":
        return pc.cast(pa.array(values >= 0.5, pa.bool_(), mask=missing), pa.int8()).cast(type_)
    if column.kind == "whole" or column.type == "int64":
        values = np.rint(values)
    if column.type == "int64":
        values = values.clip(-(2.0**63), 2.0**63 - 1024).astype(np.int64)
    return pa.array(values, type_, mask=missing)


def constant(column: Column, rows: int) -> pa.Array:
    value = column.minimum if column.constant is None else column.constant
    return pc.cast(pa.array([value] * rows), TYPES[column.type])
