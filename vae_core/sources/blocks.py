"""What a reader hands on: some records of one file with their numbers, and what could not become a record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from vae_core.errors import InputError, one_line

LONGEST_RAW = 200
NUL = "a NUL byte stands in the text"  # no text has one: a disk or a copy went wrong there
RESERVED = ("_record_id", "_source", "_row")
OF_REPORTS = ("(unusual combination)", "(anomaly score)")  # what reports call that which is no column


class Entry(NamedTuple):
    """One line of the quarantine: a record that is not scored, and why. `row` is 1-based within the file."""

    file: str
    row: int
    column: str | None
    reason: str
    raw: str


@dataclass(frozen=True)
class Block:
    """Records of one file in order: raw columns (text from CSV, Arrow's own types from Parquet), `rows` (n,)
    their 1-based numbers in the file, and the entries of the records that are broken as a whole."""

    table: pa.RecordBatch
    rows: np.ndarray
    broken: list[Entry]


def shown(raw: object, longest: int = LONGEST_RAW) -> str:
    """Raw text as it is kept and shown: on one line, and capped.

    >>> shown("x" * 300, longest=10)
    'xxxxxxx...'
    """
    text = one_line(str(raw)[: longest + 1])
    return text if len(text) <= longest else text[: longest - 3] + "..."


def check_names(names: list[str], file: object) -> None:
    """Raises InputError for names that are empty, repeated, or used by datasets or reports themselves."""
    for place, name in enumerate(names, start=1):
        if not name.strip():
            raise InputError(
                f"column {place} has no name",
                file=file,
                fix="Name it (pandas: to_csv(index=False) leaves its index out)",
            )
        if names.index(name) != place - 1:
            first = names.index(name) + 1
            raise InputError(
                f"columns {first} and {place} have the same name", file=file, column=name, fix="Rename one"
            )
        for those, own in (("datasets", RESERVED), ("reports", OF_REPORTS)):
            if name in own:
                problem = f"is a name that {those} use themselves"
                raise InputError(problem, file=file, column=name, fix="Rename the column")
