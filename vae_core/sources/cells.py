"""From a column as it was read (text, or any Arrow type) to one of the six types, cell by cell.

A cell that does not fit is a fault: its place, the reason and the raw value; its record goes to quarantine.
Text is trimmed before it is parsed as a number, a truth value or a time, and kept as it is in a text column.
The same rules serve CSV and Parquet, so that both give the same typed values. A column is converted in one go
where that succeeds; only where it does not are the cells looked at one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vae_core.arrow import TYPES, vector_array, vector_width
from vae_core.sources.blocks import NUL, shown
from vae_core.sources.vectors import are_vectors, vector_cells

NUMBER = r"^[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?$"
INFINITE = r"^[+-]?(?:inf|infinity)$"
WHOLE = r"^[+-]?\d+(?:\.0*)?$"
ZONE = r"\d(?:Z|[+-]\d\d(?::?\d\d)?)$"
TIMESTAMP = r"^\d{4}-\d\d-\d\d(?:[T ]\d\d(?::?\d\d(?::?\d\d(?:\.\d+)?)?)?(?:Z|[+-]\d\d(?::?\d\d)?)?)?$"
MICROSECONDS = pa.timestamp("us")
FIRST_TIME = -62_135_596_800_000_000  # 0001-01-01T00:00:00Z, the first that Python's datetime can hold
OUT_OF_YEARS = "is not in the years 1 to 9999"
BEYOND = "is beyond the 64-bit whole numbers"
LAST_TIME = 253_402_300_799_999_999  # 9999-12-31T23:59:59.999999Z


class Fault(NamedTuple):
    """A cell that does not fit: its place in the column, the reason for the quarantine, the raw value."""

    place: int
    reason: str
    raw: str


class Cells(NamedTuple):
    """A typed column, null where a cell is missing or a fault."""

    values: pa.Array
    faults: list[Fault]


def natural(kind: pa.DataType) -> str | None:
    """The type that a column of an Arrow type becomes; "null" if it has no values, None if it cannot be used.

    A list of real numbers becomes a "vector", whose length its type may not say.

    >>> kinds = pa.uint8(), pa.float32(), pa.decimal128(9, 2), pa.date32(), pa.list_(pa.float32())
    >>> [natural(kind) for kind in kinds]
    ['int64', 'double', 'double', 'timestamp', 'vector']
    """
    if pa.types.is_dictionary(kind):
        return natural(kind.value_type)
    if pa.types.is_decimal(kind):
        return "int64" if kind.scale <= 0 else "double"
    for test, name in NATURAL:
        if test(kind):
            return name
    return None


NATURAL: tuple[tuple[Callable[[pa.DataType], bool], str], ...] = (
    (pa.types.is_integer, "int64"),
    (pa.types.is_floating, "double"),
    (pa.types.is_boolean, "bool"),
    (pa.types.is_string, "string"),
    (pa.types.is_large_string, "string"),
    (pa.types.is_string_view, "string"),
    (pa.types.is_timestamp, "timestamp"),
    (pa.types.is_date, "timestamp"),
    (pa.types.is_null, "null"),
    (are_vectors, "vector"),
)


def may_be_longer(kind: pa.DataType) -> bool:
    """Whether a column of this Arrow type may hold whole numbers beyond 64 bits (with a sign).

    >>> [may_be_longer(kind) for kind in (pa.uint64(), pa.int64(), pa.decimal128(38), pa.decimal128(38, 2))]
    [True, False, True, False]
    """
    if pa.types.is_dictionary(kind):
        return may_be_longer(kind.value_type)
    return pa.types.is_uint64(kind) or (pa.types.is_decimal(kind) and kind.scale == 0)


def convertible(kind: pa.DataType, target: str) -> bool:
    """Whether cells of this Arrow type can be tried one by one; else the whole column has the wrong type."""
    if vector_width(target):
        return natural(kind) in ("null", "vector")
    return natural(kind) == "null" or (natural(kind), target) in CONVERSIONS


def typed(values: pa.Array, target: str, nulls: pa.Array) -> Cells:
    """A column as one of the six types. `nulls` are the texts (trimmed) that mean a missing cell."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        values, kind = values.cast(kind.value_type), kind.value_type
    if pa.types.is_null(kind):
        if width := vector_width(target):
            return Cells(vector_array(np.full((len(values), width), np.nan)), [])
        return Cells(pa.nulls(len(values), TYPES[target]), [])
    if width := vector_width(target):
        vectors, faults = vector_cells(values, width)
        return Cells(vectors, [Fault(*fault) for fault in faults])
    if pa.types.is_decimal(kind) or (pa.types.is_uint64(kind) and target != "double"):
        values = values.cast(
            pa.string()
        )  # exact; and text -> double rounds to the nearest, as it does for CSV
    source = natural(values.type)
    if source == "string":
        values = without_missing(values.cast(pa.string()), nulls)
    return CONVERSIONS[source or "", target](values)


