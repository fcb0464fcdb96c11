"""Arrow columns as numbers, texts and vectors, and the names of the types that columns have after ingest."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = [
    "TYPES",
    "UNREADABLE",
    "arrow_type",
    "numbers",
    "texts",
    "type_name",
    "vector_array",
    "vector_type",
    "vector_width",
    "vectors",
    "without_vector",
]

# What pyarrow raises for damaged Parquet files; the last for a column's name that is not UTF-8.
UNREADABLE = (OSError, pa.ArrowException, UnicodeDecodeError)

TYPES: dict[str, pa.DataType] = {
    "double": pa.float64(),
    "int64": pa.int64(),
    "bool": pa.bool_(),
    "string": pa.string(),
    "timestamp": pa.timestamp("us", "UTC"),
}
VECTOR = re.compile(r"vector\[([1-9]\d{0,8})\]")


def vector_type(width: int) -> str:
    """The name of the type of vectors of this many numbers: "vector[512]"."""
    return f"vector[{width}]"


def vector_width(name: str) -> int:
    """How many numbers each vector of a type has; 0 for any other type's name.

    >>> vector_width("vector[512]"), vector_width("double")
    (512, 0)
    """
    found = VECTOR.fullmatch(name)
    return int(found[1]) if found else 0


def arrow_type(name: str) -> pa.DataType:
    """The Arrow type of a column with this type; vectors hold float32. Raises KeyError for any other name."""
    width = vector_width(name)
    return pa.list_(pa.float32(), width) if width else TYPES[name]


def type_name(type_: pa.DataType) -> str:
    """The name of one of the types that columns have after ingest; raises TypeError for any other."""
    if pa.types.is_floating(type_):
        return "double"
    if pa.types.is_integer(type_):
        return "int64"
    if pa.types.is_boolean(type_):
        return "bool"
    if pa.types.is_timestamp(type_):
        return "timestamp"
    textual = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_string_view,
        pa.types.is_dictionary,
        pa.types.is_null,
    )
    if any(test(type_) for test in textual):
        return "string"
    if pa.types.is_fixed_size_list(type_) and pa.types.is_floating(type_.value_type) and type_.list_size:
        return vector_type(type_.list_size)
    raise TypeError(f"{type_} is not one of double, int64, bool, string, timestamp, vector")


def numbers(array: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """A column as float64, NaN where missing: booleans 0 and 1, timestamps microseconds since 1970 (UTC).

    Not to be written to: it may be the column's own memory.
    """
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if pa.types.is_timestamp(array.type):
        array = pc.cast(pc.cast(array, pa.timestamp("us", array.type.tz), safe=False), pa.int64())
    if pa.types.is_boolean(array.type):
        array = pc.cast(array, pa.int8())
    if not array.null_count:
        return array.to_numpy(zero_copy_only=False).astype(np.float64, copy=False)  # a view, for doubles
    missing = np.asarray(pc.is_null(array).to_numpy(zero_copy_only=False))
    values = pc.fill_null(array, 0).to_numpy(zero_copy_only=False).astype(np.float64)
    values[missing] = np.nan
    return values


def texts(array: pa.Array | pa.ChunkedArray) -> pa.Array:
    """A column as strings, for columns that are used as categories whatever their type."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    return pc.cast(array, pa.string())


def vectors(array: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """A column of vectors as float32 (n, d), NaN throughout where the vector is missing.

    Datasets hold NaN for it, not null: pyarrow 25 cannot read a null fixed-size list back from Parquet.
    """
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    width, n = array.type.list_size, len(array)
    own = array.values.slice(array.offset * width, n * width)  # `values` knows nothing of the slice
    found = own.to_numpy(zero_copy_only=False).reshape(n, width).astype(np.float32, copy=False)
    if not array.null_count:
        return found
    missing = np.asarray(pc.is_null(array).to_numpy(zero_copy_only=False))
    return np.where(missing[:, None], np.float32(np.nan), found)


def vector_array(values: np.ndarray) -> pa.Array:
    """Vectors (n, d) as a column of float32, a missing one NaN throughout."""
    flat = pa.array(values.astype(np.float32, copy=False).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def without_vector(array: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Which cells of a column of vectors are missing: (n,) bool."""
    return np.isnan(vectors(array)).all(1)
