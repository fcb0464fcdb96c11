"""What type a CSV column has: from all of its cells, never a sample, so that no later row can surprise."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from vae_core.arrow import TYPES
from vae_core.sources.cells import INFINITE, NUMBER, TIMESTAMP, WHOLE, parsed, typed, without_missing

SHARE = 0.95  # of the cells that are there; the few others are then taken for faults, not for text
# Numbers with a comma, for decimals or thousands: as text each would be a category of its own.
WITH_COMMA, FEWEST = r"^[+-]?(\d{1,3}([.,]\d{3})+|\d+),\d+(\.\d+)?$", 10
CANONICAL = r"^(?:0|-?[1-9]\d*)$"
NO_NULLS = pa.array([], pa.string())


@dataclass
class Evidence:
    """Counts of the cells of one column, over as many blocks as `see` was given.

    >>> evidence = Evidence(is_id=False)
    >>> evidence.see(pa.array(["1", "2", "", "3.5"]), pa.array([""]))
    >>> evidence.cells, evidence.kind()
    (3, 'double')
    """

    is_id: bool
    cells: int = 0
    whole: int = 0
    exact: int = 0
    numbers: int = 0
    truths: int = 0
    times: int = 0
    fractions: bool = False
    commas: int = 0
    example: str = ""  # of a number with a comma

    def see(self, raw: pa.Array, nulls: pa.Array) -> None:
        """Add the cells of one block of text."""
        text = pc.utf8_trim_whitespace(without_missing(raw, nulls).drop_null())
        if not len(text):
            return
        self.cells += len(text)
        if (not self.is_id and self._all_numbers(text)) or self._all_times(text):
            return
        counted = pc.value_counts(text)
        values, counts = counted.field(0), counted.field(1)
        whole, number = _matches(values, WHOLE), _matches(values, NUMBER)
        literal = pc.and_(whole, pc.invert(_matches(values, r"\.")))
        fits = pc.is_valid(typed(_only(values, literal), "int64", NO_NULLS).values)
        self.whole += _sum(counts, fits)
        self.exact += _sum(counts, pc.and_(fits, _matches(values, CANONICAL)))
        self.fractions |= bool(pc.any(pc.and_(number, pc.invert(literal))).as_py())
        self.numbers += _sum(counts, pc.or_(number, _matches(pc.utf8_lower(values), INFINITE)))
        self.truths += _sum(counts, pc.is_in(pc.utf8_lower(values), pa.array(["true", "false"])))
        comma = _matches(values, WITH_COMMA)
        self.commas += _sum(counts, comma)
        self.example = self.example or next(iter(values.filter(comma).to_pylist()), "")
        dates = _only(values, _matches(values, TIMESTAMP))
        self.times += _sum(counts, pc.is_valid(typed(dates, "timestamp", NO_NULLS).values))

    def _all_numbers(self, text: pa.Array) -> bool:
        """The quick way, for a block in which every cell is plainly a number."""
        data = text.buffers()[2].to_pybytes().lower()
        if b"x" in data or b"n" in data:  # hexadecimal, infinite, not a number
            return False
        fraction = b"." in data or b"e" in data or parsed(text, pa.int64()) is None
        if fraction and (not (b"." in data or b"e" in data) or parsed(text, pa.float64()) is None):
            return False
        self.numbers += len(text)
        self.whole += 0 if fraction else len(text)
        self.fractions |= fraction
        return True

    def _all_times(self, text: pa.Array) -> bool:
        if parsed(text, TYPES["timestamp"]) is None and parsed(text, pa.timestamp("us")) is None:
            return False
        times = typed(text, "timestamp", NO_NULLS)
        self.times += 0 if times.faults else len(text)
        return not times.faults

    @property
    def numbers_with_commas(self) -> bool:
        """Whether these are numbers with a comma, which would be read as text."""
        return not self.is_id and self.cells >= FEWEST and self.commas >= SHARE * self.cells

    def kind(self) -> str:
        """The type. A column without any cell is text, which takes whatever comes later."""
        enough = SHARE * self.cells
        if not self.cells:
            return "string"
        if self.times >= enough:
            return "timestamp"
        if self.is_id:  # a key is never rounded and loses no leading zero
            return "int64" if self.exact == self.cells else "string"
        if self.truths == self.cells:
            return "bool"
        if self.numbers < enough:
            return "string"
        if self.fractions:
            return "double"
        return (
            "int64" if self.whole >= enough else "string"
        )  # long digits are names; a double would round them


def is_with_comma(text: str) -> bool:
    """Whether a cell is a number written with a comma.

    >>> is_with_comma("39,02"), is_with_comma("1,234.5"), is_with_comma("39.02"), is_with_comma("a,b")
    (True, True, False, False)
    """
    return re.match(WITH_COMMA, text.strip()) is not None


def _matches(values: pa.Array, pattern: str) -> pa.Array:
    return pc.match_substring_regex(values, pattern)


def _only(values: pa.Array, keep: pa.Array) -> pa.Array:
    return pc.if_else(keep, values, pa.scalar(None, pa.string()))


def _sum(counts: pa.Array, keep: pa.Array) -> int:
    return int(pc.sum(counts.filter(keep)).as_py() or 0)
