"""pandas frames as Arrow tables of the column types, and tables with the types that training had."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pandas.api.types import is_bool_dtype, is_datetime64_any_dtype, is_float_dtype, is_numeric_dtype

from vae_core.arrow import arrow_type, texts, type_name, vector_width
from vae_core.scoring import FittedModel
from vae_core.sources.blocks import OF_REPORTS
from vae_core.sources.cells import BEYOND
from vae_core.sources.inference import SHARE
from vae_core.sources.vectors import are_vectors, most_common_length, vector_cells

__all__ = [
    "as_frame", "as_table", "by_name", "category_texts", "check_names", "declared_categories",
    "like_training", "whole_number", "with_dtypes",
]  # fmt: skip


def as_frame(X: Any) -> Any:
    """Another library's table (Arrow's, polars') as a DataFrame; anything else as it is."""
    if isinstance(X, pd.DataFrame | np.ndarray) or not callable(getattr(X, "to_pandas", None)):
        return X
    return X.to_pandas()


def as_table(frame: pd.DataFrame) -> pa.Table:
    """A DataFrame as an Arrow table of the six column types.

    Raises ValueError for infinite values, names that repeat or that explanations use, or other types.
    """
    names = [str(name) for name in frame.columns]
    if len(set(names)) != len(names):
        raise ValueError(f"column names repeat: {sorted({name for name in names if names.count(name) > 1})}")
    if taken := sorted(set(names) & set(OF_REPORTS)):
        raise ValueError(f"column {taken[0]!r}: explanations use this name themselves; rename the column")
    arrays = {name: _as_array(frame.iloc[:, position], name) for position, name in enumerate(names)}
    return pa.table(arrays)


def _as_array(series: pd.Series, name: str) -> pa.Array:
    categorical = isinstance(series.dtype, pd.CategoricalDtype)
    if isinstance(series.dtype, pd.CategoricalDtype):
        # Real categories as numbers, a missing one NaN: 2.0 is the category 2 that whole numbers have.
        plain = series.dtype.categories.dtype
        series = series.astype(plain if plain.kind == "f" else object)
    if isinstance(series.dtype, pd.DatetimeTZDtype):
        series = series.dt.tz_convert(None)  # to UTC
    try:
        array = pa.Array.from_pandas(series)
        array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
        if pa.types.is_decimal(array.type):
            array = pc.cast(array, pa.float64())
        elif pa.types.is_date(array.type):
            array = pc.cast(array, pa.timestamp("us"))
        elif pa.types.is_uint64(array.type):
            array = _unsigned(array)
        if not are_vectors(array.type):
            exact = not pa.types.is_timestamp(array.type)  # finer than a microsecond is rounded off
            array = pc.cast(array, arrow_type(type_name(array.type)), safe=exact)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        array = _as_text(series, name, error)
    if categorical and not (pa.types.is_integer(array.type) or pa.types.is_boolean(array.type)):
        return texts(array)
    if are_vectors(array.type):
        return _as_vectors(array, name)
    if pa.types.is_floating(array.type) and pc.any(pc.is_inf(array)).as_py():
        raise ValueError(f"Input X contains infinity in column {name!r}: drop those records or mend them.")
    return array


def _unsigned(array: pa.Array) -> pa.Array:
    """Whole numbers without a sign; text where more than a few are beyond int64, as of a file: they are ids.

    Raises ValueError where it is a few.
    """
    beyond = pc.fill_null(pc.greater(array, pa.scalar(2**63 - 1, pa.uint64())), False)
    count = pc.sum(beyond).as_py() or 0
    if count > (1 - SHARE) * (len(array) - array.null_count):
        return texts(array)
    if count:
        row = pc.index(beyond, True).as_py()
        raise ValueError(f"row {row}: {array[row]} {BEYOND}; drop this record, or make the column text")
    return array


def _as_vectors(array: pa.Array, name: str) -> pa.Array:
    """Lists or arrays of real numbers, all of one length. Raises ValueError naming the first that differs."""
    vectors, faults = vector_cells(array, max(1, most_common_length([array])))
    if faults:
        row, reason, _ = faults[0]
        raise ValueError(f"column {name!r}, row {row}: {reason}")
    return vectors


def _as_text(series: pd.Series, name: str, error: Exception) -> pa.Array:
    """Mixed values of an object column as text; anything that is no scalar is refused."""
    compound = (list, dict, set, np.ndarray, complex)
    if series.dtype == object and not series.map(lambda value: isinstance(value, compound)).any():
        return pa.array([None if pd.isna(value) else str(value) for value in series], pa.string())
    raise ValueError(f"column {name!r} of type {series.dtype} cannot be used: {error}") from error


def declared_categories(X: Any) -> dict[str, str]:
    """The columns of a DataFrame that its user has made categorical, whatever their values look like."""
    if not isinstance(X, pd.DataFrame):
        return {}
    return {str(n): "category" for n, dtype in X.dtypes.items() if isinstance(dtype, pd.CategoricalDtype)}


def category_texts(dtype: pd.CategoricalDtype) -> dict[str, Any]:
    """The categories of a dtype by the texts that the model knows them by."""
    own = pd.Series(pd.Categorical(dtype.categories, dtype=dtype))
    return dict(zip(texts(_as_array(own, "categories")).to_pylist(), dtype.categories, strict=True))


