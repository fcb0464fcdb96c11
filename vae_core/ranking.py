"""Exact ranking of more records than fit in memory: a merge of sorted files, and q-values through files.

The ranking is found from a few columns, as the number of the file that each record comes from: all files are
sorted, so the records themselves can then be read in their order, and need not be written a second time.

The order is that of the report: `anomaly_score` from high to low, then `record_id` (by its UTF-8 bytes),
`source` and `row`. No two records share all four, so that the order is total, and the ranking one and the
same however the records were cut into files. Scores of -0.0 and 0.0 are equal.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

__all__ = [
    "FILE", "KEYS", "MERGED_ROWS", "Stream", "ahead", "grouped", "interleave", "merge", "sort_key",
    "sort_records", "up_to", "write_q_values",
]  # fmt: skip

ORDER = [
    ("anomaly_score", "descending"),
    ("record_id", "ascending"),
    ("source", "ascending"),
    ("row", "ascending"),
]
KEYS = [name for name, _ in ORDER]
FILE = "_file"  # in a merge: the number of the file that a record comes from, uint8
FILES_AT_ONCE = 64  # more are first merged in groups: open files and their footers stay few
MERGED_ROWS = 8192  # in a row group of a file that will be merged: so much of each file is held

T = TypeVar("T")
Key = tuple[float, str, str, int]


def sort_records(table: pa.Table) -> pa.Table:
    """The table in the order of the report, with -0.0 written as 0.0."""
    scores = pc.add(table["anomaly_score"], 0.0)
    table = table.set_column(table.schema.get_field_index("anomaly_score"), "anomaly_score", scores)
    return table.take(pc.sort_indices(table, sort_keys=ORDER))


def sort_key(table: pa.Table, row: int) -> Key:
    """The place of one row: smaller = ranked earlier. (Python compares text by code point, as UTF-8 does.)"""
    score, record_id, source, number = (table[name][row].as_py() for name, _ in ORDER)
    return -score, record_id, source, number


def up_to(table: pa.Table, bound: Key) -> int:
    """How many rows of a sorted table are ranked at or before `bound`."""
    falling = -table["anomaly_score"].to_numpy()
    first = int(np.searchsorted(falling, bound[0], side="left"))
    last = int(np.searchsorted(falling, bound[0], side="right"))
    return first + bisect_right(range(first, last), bound, key=lambda row: sort_key(table, row))


class _SortedFile:
    """A Parquet file in the order of the report, read by row groups."""

    def __init__(self, path: Path, columns: Sequence[str] | None, number: int) -> None:
        self._path, self._number = path, number
        self._chunks = _row_groups(path, columns)
        self.chunk: pa.Table | None = None
        self.last: Key = (-np.inf, "", "", 0)

    def fill(self) -> bool:
        """Have rows at hand; False at the end of the file."""
        while self.chunk is None or self.chunk.num_rows == 0:
            self.chunk = next(self._chunks, None)
            if self.chunk is None:
                return False
            if self.chunk.num_rows:
                self._check_order(self.chunk)
                self.last = sort_key(self.chunk, self.chunk.num_rows - 1)
                number = np.full(self.chunk.num_rows, self._number, np.uint8)
                self.chunk = self.chunk.append_column(FILE, pa.array(number))
        return True

    def take(self, bound: Key) -> pa.Table:
        """The rows at hand that are ranked at or before `bound`."""
        assert self.chunk is not None
        count = up_to(self.chunk, bound)
        taken, self.chunk = self.chunk.slice(0, count), self.chunk.slice(count)
        return taken

    def _check_order(self, chunk: pa.Table) -> None:
        """A merge of unsorted files would be silently wrong; NaN has no place in any order."""
        scores = chunk["anomaly_score"].to_numpy()
        in_order = bool(np.isfinite(scores).all()) and bool((np.diff(scores) <= 0).all())
        if not in_order or self.last > sort_key(chunk, 0):
            raise ValueError(
                f"{self._path} is not in the order of the report, or holds a score that is no number"
            )


def _row_groups(path: Path, columns: Sequence[str] | None) -> Iterator[pa.Table]:
    """One after the other; between them only the footer is held (`iter_batches` would hold decoders)."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, columns=columns, use_threads=False)


