"""CSV files as RFC 4180 has them, read in blocks and counted exactly.

Blocks of text without any quote go through pyarrow's reader, which is then unambiguous, and its rows are
counted against the lines. All others go through Python's `csv` module in its strict mode. A quote that is
opened and not closed costs its own line and never swallows the lines after it: the line goes to quarantine
and reading resumes at the next one. Blank lines are no records.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

import pyarrow as pa

from vae_core.errors import InputError
from vae_core.sources.blocks import Block, Entry, check_names, shown
from vae_core.sources.csv_lines import NOT_CLOSED, parse
from vae_core.sources.files import Source, open_binary

BLOCK_BYTES = 4_000_000
LONGEST_LINE = 64_000_000
UTF_8_MARK = codecs.BOM_UTF8
OTHER_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
NOT_TEXT = {b"PAR1": "Parquet", b"PK\x03\x04": "a zip file or an Excel sheet", b"\x1f\x8b": "gzip"}


class CsvReader:
    """One CSV file: `names` are the column names of its header, `blocks()` its records as columns of text."""

    def __init__(
        self,
        source: Source,
        *,
        encoding: str = "utf-8",
        delimiter: str | None = None,
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        self.source = source
        self.encoding = text_encoding(encoding)
        self.delimiter = delimiter or ("\t" if ".tsv" in source.path.name.lower() else ",")
        check_delimiter(self.delimiter)
        self._told = delimiter is not None
        self.block_bytes = block_bytes
        self.names, self._header_bytes = self._header()
        self.types = dict.fromkeys(self.names, pa.string())
        self.warnings: list[str] = []

    def blocks(self, columns: list[str]) -> Iterator[Block]:
        """The records in order, with these columns. Raises InputError where the bytes are not text."""
        places = [self.names.index(name) for name in columns]
        count, rest, skip, width = 0, b"", self._header_bytes, len(self.names)
        for data, last in self._whole_lines():
            try:
                parsed = parse(rest + data[skip:], width, self.delimiter, last=last)
            except UnicodeDecodeError as cause:
                raise self._not_text() from cause
            rest, skip = parsed.rest, 0
            broken = [
                Entry(self.source.name, count + number + 1, None, reason, shown(text.rstrip("\r\n")))
                for number, reason, text in parsed.broken
            ]
            table = pa.RecordBatch.from_arrays([parsed.columns[place] for place in places], names=columns)
            yield Block(table, parsed.numbers + count + 1, broken)
            count += len(parsed.numbers) + len(broken)

    def _header(self) -> tuple[list[str], int]:
        """The column names, and how many bytes of the text they take."""
        data, _ = next(self._whole_lines())
        try:
            text = io.StringIO(data.decode("utf-8"), newline="")
        except UnicodeDecodeError as cause:
            raise self._not_text() from cause
        lines: list[str] = []

        def noted() -> Iterator[str]:
            for line in text:
                lines.append(line)
                yield line

        reader = csv.reader(noted(), delimiter=self.delimiter, strict=True)
        try:
            names = next((row for row in reader if lines[-1].strip(" \r\n")), None)
        except csv.Error as cause:
            raise InputError(f"the header cannot be read: {NOT_CLOSED}", file=self.source.path) from cause
        if names is None:
            raise InputError("there is no header, only blank lines", file=self.source.path)
        self._check_delimiter(names, lines[-1])
        if any("\0" in name for name in names):
            fix = "If it is UTF-16, say --encoding utf-16-le; else copy it again"
            raise InputError("NUL bytes stand in the header", file=self.source.path, fix=fix)
        check_names(names, self.source.path)
        return names, len("".join(lines).encode("utf-8"))

    def _check_delimiter(self, names: list[str], header: str) -> None:
        """Another character that stands in the names as often as columns end may be what separates them."""
        other = max((";", "\t", "|", ","), key="".join(names).count)
        meant = len(names) > 1 and (self._told or '"' in header)  # a user's word, and names in quotes, count
        if "".join(names).count(other) < len(names) or meant:
            return
        what = "is one column" if len(names) == 1 else f"has more {other!r} than {self.delimiter!r}"
        fix = f"If the columns are separated by {other!r}, say --delimiter {other!r}"
        if len(names) > 1:
            fix += f", else --delimiter {self.delimiter!r}"
        raise InputError(f'the header {what}, "{shown(header.strip(), 60)}"', file=self.source.path, fix=fix)

    def _whole_lines(self) -> Iterator[tuple[bytes, bool]]:
        """The text as UTF-8 in blocks that end with a line end, and whether the block is the last one."""
        rest = b""
        for chunk in self._chunks():
            data = rest + chunk
            cut = data.rfind(b"\n") + 1 or data.rfind(b"\r", 0, -1) + 1
            if not cut and len(data) > LONGEST_LINE:
                raise InputError(
                    f"a line is longer than {LONGEST_LINE} bytes: this is no CSV", file=self.source.path
                )
            if cut:
                yield data[:cut], False
            rest = data[cut:]
        yield rest, True

    def _chunks(self) -> Iterator[bytes]:
        """The text as UTF-8, without its byte-order mark."""
        with self._binary() as binary:
            try:
                start = binary.read(4)
                self._check_start(start)
                if self.encoding == "utf-8":
                    yield (start + binary.read(self.block_bytes)).removeprefix(UTF_8_MARK)
                    while chunk := binary.read(self.block_bytes):
                        yield chunk
                else:
                    binary.seek(0)
                    text = io.TextIOWrapper(binary, encoding=self.encoding, newline="")
                    yield text.read(self.block_bytes).removeprefix("\ufeff").encode("utf-8")
                    while part := text.read(self.block_bytes):
                        yield part.encode("utf-8")
            except UnicodeError as cause:
                raise InputError(f"is not {self.encoding} text: {cause}", file=self.source.path) from cause
            except (OSError, EOFError, zlib.error) as cause:
                raise InputError(
                    f"cannot be read: {cause}", file=self.source.path, fix="Copy it again"
                ) from cause

    @contextmanager
    def _binary(self) -> Iterator[BinaryIO]:
        with open_binary(self.source) as raw:
            yield (
                cast(BinaryIO, gzip.GzipFile(fileobj=raw))
                if self.source.path.name.lower().endswith(".gz")
                else raw
            )

    def _check_start(self, start: bytes) -> None:
        for mark, what in NOT_TEXT.items():
            if start.startswith(mark):
                raise InputError(f"is {what}, not CSV", file=self.source.path, fix="Give it the right ending")
        if start.startswith(OTHER_MARKS) and not self.encoding.startswith("utf-16"):
            raise InputError(
                "is UTF-16 text by its byte-order mark", file=self.source.path, fix="Say --encoding utf-16"
            )
        if start.startswith(UTF_8_MARK) and self.encoding != "utf-8":
            raise InputError(
                f"is UTF-8 by its byte-order mark, not {self.encoding}",
                file=self.source.path,
                fix="Say --encoding utf-8",
            )

    def _not_text(self) -> InputError:
        """Where the first byte stands that is not UTF-8: found by reading the file once more."""
        decoder, place, line = codecs.getincrementaldecoder("utf-8")(), 0, 1
        with self._binary() as binary:
            while data := binary.read(self.block_bytes):
                try:
                    decoder.decode(data)
                except UnicodeDecodeError as cause:
                    ahead = len(cause.object) - len(
                        data
                    )  # bytes of a character that the chunk before had begun
                    start = cause.start - ahead
                    line += data[: max(start, 0)].count(b"\n")
                    return InputError(
                        f"line {line} is not UTF-8 text "
                        f"(byte 0x{cause.object[cause.start]:02x} at position {place + start} of the file)",
                        file=self.source.path,
                        fix="Say --encoding latin-1 if that is what it is, or save the file as UTF-8",
                    )
                place, line = place + len(data), line + data.count(b"\n")
        return InputError(
            "is not UTF-8 text: it ends within a character", file=self.source.path, fix="Copy it again"
        )


def check_delimiter(delimiter: str) -> None:
    """Raises InputError for what cannot stand between two fields."""
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise InputError(f"{delimiter!r} cannot separate columns", fix="Take one character, such as ;")


def text_encoding(name: str) -> str:
    """The encoding's name as Python has it; a mark at the beginning is looked for anyway."""
    try:
        "".encode(name)  # refuses what is no text encoding, such as base64
        found = codecs.lookup(name).name
    except (LookupError, ValueError) as cause:
        raise InputError(
            f'there is no text encoding "{shown(name)}"', fix="Say utf-8, latin-1, cp1252 or utf-16"
        ) from cause
    return "utf-8" if found == "utf-8-sig" else found
