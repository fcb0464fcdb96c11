"""The first records of a unit, as they were read: for their reasons the unit need not be read again."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

from vae_core import publishing

__all__ = ["first_rows_file", "how_many", "keep", "kept"]

SHARE = 32  # one record in so many is kept: of half a million records or more, most that get reasons


def how_many(rows: int) -> int:
    """So many of a unit's records are kept."""
    return rows // SHARE


def first_rows_file(scored: Path) -> Path:
    """Where a unit's first records lie: beside its scores."""
    return scored.with_suffix(".first.arrow")


def keep(table: pa.Table, order: pa.ChunkedArray, path: Path) -> str | None:
    """Write the first records of a unit's table, by the `order` of its rows; their SHA-256.

    None where none are kept: of fewer than SHARE records, or where they cannot be written: a job can do
    without.
    """
    first = table.take(order.slice(0, how_many(table.num_rows)))
    if not first.num_rows:
        return None
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, first.schema) as writer:
        writer.write_table(first)
    content = sink.getvalue()
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        temporary.write_bytes(content)
        publishing.commit(temporary, path, flushed=False)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        return None
    return hashlib.sha256(content).hexdigest()


def kept(path: Path, digest: str) -> pa.Table | None:
    """The first records of a unit, in its order; None where they are not what was written."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(content).hexdigest() != digest:
        return None
    return pa.ipc.open_file(content).read_all()