def grouped(files: Sequence[Path], scratch: Path) -> list[Path]:
    """Sorted files of the same rows, so few that all can be open: many are merged into some in `scratch`.

    The folder is made; it must be these files' own, since the merged ones stay.
    """
    if len(files) > FILES_AT_ONCE:
        scratch.mkdir(parents=True, exist_ok=True)
    level = 0
    while len(files) > FILES_AT_ONCE:
        groups = [files[start : start + FILES_AT_ONCE] for start in range(0, len(files), FILES_AT_ONCE)]
        files = [
            _merge_into(scratch / f"merged-{level}-{n}.parquet", group) for n, group in enumerate(groups)
        ]
        level += 1
    return list(files)


def merge(files: Sequence[Path], columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The rows of a few files in the order of the report, in tables of any size, in flat memory.

    Each file is in that order within itself. At every step the first of the chunks' last rows is a bound up
    to which nothing can be missing: what lies before it in any chunk is sorted and handed out. Equal scores
    are no special case, since the other keys decide. The column FILE tells which file a row comes from; of
    the others only `columns` are read, with KEYS among them.
    """
    sorted_files = [_SortedFile(path, columns, number) for number, path in enumerate(files)]
    open_files = [file for file in sorted_files if file.fill()]
    while open_files:
        bound = min(file.last for file in open_files)
        pieces = [file.take(bound) for file in open_files]
        yield sort_records(pa.concat_tables(pieces))
        open_files = [file for file in open_files if file.fill()]


def _merge_into(path: Path, files: Sequence[Path]) -> Path:
    with pq.ParquetWriter(path, pq.read_schema(files[0]), write_page_checksum=True) as writer:
        stream = Stream(merge(files))
        for table in stream.pieces(MERGED_ROWS):
            writer.write_table(table.drop_columns([FILE]))
    return path


def interleave(files: Sequence[Path], order: Iterable[np.ndarray], columns: list[str]) -> Iterator[pa.Table]:
    """Records in the order that `merge` found: for each piece of its FILE column a table of as many rows."""
    streams = [Stream(_row_groups(path, columns)) for path in files]
    for numbers_of_files in order:
        counts = np.bincount(numbers_of_files, minlength=len(files))
        pieces = [stream.take(int(n)) for stream, n in zip(streams, counts, strict=True) if n]
        together = pa.concat_tables(pieces)
        if together.num_rows != len(numbers_of_files):
            raise RuntimeError(f"files in {files[0].parent} have lost rows")
        place = np.empty(len(numbers_of_files), np.int64)
        place[np.argsort(numbers_of_files, kind="stable")] = np.arange(len(place))
        yield together.take(pa.array(place))


def ahead(items: Iterable[T]) -> Iterator[T]:
    """The same items, each made by a thread while the one before it is in use: reading beside writing."""
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, iterator, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, iterator, end)
            yield item  # type: ignore[misc]


class Stream:
    """Tables of any size, taken in pieces of the size that is asked for."""

    def __init__(self, tables: Iterable[pa.Table]) -> None:
        self._tables = iter(tables)
        self._rest: list[pa.Table] = []
        self._rows = 0

    def take(self, rows: int) -> pa.Table:
        """The next `rows` rows in one piece; fewer at the end, then none (no schema, if none ever came)."""
        while self._rows < rows and (table := next(self._tables, None)) is not None:
            self._rest.append(table)
            self._rows += table.num_rows
        if not self._rest:
            return pa.table({})
        everything = pa.concat_tables(self._rest)
        taken, rest = everything.slice(0, rows), everything.slice(rows)
        self._rest, self._rows = [rest], rest.num_rows
        # One chunk a column: where Parquet's pages end depends on chunks, and the bytes must not.
        return taken.combine_chunks()

    def pieces(self, rows: int) -> Iterator[pa.Table]:
        """All that is left, in tables of `rows` rows and a last one of fewer."""
        while (table := self.take(rows)).num_rows:
            yield table


def write_q_values(p_values: Path, q_values: Path, *, rows: int = 1 << 17) -> None:
    """Benjamini-Hochberg over files of float64: q of each p, in the same order; nan (no p-value) stays nan.

    q_i = min over all j with p_j >= p_i of m p_j / #(p <= p_j), m the number of p-values: the smallest false
    discovery rate at which record i is flagged (Benjamini & Hochberg, 1995). The minimum runs from the
    largest p down, so the file is read backwards. p-values that rise along the ranking, as they do for a
    score and its own calibration, take flat memory; others are sorted in a memory-mapped file.
    """
    in_order = p_values.with_suffix(".sorted")
    rising = _write_numbers_only(p_values, in_order, rows)
    if not rising:
        mapped = np.memmap(in_order, dtype=np.float64, mode="r+")
        mapped.sort()
        mapped.flush()
        del mapped
    adjusted = p_values.with_suffix(".adjusted")
    _write_adjusted(in_order, adjusted, rows)
    if rising:
        _spread(p_values, adjusted, q_values, rows)
    else:
        _look_up(p_values, in_order, adjusted, q_values, rows)
    in_order.unlink()
    adjusted.unlink()


def numbers(path: Path, rows: int, kind: type = np.float64) -> Iterator[np.ndarray]:
    """The numbers of a file, `rows` at a time."""
    with path.open("rb") as file:
        while data := file.read(np.dtype(kind).itemsize * rows):
            yield np.frombuffer(data, dtype=kind)


def _write_numbers_only(source: Path, target: Path, rows: int) -> bool:
    """Leave nan out; say whether the rest never falls."""
    rising, last = True, -np.inf
    with target.open("wb") as file:
        for chunk in numbers(source, rows):
            kept = chunk[~np.isnan(chunk)]
            if kept.size:
                rising = rising and bool(kept[0] >= last) and bool((np.diff(kept) >= 0).all())
                last = kept[-1]
                file.write(kept.tobytes())
    return rising


def _write_adjusted(in_order: Path, target: Path, rows: int) -> None:
    """min(1, m p_i / i), i from 1, made non-decreasing by a running minimum from the end."""
    count = in_order.stat().st_size // 8
    least = 1.0
    with in_order.open("rb") as source, target.open("wb") as file:
        file.truncate(8 * count)
        for start in reversed(range(0, count, rows)):
            source.seek(8 * start)
            p = np.frombuffer(source.read(8 * rows), dtype=np.float64)
            raw = p * (count / np.arange(start + 1, start + 1 + len(p)))
            q = np.minimum(np.minimum.accumulate(raw[::-1])[::-1], least)
            least = float(q[0])
            file.seek(8 * start)
            file.write(q.tobytes())


def _spread(p_values: Path, adjusted: Path, q_values: Path, rows: int) -> None:
    """Put the nans back between the adjusted values, which are in the same order."""
    with adjusted.open("rb") as source, q_values.open("wb") as file:
        for chunk in numbers(p_values, rows):
            q = chunk.copy()
            there = ~np.isnan(q)
            q[there] = np.frombuffer(source.read(8 * int(there.sum())), dtype=np.float64)
            file.write(q.tobytes())


def _look_up(p_values: Path, in_order: Path, adjusted: Path, q_values: Path, rows: int) -> None:
    """Find each p among the sorted ones: the last of equals has the count of all that are at most p."""
    p_sorted = np.memmap(in_order, dtype=np.float64, mode="r")
    q_sorted = np.memmap(adjusted, dtype=np.float64, mode="r")
    with q_values.open("wb") as file:
        for chunk in numbers(p_values, rows):
            q = chunk.copy()
            there = ~np.isnan(q)
            q[there] = q_sorted[np.searchsorted(p_sorted, q[there], side="right") - 1]
            file.write(q.tobytes())
