"""From a block of raw columns to typed records: which are kept, which lie outside, which go to quarantine and
why."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vae_core.sources.blocks import Block, Entry
from vae_core.sources.cells import Cells, Fault, typed
from vae_core.sources.dataset import arrow_schema


@dataclass(frozen=True)
class Table:
    """What the records of a dataset are: column -> type, the key columns, the time column, the interval
    [start, until) in microseconds since 1970 UTC, and the texts that mean a missing cell."""

    columns: dict[str, str]
    ids: tuple[str, ...]
    time: str | None
    start: int | None
    until: int | None
    nulls: pa.Array


@dataclass(frozen=True)
class Records:
    """One block, typed: the records that are kept, the quarantine in the order of the rows, the number
    outside."""

    table: pa.Table
    quarantine: list[Entry]
    outside: int


def typed_records(block: Block, source: str, table: Table) -> Records:
    """Type a block. A record outside the interval counts as outside, whatever else is wrong with it; a broken
    cell or a missing key puts its record into quarantine, once, for its first broken column."""
    cells = {
        name: _column(block.table.column(name), name, kind, table) for name, kind in table.columns.items()
    }
    size = len(block.rows)
    outside = _outside(cells, table, size)
    broken = np.zeros(size, bool)
    entries = list(block.broken)
    for name, column in cells.items():
        for fault in column.faults:
            if not outside[fault.place] and not broken[fault.place]:
                broken[fault.place] = True
                entries.append(Entry(source, int(block.rows[fault.place]), name, fault.reason, fault.raw))
    entries.sort(key=lambda entry: entry.row)
    keep = ~(outside | broken)
    rows = pa.array(block.rows, pa.int64())
    names = pa.repeat(pa.scalar(source, pa.string()), size)
    values = {name: column.values for name, column in cells.items()}
    arrays = [record_ids(values, table.ids, names, rows), names, rows, *values.values()]
    whole = pa.Table.from_arrays(arrays, schema=arrow_schema(table.columns))
    return Records(whole if keep.all() else whole.filter(pa.array(keep)), entries, int(outside.sum()))


def record_ids(
    values: dict[str, pa.Array], ids: tuple[str, ...], names: pa.Array, rows: pa.Array
) -> pa.Array:
    """The key of each record: the values of the key columns joined by `|`, or `file#row` where there are
        none.
     Times are ISO 8601 in UTC; `|` and `\\` inside a value are escaped by `\\`, so that different keys never
    meet.

        >>> values = {"a": pa.array(["x|y", "z"]), "b": pa.array([1, 2])}
        >>> record_ids(values, ("a", "b"), pa.array([]), pa.array([])).to_pylist()
        ['x\\\\|y|1', 'z|2']
    """
    if not ids:
        return pc.binary_join_element_wise(names, rows.cast(pa.string()), "#")
    return pc.binary_join_element_wise(*(_key_text(values[name]) for name in ids), "|")


def _key_text(values: pa.Array) -> pa.Array:
    if pa.types.is_timestamp(values.type):
        text = pc.replace_substring(values.cast(pa.timestamp("us")).cast(pa.string()), " ", "T")
        return pc.binary_join_element_wise(pc.replace_substring_regex(text, r"\.000000$", ""), "Z", "")
    if not pa.types.is_string(values.type):
        return values.cast(pa.string())
    return pc.replace_substring_regex(values, r"([\\|])", r"\\\1")


def _column(raw: pa.Array, name: str, kind: str, table: Table) -> Cells:
    is_id = name in table.ids
    cells = typed(raw, kind, EMPTY_ONLY if is_id else table.nulls)
    needs_value = is_id or (name == table.time and (table.start is not None or table.until is not None))
    if needs_value and cells.values.null_count:
        known = {fault.place for fault in cells.faults}
        reason = "the id is missing" if is_id else "the time is missing"
        absent = np.flatnonzero(pc.is_null(cells.values).to_numpy(zero_copy_only=False))
        missing = [Fault(int(place), reason, "") for place in absent if int(place) not in known]
        return Cells(cells.values, cells.faults + missing)
    return cells


def _outside(cells: dict[str, Cells], table: Table, size: int) -> np.ndarray:
    outside = np.zeros(size, bool)
    if table.time is None or (table.start is None and table.until is None):
        return outside
    ticks = cells[table.time].values.cast(pa.int64())
    if table.start is not None:
        outside |= pc.fill_null(pc.less(ticks, table.start), False).to_numpy(zero_copy_only=False)
    if table.until is not None:
        outside |= pc.fill_null(pc.greater_equal(ticks, table.until), False).to_numpy(zero_copy_only=False)
    return outside


EMPTY_ONLY = pa.array([""])
