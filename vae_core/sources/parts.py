"""Writing a dataset: parts of bounded size in whole row groups, the quarantine, the search for equal keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vae_core.arrow import vector_width
from vae_core.errors import one_line
from vae_core.sources.blocks import Entry
from vae_core.sources.dataset import QUARANTINE, Part, arrow_schema

GROUPS_PER_PART = 16
CELLS_PER_GROUP = 2_097_152
BUCKET = 4_000_000
DUPLICATE = "duplicate id"
QUARANTINE_SCHEMA = pa.schema(
    [
        ("file", pa.string()),
        ("row", pa.int64()),
        ("column", pa.string()),
        ("reason", pa.string()),
        ("raw", pa.string()),
    ]
)


def rows_per_group(cells: int, *, fewest: int = 1024) -> int:
    """Rows of a row group: a power of two from `fewest` to 65,536, fewer for wide records, so that memory is
    bounded. `cells` is the number of columns, or of an image's values.

    >>> rows_per_group(10), rows_per_group(1500)
    (65536, 1024)
    """
    rows = 65_536
    while rows > fewest and rows * cells > CELLS_PER_GROUP:
        rows //= 2
    return rows


class PartWriter:
    """Writes tables as `part-00000.parquet`, ...: the same rows give the same bytes, however they arrive."""

    def __init__(self, folder: Path, columns: dict[str, str], *, cells: int | None = None) -> None:
        self.folder = folder
        self.schema = arrow_schema(columns)
        numbers = sum(vector_width(kind) or 1 for kind in columns.values())
        self.rows_per_group = rows_per_group(cells, fewest=16) if cells else rows_per_group(numbers)
        self.repeated = ["_source", *(name for name, kind in columns.items() if kind == "string")]
        self.names: list[str] = []
        self._counts: list[int] = []
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0

    def add(self, table: pa.Table) -> None:
        """Append rows; whole row groups are written at once."""
        self._waiting.append(table)
        self._waiting_rows += table.num_rows
        if self._waiting_rows >= self.rows_per_group:
            waiting = pa.concat_tables(self._waiting)
            full = self._waiting_rows - self._waiting_rows % self.rows_per_group
            for first in range(0, full, self.rows_per_group):
                self._write(waiting.slice(first, self.rows_per_group))
            self._waiting, self._waiting_rows = [waiting.slice(full)], self._waiting_rows - full

    def close(self) -> list[Part]:
        """Write what is left; the parts in order."""
        if self._waiting_rows:
            self._write(pa.concat_tables(self._waiting))
        self._waiting, self._waiting_rows = [], 0
        self._finish()
        return [
            Part(name, rows, (self.folder / name).stat().st_size)
            for name, rows in zip(self.names, self._counts, strict=True)
        ]

    def abandon(self) -> None:
        """Close the open file after an error; the folder is thrown away."""
        self._finish()

    def _write(self, table: pa.Table) -> None:
        if self._writer is None:
            self.names.append(f"part-{len(self.names):05d}.parquet")
            self._counts.append(0)
            self._writer = pq.ParquetWriter(
                self.folder / self.names[-1],
                self.schema,
                use_dictionary=self.repeated,  # full-precision numbers are smaller and faster plain
                write_page_checksum=True,
            )
        self._writer.write_table(table.combine_chunks(), row_group_size=self.rows_per_group)
        self._counts[-1] += table.num_rows
        if self._counts[-1] >= GROUPS_PER_PART * self.rows_per_group:
            self._finish()

    def _finish(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close()


class QuarantineWriter:
    """Writes `quarantine.parquet`: one line for each quarantined record, in the order of discovery."""

    def __init__(self, folder: Path) -> None:
        self.count = 0
        self.examples: dict[str | None, tuple[int, str]] = {}  # column -> (how many, the first reason)
        self._waiting: list[Entry] = []
        self._writer = pq.ParquetWriter(folder / QUARANTINE, QUARANTINE_SCHEMA, write_page_checksum=True)

    def __enter__(self) -> QuarantineWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._flush()
        finally:
            self._writer.close()

    def add(self, entries: list[Entry]) -> None:
        """Append lines."""
        self.count += len(entries)
        for entry in entries:
            many, example = self.examples.get(entry.column, (0, entry.reason))
            self.examples[entry.column] = (many + 1, example)
        self._waiting += entries
        if len(self._waiting) >= 10_000:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            columns = [list(column) for column in zip(*self._waiting, strict=True)]
            arrays = [
                pa.array(column, field.type) for column, field in zip(columns, QUARANTINE_SCHEMA, strict=True)
            ]
            self._writer.write_table(pa.Table.from_arrays(arrays, schema=QUARANTINE_SCHEMA))
            self._waiting = []


class Keys:
    """Finds repeated keys exactly, with 8 bytes of disk and no memory for each row.

    A 64-bit hash of each key goes to a file. Afterwards the few hashes that occur twice are found bucket by
    bucket, and only the rows that have one are compared by their keys, so that a collision of hashes never
    costs a record.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("wb")

    def add(self, keys: pa.Array | pa.ChunkedArray) -> None:
        """Note the keys of the next rows."""
        self._file.write(np.fromiter(map(hash, keys.to_pylist()), np.int64, len(keys)).tobytes())

    def close(self) -> None:
        """Stop writing and remove the file."""
        self._file.close()
        self.path.unlink(missing_ok=True)

    def later_copies(self, folder: Path, names: list[str], *, bucket: int = BUCKET) -> np.ndarray:
        """The ordinals (0-based, ascending) of the rows whose key an earlier row has."""
        self._file.flush()
        if not self.path.stat().st_size:
            return np.empty(0, np.int64)
        hashes = np.memmap(self.path, np.int64, "r")
        repeated = _repeated(hashes, bucket)
        doomed: list[int] = []
        seen: set[str] = set()
        for first, table in _tables(folder, names, ["_record_id"]) if len(repeated) else ():
            suspects = np.flatnonzero(np.isin(hashes[first : first + table.num_rows], repeated))
            keys = table.column(0).take(pa.array(suspects)).to_pylist()
            for place, key in zip(suspects, keys, strict=True):
                if key in seen:
                    doomed.append(first + int(place))
                seen.add(key)
        return np.array(doomed, np.int64)


