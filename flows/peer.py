"""A generative peer: CTGAN's tabular VAE (TVAE, Xu et al. 2019; extra `bench`), fitted to the same data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from vae_core.arrow import numbers, texts
from vae_core.columns import Column
from vae_core.encoding import TableEncoding
from vae_core.errors import InputError

__all__ = ["tvae", "tvae_sample"]

MOST_ROWS, FEWEST_ROWS = 5_000, 100  # that the peer is fitted to: a minute of its training
KNOWN = ("real", "whole", "boolean", "category")


def tvae() -> Any:
    """CTGAN's class. Raises InputError where it is not installed."""
    try:
        from ctgan import TVAE
    except ImportError as problem:
        fix = "Install it with pip install 'elborank[bench]', or leave out --peer"
        raise InputError("a TVAE is in the package ctgan, which is not there", fix=fix) from problem
    return TVAE


def tvae_sample(encoding: TableEncoding, table: pa.Table, n: int, *, seed: int) -> pa.Table | None:
    """n records of a TVAE with its own settings, in the user's units and types; None: it cannot learn these.

    It is fitted to at most 5,000 random records without a missing cell. Raises InputError as `tvae` does.
    """
    columns = [column for column in encoding.described if column.modelled]
    if any(column.kind not in KNOWN for column in columns):
        return None
    frame = pd.DataFrame({column.name: _learnt(column, table) for column in columns}).dropna()
    if len(frame) < FEWEST_ROWS:
        return None
    frame = frame.sample(min(len(frame), MOST_ROWS), random_state=seed)
    discrete = [column.name for column in columns if column.kind in ("boolean", "category")]
    peer = tvae()(enable_gpu=False)
    peer.set_random_state(seed)
    peer.fit(frame, discrete)
    made = peer.sample(n)
    return pa.table({column.name: _told(column, made[column.name], table) for column in columns})


def _learnt(column: Column, table: pa.Table) -> np.ndarray:
    if column.kind == "category":
        return np.array(texts(table[column.name]).to_pylist(), dtype=object)
    values = numbers(table[column.name])
    if column.kind == "boolean":
        return np.where(np.isnan(values), None, np.where(values == 1, "true", "false")).astype(object)
    return values


def _told(column: Column, made: pd.Series, table: pa.Table) -> pa.Array:
    """As the table has it; a category as text, which the encoding takes for the user's own type."""
    if column.kind == "category":
        return pa.array(made.astype(str).tolist(), pa.string())
    if column.kind == "boolean":
        return pa.array([value == "true" for value in made], pa.bool_())
    values = made.to_numpy(dtype=np.float64)
    return pa.array(np.rint(values) if column.kind == "whole" else values, pa.float64())
