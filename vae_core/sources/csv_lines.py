"""From a block of CSV text to columns of text: a line is a record, a part of one, or a broken record."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from vae_core.sources.blocks import NUL

LONGEST_CELL = (
    csv.field_size_limit()
)  # 131072 characters; a longer "cell" is an unclosed quote, nearly always
NOT_CLOSED = 'a quote (") is opened and not closed, or stands in the text and is not doubled'


class Broken(NamedTuple):
    """A record that cannot be read: its 0-based number among the block's records, the reason, the line."""

    number: int
    reason: str
    text: str


class Parsed(NamedTuple):
    """The records of a block: text columns, the 0-based numbers of their records, the broken ones between
    them, and the bytes of a record that goes on in the next block."""

    columns: list[pa.Array]
    numbers: np.ndarray
    broken: list[Broken]
    rest: bytes


def parse(data: bytes, width: int, delimiter: str, *, last: bool) -> Parsed:
    """UTF-8 text that ends with a line end (unless it is the last) -> its records of `width` cells.

    >>> parsed = parse(b'1,x\\n2,"y\\n3,z\\n4\\n', 2, ",", last=True)
    >>> parsed.columns[0].to_pylist(), parsed.numbers.tolist()
    (['1', '3'], [0, 2])
    >>> [(broken.number, broken.reason[:24]) for broken in parsed.broken]
    [(1, 'a quote (") is opened an'), (3, '1 cell where the header ')]
    """
    return _plain(data, width, delimiter) or _exact(data, width, delimiter, last)


def _plain(data: bytes, width: int, delimiter: str) -> Parsed | None:
    """The quick path, for text in which each line is plainly one record of the right width; else None."""
    if not data or not delimiter.isascii() or b"\0" in data:
        return None
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
    if b"\r" in data or b"\n\n" in data or data.startswith(b"\n") or not _plainly_quoted(data, delimiter):
        return None
    names = [str(number) for number in range(width)]
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(data),
            pyarrow.csv.ReadOptions(column_names=names, use_threads=False, block_size=len(data) + 1),
            pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=False),
            pyarrow.csv.ConvertOptions(
                column_types={name: pa.string() for name in names}, null_values=[], strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid:  # a line of another width, or not UTF-8: the other path says which and why
        return None
    if table.num_rows != data.count(b"\n") + (not data.endswith(b"\n")):
        return None
    columns = [column.combine_chunks() for column in table.columns]
    if any(pc.max(pc.binary_length(column)).as_py() > LONGEST_CELL for column in columns):
        return None
    return Parsed(columns, np.arange(table.num_rows), [], b"")


def _plainly_quoted(data: bytes, delimiter: str) -> bool:
    """Whether each quote opens a cell, closes one or is doubled in one, and none is open at a line's end."""
    if b'"' not in data:
        return True
    text = np.frombuffer(b"\n" + data + (b"" if data.endswith(b"\n") else b"\n"), np.uint8)
    quotes = np.flatnonzero(text == ord('"'))
    if (np.searchsorted(quotes, np.flatnonzero(text == ord("\n"))) % 2).any():
        return False
    before, after = text[quotes[::2] - 1], text[quotes[1::2] + 1]
    edges = (ord(delimiter), ord("\n"))
    doubled = quotes[2::2] == quotes[1:-1:2] + 1
    opens, closes = np.isin(before, edges), np.isin(after, edges)
    opens[1:] |= doubled
    closes[:-1] |= doubled
    return bool(opens.all() and closes.all())


def _exact(data: bytes, width: int, delimiter: str, last: bool) -> Parsed:
    """The exact path, record by record, by Python's csv module. Raises UnicodeDecodeError."""
    lines = io.StringIO(data.decode("utf-8"), newline="").readlines()
    rows: list[list[str]] = []
    numbers: list[int] = []
    rest = b""
    broken: list[Broken] = []
    for found in _records(lines, width, delimiter, last):
        number = len(rows) + len(broken)
        if isinstance(found, list):
            rows.append(found)
            numbers.append(number)
        elif found.reason:
            broken.append(found._replace(number=number))
        else:
            rest = found.text.encode("utf-8")
    return Parsed(_columns(rows, width), np.array(numbers, dtype=np.int64), broken, rest)


def _records(lines: list[str], width: int, delimiter: str, last: bool) -> Iterator[list[str] | Broken]:
    """Rows and broken lines in order; last, for a record that the block cuts, a Broken without a reason."""
    start = 0
    while start < len(lines):
        first = start
        reader = csv.reader((lines[n] for n in range(first, len(lines))), delimiter=delimiter, strict=True)
        try:
            for row in reader:
                end = first + reader.line_num
                if row and not (width > 1 and not lines[start].strip(" \r\n")):
                    reason = _fault(row, lines[start:end], width)
                    if (
                        reason and end - start > 1
                    ):  # do not believe a quote that swallowed lines: read them singly
                        yield Broken(0, NOT_CLOSED, lines[start])
                        start += 1
                        break
                    if not reason and any("\0" in cell for cell in row):
                        yield Broken(0, NUL, "".join(lines[start:end]))
                    else:
                        yield Broken(0, reason, lines[start]) if reason else row
                start = end
        except csv.Error as cause:
            if str(cause) == "unexpected end of data" and not last:
                yield Broken(0, "", "".join(lines[start:]))
                return
            yield Broken(0, _reason(str(cause), alone=first + reader.line_num - start <= 1), lines[start])
            start += 1


def _fault(row: list[str], lines: list[str], width: int) -> str:
    if sum(line.count('"') for line in lines) % 2:
        return NOT_CLOSED
    if len(row) != width:
        return f"{len(row)} cell{'s' * (len(row) != 1)} where the header has {width}"
    return ""


def _reason(cause: str, *, alone: bool) -> str:
    if "expected after" in cause and alone:
        return 'text follows a closed quote (")'
    return (
        NOT_CLOSED
        if "field larger" not in cause
        else f"{NOT_CLOSED}; or a cell is over {LONGEST_CELL} characters"
    )


def _columns(rows: list[list[str]], width: int) -> list[pa.Array]:
    if not rows:
        return [pa.array([], pa.string())] * width
    return [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
