"""Small made-up tables for tests: every kind of column, dependent on each other, with missing cells."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from vae_core.scoring import FittedModel
from vae_core.training import Settings, fit

KINDS = ("real", "category", "whole", "real", "boolean")


def mixed_table(n: int, columns: int, *, seed: int = 0, missing: float = 0.1) -> pa.Table:
    """A table of reals, categories, whole numbers and booleans in turn, from two shared factors.

    Column names tell the kind: real_0, category_1, whole_2, real_3, boolean_4, real_5, ... The first column
    is complete, of the others a share `missing` of the cells is null.
    """
    generator = np.random.default_rng(seed)
    factors = generator.normal(size=(n, 2))
    weights = np.random.default_rng(columns).normal(size=(columns, 2))  # the same for every seed
    arrays: dict[str, pa.Array] = {}
    for j in range(columns):
        kind = KINDS[j % len(KINDS)]
        signal = factors @ weights[j] + 0.3 * generator.normal(size=n)
        gone = generator.random(n) < (missing if j else 0.0)
        arrays[f"{kind}_{j}"] = _column(kind, signal, gone)
    return pa.table(arrays)


def _column(kind: str, signal: np.ndarray, gone: np.ndarray) -> pa.Array:
    if kind == "category":
        names = np.array(["red", "green", "blue", "black"])
        return pa.array(names[np.digitize(signal, [-1.0, 0.0, 1.0])], mask=gone)
    if kind == "whole":
        return pa.array(np.rint(3 * signal).astype(np.int64), mask=gone)
    if kind == "boolean":
        return pa.array(signal > 0.3, mask=gone)
    return pa.array(5 + 2 * signal, mask=gone)


def trained(table: pa.Table, **settings: object) -> FittedModel:
    """A model of a table after a few steps: for properties that hold however long it was trained."""
    return fit(
        lambda: iter(table.to_batches()), settings=Settings(**({"steps": 16, "members": 2} | settings))
    )  # type: ignore[arg-type]


def changed(table: pa.Table, name: str, values: object) -> pa.Table:
    """The table with other values in one column."""
    array = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)
    return table.set_column(table.schema.get_field_index(name), name, array)
