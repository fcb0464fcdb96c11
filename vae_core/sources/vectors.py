"""Columns of vectors (a network's features): lists of real numbers, all of one length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vae_core.arrow import vector_array

__all__ = ["are_vectors", "most_common_length", "vector_cells"]


def are_vectors(kind: pa.DataType) -> bool:
    """Whether a column of this Arrow type holds lists of real numbers.

    >>> are_vectors(pa.list_(pa.float16())), are_vectors(pa.list_(pa.int8()))
    (True, False)
    """
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return lists and pa.types.is_floating(kind.value_type)


def most_common_length(arrays: Iterable[pa.Array]) -> int:
    """The length that most of the lists have, of several such the smallest; 0 if there are none.

    >>> most_common_length([pa.array([[1.0, 2.0], None, [3.0]]), pa.array([[4.0, 5.0]])])
    2
    """
    counts: Counter[int] = Counter()
    for array in arrays:
        counts.update(pc.list_value_length(array).drop_null().to_pylist())
    counts.pop(0, None)
    return min(counts, key=lambda length: (-counts[length], length), default=0)


def vector_cells(values: pa.Array, width: int) -> tuple[pa.Array, list[tuple[int, str, str]]]:
    """A column of lists as vectors of float32, NaN throughout where one is missing or a fault.

    A list of NaN only is a missing one. A fault is a list of another length, or one with a number that is
    missing or not finite (as float32): its place, the reason, and what was found.
    """
    n = len(values)
    lengths = pc.fill_null(pc.list_value_length(values), -1).to_numpy(zero_copy_only=False)
    if pa.types.is_fixed_size_list(values.type):
        size = values.type.list_size
        inside = values.values.slice(values.offset * size, n * size)
        starts = np.arange(n, dtype=np.int64) * size
    else:
        inside = values.values
        starts = values.offsets.to_numpy()[:n].astype(np.int64)
    with np.errstate(over="ignore"):
        plain = inside.to_numpy(zero_copy_only=False).astype(np.float32)
    found = np.zeros((n, width), np.float32)
    fits = np.flatnonzero(lengths == width)
    found[fits] = plain[starts[fits][:, None] + np.arange(width)]
    good = np.zeros(n, bool)
    good[fits] = np.isfinite(found[fits]).all(1) | np.isnan(found[fits]).all(1)
    faults = []
    for place in np.flatnonzero(~good & (lengths >= 0)):
        length = int(lengths[place])
        if length != width:
            told = f"{length} number" if length == 1 else f"{length} numbers"
            faults.append((int(place), f"the vector has {told}, not {width}", told))
            continue
        at = int(np.flatnonzero(~np.isfinite(found[place]))[0])
        raw = inside[int(starts[place]) + at].as_py()
        text = "missing" if raw is None or raw != raw else "not finite"
        faults.append((int(place), f"number {at + 1} of the vector is {text}", str(raw)))
    found[~good] = np.nan
    return vector_array(found), faults
