"""The first records of a unit, as they were read: for their reasons the unit need not be read again."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pyarrow as pa

from vae_core import publishing

__all__ = ["first_rows_file", "keep", "kept"]

SHARE = 32  # one record in so many is kept: of half a million records or more, most that get reasons


def first_rows_file(scored: Path) -> Path:
    """Where a unit's first records lie: beside its scores."""
    return scored.with_suffix(".first.arrow")


def keep(table: pa.Table, order: pa.ChunkedArray, path: Path) -> str | None:
    """Write the first records of a unit's table, by the `order` of its rows; their SHA-256, None for none."""
    first = table.take(order.slice(0, table.num_rows // SHARE))
    if not first.num_rows:
        return None
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, first.schema) as writer:
        writer.write_table(first)
    content = sink.getvalue()
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    temporary.write_bytes(content)
    publishing.commit(temporary, path, flushed=False)
    return hashlib.sha256(content).hexdigest()


def kept(path: Path, digest: str) -> pa.Table | None:
    """The first records of a unit, in its order; None where they are not what was written."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    if hashlib.sha256(content).hexdigest() != digest:
        return None
    return pa.ipc.open_file(content).read_all()