def by_name(kinds: Any) -> dict[str, str]:
    """Kinds by the columns' names as the model has them: 0 and ("a", 1) are their text. Raises ValueError."""
    if kinds is None:
        return {}
    if not isinstance(kinds, Mapping):
        raise ValueError(f"kinds is a mapping of column name to kind; got {kinds!r}")
    return {str(name): kind for name, kind in kinds.items()}


def check_names(X: pd.DataFrame, model: FittedModel) -> None:
    """Raise ValueError where a frame's columns are not training's, in training's order.

    scikit-learn has counted them, and compares names where all are texts; years, or pairs of a MultiIndex, it
    takes by position.
    """
    for place, (found, trained) in enumerate(zip(map(str, X.columns), model.encoding.columns, strict=True)):
        if found != trained:
            raise ValueError(
                "The feature names should match those that were passed during fit, in their order: "
                f"column {place} is {found!r}, was {trained!r}"
            )


def whole_number(name: str, given: Any, *, least: int) -> int:
    """An argument that counts something.

    >>> whole_number("top", 2.5, least=1)
    Traceback (most recent call last):
    ValueError: top is a whole number of at least 1; got 2.5
    """
    if isinstance(given, (bool, np.bool_)) or not isinstance(given, (int, np.integer)) or given < least:
        raise ValueError(f"{name} is a whole number of at least {least}; got {given!r}")
    return int(given)


def like_training(table: pa.Table, model: FittedModel) -> pa.Table:
    """Whole numbers where training had fractions, and the like, cast as long as nothing is lost."""
    for index, name in enumerate(table.column_names):
        wanted, column = model.encoding.columns.get(name), table.column(name)
        found = type_name(column.type)
        if wanted is None or found == wanted:
            continue
        if vector_width(wanted) or vector_width(found):
            raise ValueError(f"column {name!r} was {wanted} in training, is {found} now")
        try:
            if wanted == "bool" and model.encoding.kinds[name] == "category" and found in ("int64", "double"):
                places = pc.index_in(pc.cast(column, pa.float64()), pa.array([0.0, 1.0]))
                named = pc.take(pa.array(["false", "true"]), places)
                column = pc.coalesce(named, pc.cast(column, pa.string()))
            elif wanted == "bool" and found in ("int64", "double"):
                column = pc.cast(column, pa.float64())  # 7 is neither true nor false, and is counted as such
            elif wanted == "int64" and found == "double":
                column = _whole_if_possible(column)
            else:
                column = pc.cast(column, arrow_type(wanted))
        except pa.ArrowException as error:
            raise ValueError(f"column {name!r} was {wanted} in training, is {found} now: {error}") from error
        table = table.set_column(index, name, column)
    return table


def with_dtypes(drawn: pd.DataFrame, table: pa.Table, dtypes: Mapping[Any, Any]) -> pd.DataFrame:
    """Generated records (`table`, and the same as a frame) with the types of training's frame.

    A column some of whose values do not fit, 130 in an int8, keeps the wide type that it was drawn in.
    """
    drawn = drawn.rename(columns={str(name): name for name in dtypes})
    for name, dtype in ((n, d) for n, d in dtypes.items() if n in drawn):
        if isinstance(dtype, pd.CategoricalDtype):
            known, own = category_texts(dtype), texts(table[str(name)]).to_pylist()
            drawn[name] = pd.Categorical([known.get(text) for text in own], dtype=dtype)
        elif is_datetime64_any_dtype(dtype):
            drawn[name] = _as_times(drawn[name], dtype)
        elif isinstance(dtype, pd.StringDtype):
            drawn[name] = drawn[name].astype(dtype)
        elif is_numeric_dtype(dtype) or is_bool_dtype(dtype):
            drawn[name] = _narrowed(drawn[name], dtype)
    return drawn


def _as_times(column: pd.Series, dtype: Any) -> pd.Series:
    """Times of UTC in this type's zone (without one they were taken for UTC), in its unit where all fit."""
    zone = getattr(getattr(dtype, "pyarrow_dtype", dtype), "tz", None)
    there = column.dt.tz_localize(None) if zone is None else column.dt.tz_convert(zone)
    try:
        exact = there.astype(dtype)
    except ValueError:  # a unit too fine for its years, NumPy's and Arrow's: training's own fitted
        return there
    return exact if ((exact == there) | there.isna()).all() else there


def _narrowed(column: pd.Series, dtype: Any) -> pd.Series:
    """The column in this type where its values fit: real numbers are rounded, all others stay equal."""
    try:
        with np.errstate(over="ignore"):
            narrow = column.astype(dtype)
    except (TypeError, ValueError, OverflowError):
        return column
    if is_float_dtype(dtype):
        fits = np.isfinite(narrow.to_numpy(dtype=np.float64))
    else:
        fits = (narrow.astype(column.dtype) == column).to_numpy(dtype=bool)
    return narrow if fits.all() else column


def _whole_if_possible(column: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        return pc.cast(column, pa.int64())
    except pa.ArrowInvalid:
        return column