def without(
    folder: Path, columns: dict[str, str], names: list[str], doomed: np.ndarray, *, cells: int | None = None
) -> tuple[list[Part], list[Entry]]:
    """Write the parts again without the rows at these ordinals: the new parts, and lines of quarantine."""
    for name in names:
        (folder / name).rename(folder / f"first-{name}")
    first_names = [f"first-{name}" for name in names]
    writer, entries = PartWriter(folder, columns, cells=cells), []
    for first, table in _tables(folder, first_names, None):
        here = doomed[(doomed >= first) & (doomed < first + table.num_rows)] - first
        keep = np.ones(table.num_rows, bool)
        keep[here] = False
        writer.add(table.filter(pa.array(keep)))
        gone = table.select(["_source", "_row", "_record_id"]).take(pa.array(here)).to_pylist()
        entries += [
            Entry(row["_source"], row["_row"], None, DUPLICATE, row["_record_id"][:200]) for row in gone
        ]
    parts = writer.close()
    for name in first_names:
        (folder / name).unlink()
    return parts, entries


def no_key(ids: Sequence[str], rows: int, copies: int) -> tuple[str, ...]:
    """A warning where most of the rows that were read have a key that an earlier one has.

    >>> no_key(["kind"], 744, 741)
    ('column "kind" repeats: 3 distinct values in 744 rows make no key, and 741 rows are in quarantine as
    duplicates. Name a column that tells rows apart by --id, add further ones, or leave --id out.',)
    >>> no_key(["origin", "hour"], 744, 9)
    ()
    """
    if copies <= rows / 2:
        return ()
    named = ", ".join(f'"{one_line(name)}"' for name in ids)
    repeats = f"columns {named} repeat together" if len(ids) > 1 else f"column {named} repeats"
    values = "1 distinct value" if rows - copies == 1 else f"{rows - copies:,} distinct values"
    return (
        f"{repeats}: {values} in {rows:,} rows make no key, and {copies:,} rows are in quarantine as "
        "duplicates. Name a column that tells rows apart by --id, add further ones, or leave --id out.",
    )


def _repeated(hashes: np.ndarray, bucket: int) -> np.ndarray:
    """The values that occur more than once, ascending; at most about `bucket` values in memory at a time."""
    buckets = len(hashes) // bucket + 1
    found: list[np.ndarray] = []
    for number in range(buckets):
        pieces = (hashes[first : first + bucket] for first in range(0, len(hashes), bucket))
        chunk = np.sort(np.concatenate([piece[piece % buckets == number] for piece in pieces]))
        found.append(np.unique(chunk[1:][chunk[1:] == chunk[:-1]]))
    return np.sort(np.concatenate(found))


def _tables(folder: Path, names: list[str], columns: list[str] | None) -> Iterator[tuple[int, pa.Table]]:
    first = 0
    for name in names:
        with pq.ParquetFile(folder / name) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=columns, use_threads=False)
                yield first, table
                first += table.num_rows