def without_missing(text: pa.Array, nulls: pa.Array) -> pa.Array:
    """Text with null in place of the texts (trimmed) that mean a missing cell."""
    if not len(nulls):
        return text
    absent = pc.is_in(pc.utf8_trim_whitespace(text), nulls)
    return pc.if_else(absent, pa.scalar(None, pa.string()), text) if pc.any(absent).as_py() else text


def _faults(bad: pa.Array | np.ndarray, raw: pa.Array, problem: str) -> list[Fault]:
    mask = bad if isinstance(bad, np.ndarray) else pc.fill_null(bad, False).to_numpy(zero_copy_only=False)
    places = np.flatnonzero(mask)
    texts = raw.take(pa.array(places)).to_pylist()
    return [
        Fault(int(place), f'"{shown(text, 60)}" {problem}', shown(text))
        for place, text in zip(places, texts, strict=True)
    ]


def _in_order(*groups: list[Fault]) -> list[Fault]:
    return sorted((fault for group in groups for fault in group), key=lambda fault: fault.place)


def _only(values: pa.Array, keep: pa.Array) -> pa.Array:
    return pc.if_else(pc.fill_null(keep, False), values, pa.scalar(None, values.type))


def parsed(text: pa.Array, kind: pa.DataType) -> pa.Array | None:
    """The whole column parsed at once, or None where some cell is not of this type.

    Arrow goes on after a failure and words an error for each cell, which is slow: so a few are tried first.
    """
    try:
        pc.cast(text[:32], kind)
        return pc.cast(text, kind)
    except pa.ArrowInvalid:
        return None


def _text_to_double(raw: pa.Array) -> Cells:
    text = pc.utf8_trim_whitespace(raw)
    numbers, unread = parsed(text, pa.float64()), []
    if numbers is None:
        good = pc.or_(
            pc.match_substring_regex(text, NUMBER), pc.match_substring_regex(text, INFINITE, ignore_case=True)
        )
        numbers = pc.cast(_only(text, good), pa.float64())
        unread = _faults(pc.invert(good), raw, "is not a number")
    named = pc.is_nan(numbers)  # "NAN(3)", which the parser takes
    infinite = _faults(pc.is_inf(numbers), raw, "is not finite")
    faults = _in_order(unread, infinite, _faults(named, raw, "is not a number"))
    return Cells(_only(numbers, pc.is_finite(numbers)), faults)


def _text_to_int64(raw: pa.Array) -> Cells:
    text = pc.utf8_trim_whitespace(raw)
    quick = parsed(text, pa.int64())
    if quick is not None and not _holds_an_x(text):  # Arrow reads 0x1F as 31
        return Cells(quick, [])
    whole = pc.match_substring_regex(text, WHOLE)
    digits = pc.replace_substring_regex(_only(text, whole), r"^\+|\.0*$", "")
    numbers, beyond = _each(digits, pa.int64())
    others = pc.and_(pc.invert(whole), pc.match_substring_regex(text, NUMBER))
    doubles = pc.cast(_only(text, others), pa.float64())
    rounded = _double_to_int64(doubles)
    endless = pc.match_substring_regex(text, INFINITE, ignore_case=True)
    not_number = pc.and_(pc.is_valid(text), pc.and_(pc.invert(whole), pc.invert(others)))
    return Cells(
        pc.coalesce(numbers, rounded.values),
        _in_order(
            _faults(pc.and_(not_number, endless), raw, "is not finite"),
            _faults(pc.and_(not_number, pc.invert(endless)), raw, "is not a number"),
            [_of_text(fault, raw) for fault in rounded.faults],
            _faults(beyond, raw, BEYOND),
        ),
    )


def _of_text(fault: Fault, raw: pa.Array) -> Fault:
    """The same fault, quoting the cell's own text and not the number that it was read as."""
    text = raw[fault.place].as_py()
    return Fault(
        fault.place, f'"{shown(text, 60)}" {fault.reason.rpartition(chr(34))[2].strip()}', shown(text)
    )


def _text_to_bool(raw: pa.Array) -> Cells:
    text = pc.utf8_lower(pc.utf8_trim_whitespace(raw))
    true, false = pc.is_in(text, pa.array(["true", "1"])), pc.is_in(text, pa.array(["false", "0"]))
    good = pc.or_(true, false)
    bad = pc.and_(pc.is_valid(text), pc.invert(good))
    return Cells(_only(true, good), _faults(bad, raw, "is neither true nor false"))


def _text_to_timestamp(raw: pa.Array) -> Cells:
    text = pc.utf8_trim_whitespace(raw)
    unread: pa.Array | np.ndarray = np.zeros(len(raw), bool)
    times = parsed(text, MICROSECONDS)
    if times is None:
        zoned = parsed(text, TYPES["timestamp"])
        times, unread = (zoned.cast(MICROSECONDS), unread) if zoned is not None else _times_one_by_one(text)
    return _bounded(times, raw, _faults(unread, raw, "is not an ISO 8601 time"))


def _times_one_by_one(text: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Times with and without a zone in one column; digits beyond microseconds are cut."""
    good = pc.match_substring_regex(text, TIMESTAMP)
    short = pc.replace_substring_regex(_only(text, good), r"(\.\d{6})\d+", r"\1")
    zoned = pc.and_(pc.match_substring_regex(short, ZONE), pc.match_substring_regex(short, "[T ]"))
    plain, bad_plain = _each(_only(short, pc.invert(zoned)), MICROSECONDS)
    other, bad_other = _each(_only(short, zoned), TYPES["timestamp"])
    unmatched = pc.and_(pc.is_valid(text), pc.invert(good))
    bad = pc.fill_null(unmatched, False).to_numpy(zero_copy_only=False) | bad_plain | bad_other
    return pc.coalesce(plain, other.cast(MICROSECONDS)), bad


def _time_to_timestamp(values: pa.Array) -> Cells:
    kind = values.type
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        nanoseconds = values.cast(pa.int64())
        cut = (
            pc.fill_null(nanoseconds, 0).to_numpy(zero_copy_only=False) // 1000
        )  # floor, as cutting digits does
        times = _only(pa.array(cut).cast(MICROSECONDS), pc.is_valid(values))
        return _bounded(times, values, [])
    if pa.types.is_timestamp(kind):
        values = values.cast(pa.timestamp(kind.unit))
    times, beyond = _each(values, MICROSECONDS)
    faults = _faults(beyond, values.cast(pa.int64()) if pa.types.is_timestamp(kind) else values, OUT_OF_YEARS)
    return _bounded(times, values, faults)


def _bounded(times: pa.Array, raw: pa.Array, faults: list[Fault]) -> Cells:
    ticks = times.cast(pa.int64())
    bad = pc.or_(pc.less(ticks, FIRST_TIME), pc.greater(ticks, LAST_TIME))
    if pc.any(bad).as_py():
        text = raw if pa.types.is_string(raw.type) else ticks
        faults = _in_order(faults, _faults(bad, text, OUT_OF_YEARS))
        times = _only(times, pc.invert(bad))
    return Cells(times.cast(TYPES["timestamp"]), faults)


def _double_to_double(values: pa.Array) -> Cells:
    numbers = values.cast(pa.float64())
    numbers = _only(numbers, pc.invert(pc.is_nan(numbers)))
    finite = pc.is_finite(numbers)
    if pc.all(finite).as_py():  # nulls do not count
        return Cells(numbers, [])
    return Cells(_only(numbers, finite), _faults(pc.invert(finite), values, "is not finite"))


def _double_to_int64(values: pa.Array) -> Cells:
    numbers, faults = _double_to_double(values)
    whole = pc.equal(numbers, pc.floor(numbers))
    inside = pc.and_(pc.less(numbers, 2.0**63), pc.greater_equal(numbers, -(2.0**63)))
    return Cells(
        _only(numbers, pc.and_(whole, inside)).cast(pa.int64()),
        _in_order(
            faults,
            _faults(pc.invert(whole), values, "is not a whole number"),
            _faults(pc.and_(whole, pc.invert(inside)), values, BEYOND),
        ),
    )


def _number_to_bool(values: pa.Array) -> Cells:
    one, zero = pc.equal(values, 1), pc.equal(values, 0)
    good = pc.or_(one, zero)
    absent = pc.is_nan(values) if pa.types.is_floating(values.type) else pc.is_null(values)
    return Cells(
        _only(one, good),
        _faults(pc.and_(pc.invert(good), pc.invert(absent)), values, "is neither true nor false"),
    )


def _each(values: pa.Array, kind: pa.DataType) -> tuple[pa.Array, np.ndarray]:
    """Cast what can be cast: the values, null where it failed, and where that was (n,), found by halving."""
    try:
        return pc.cast(values, kind), np.zeros(len(values), bool)
    except pa.ArrowInvalid:
        if len(values) == 1:
            return pa.nulls(1, kind), np.ones(1, bool)
    half = len(values) // 2
    left, right = _each(values[:half], kind), _each(values[half:], kind)
    return pa.concat_arrays([left[0], right[0]]), np.concatenate([left[1], right[1]])


def _holds_an_x(text: pa.Array) -> bool:
    data = text.buffers()[2]
    content = b"" if data is None else memoryview(data).tobytes()
    return b"x" in content or b"X" in content


def _text_to_text(text: pa.Array) -> Cells:
    """Text as it is, but for cells with a NUL byte (a CSV row with one does not come this far)."""
    data = text.buffers()[2]
    if data is None or np.frombuffer(data, np.uint8).all():
        return Cells(text, [])
    bad = pc.match_substring(text, "\0")
    faults = [fault._replace(reason=NUL) for fault in _faults(bad, text, "")]
    return Cells(_only(text, pc.invert(bad)), faults)


def _same(values: pa.Array) -> Cells:
    return Cells(values, [])


CONVERSIONS: dict[tuple[str, str], Callable[[pa.Array], Cells]] = {
    ("string", "double"): _text_to_double,
    ("string", "int64"): _text_to_int64,
    ("string", "bool"): _text_to_bool,
    ("string", "timestamp"): _text_to_timestamp,
    ("string", "string"): _text_to_text,
    ("int64", "int64"): lambda values: Cells(values.cast(pa.int64()), []),
    ("int64", "double"): lambda values: Cells(values.cast(pa.float64(), safe=False), []),
    ("int64", "bool"): _number_to_bool,
    ("int64", "string"): lambda values: Cells(values.cast(pa.string()), []),
    ("double", "double"): _double_to_double,
    ("double", "int64"): _double_to_int64,
    ("double", "bool"): _number_to_bool,
    ("bool", "bool"): _same,
    ("timestamp", "timestamp"): _time_to_timestamp,
}
