"""The report: its columns, how records are ranked and flagged, and how a published one is read.

One row for each record, the most anomalous first. Ranking takes the units' sorted files and flat memory: a
merge of the columns that decide, then q-values, reasons and the final file row group by row group.
The same records give the same bytes, whatever units they were cut into.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vae_core import publishing
from vae_core.errors import InputError, one_line
from vae_core.ranking import (
    FILE,
    KEYS,
    Stream,
    ahead,
    grouped,
    interleave,
    merge,
    numbers,
    sort_key,
    write_q_values,
)
from vae_core.turning import BLOCKS, BlockScores
from vae_core.work import NO_P_VALUE, REASONS, SCORED, WHY, Cut

__all__ = [
    "QUARANTINE", "REPORT", "SCHEMA", "SCHEMA_VERSION", "Decision", "Marks", "Ranking", "Report", "describe",
    "find", "rank", "read_report", "top", "verify", "write",
]  # fmt: skip

SCHEMA_VERSION = 1
REPORT, QUARANTINE = "report.parquet", "quarantine.parquet"
ROWS_PER_GROUP = 65_536
# Repeated strings shrink in a dictionary; floats of full precision grow.
DICTIONARIES = ["source", "model_version", "as_of", "reasons.list.element.feature"]


def _field(name: str, kind: pa.DataType, description: str, *, null: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=null, metadata={"description": description})


SCHEMA = pa.schema(
    [
        _field("rank", pa.int64(), "1 = most anomalous; ties in score are ordered by record_id, source, row"),
        _field("record_id", pa.string(), "the user's key, or file#row"),
        _field(
            "anomaly_score",
            pa.float64(),
            "what the rank sorts by: high = anomalous; -bound, of images the largest of several measures",
        ),
        _field("bound", pa.float64(), "nats; lower bound on log P(x) of the whole model: low = anomalous"),
        _field("elbo", pa.float64(), "nats; of the VAE: reconstruction - kl"),
        _field("reconstruction", pa.float64(), "nats; expected log-likelihood of the record given its code"),
        _field("kl", pa.float64(), "nats; divergence of Q, the code's distribution, from the prior"),
        _field("elbo_se", pa.float64(), "nats; rough standard error of the elbo's estimate", null=True),
        _field(
            "p_value",
            pa.float64(),
            "share of held-out training records at least as anomalous; null: none, as for records trained on",
            null=True,
        ),
        _field("q_value", pa.float64(), "Benjamini-Hochberg over the p-values of this report", null=True),
        _field("flagged", pa.bool_(), "by fdr (q_value), alpha (p_value) or top_k (rank); see the manifest"),
        _field("why", pa.string(), "one sentence; for flagged records and those ranked first", null=True),
        _field(
            "reasons",
            REASONS,
            "columns with the largest deficit against what is typical: value, expected, range, nats",
            null=True,
        ),
        _field("rest_nats", pa.float64(), "the nats of reasons + rest_nats = bound", null=True),
        _field(
            "tilt_nats",
            pa.float64(),
            "the part of rest_nats that is charged for being far out as a whole; at most 0",
            null=True,
        ),
        _field("n_missing", pa.int32(), "missing cells"),
        _field("n_out_of_range", pa.int32(), "cells outside the training range"),
        _field("n_unseen", pa.int32(), "cells with a category that training did not have"),
        _field("source", pa.string(), "the file"),
        _field("row", pa.int64(), "the record's number in its file, from 1, a CSV header not counted"),
        _field("model_version", pa.string(), "the registered version that scored it"),
        _field("as_of", pa.timestamp("us", "UTC"), "start of the interval; null without one", null=True),
    ]
)


IMAGE_FIELDS = [
    _field(
        "elbo_excess", pa.float64(), "nats; the lecture's ELBO less the best possible for this very image"
    ),
    _field("complexity_bits", pa.float64(), "length of the image's compressed data as a PNG"),
    _field("part", pa.string(), "which part of the score was largest: excess, elbo, complexity, levels"),
]


def schema_for(records: pa.Schema) -> pa.Schema:
    """The report's columns for records scored with this schema: images have three more, at the end."""
    return pa.schema([*SCHEMA, *(field for field in IMAGE_FIELDS if field.name in records.names)])


@dataclass(frozen=True)
class Decision:
    """Which records are flagged: by false discovery rate, by p-value, or so many from the top.

    >>> Decision(), Decision(top_k=20)
    (Decision(fdr=0.05, alpha=None, top_k=None), Decision(fdr=None, alpha=None, top_k=20))
    """

    fdr: float | None = None
    alpha: float | None = None
    top_k: int | None = None

    def __post_init__(self) -> None:
        given = self.as_dict()
        if not given:
            object.__setattr__(self, "fdr", 0.05)
        if len(given) > 1:
            raise InputError(
                f"records cannot be flagged by {' and '.join(given)} at once", fix="Give one of them"
            )
        for name in ("fdr", "alpha"):
            if name in given and not 0 <= given[name] <= 1:
                raise InputError(f"{name} is a probability, not {given[name]}", fix="Give 0 to 1")
        if self.top_k is not None and self.top_k < 0:
            raise InputError(f"top_k is a number of records, not {self.top_k}", fix="Give 0 or more")

    def as_dict(self) -> dict[str, Any]:
        """The one that is set."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def flags(self, rank: np.ndarray, p: np.ndarray, q: np.ndarray) -> np.ndarray:
        """bool (n,); nan (no p-value) is never flagged by fdr or alpha."""
        if self.top_k is not None:
            return rank <= self.top_k
        return p <= self.alpha if self.alpha is not None else q <= self.fdr


@dataclass(frozen=True)
class Marks:
    """What every row and the file's metadata say of the run."""

    model_name: str
    model_version: str
    as_of: datetime | None
    facts: dict[str, Any]  # likelihoods, members, draws


@dataclass(frozen=True)
class Ranking:
    """All records in order, in files, and which of them are flagged and explained."""

    files: tuple[Path, ...]  # of scored records, each sorted as the report is
    order: Path  # uint8, in rank order: the number of the file that has the record
    p_values: Path  # float64, in rank order; nan: none
    q_values: Path
    decision: Decision
    rows: int
    explained: int  # records ranked up to here get reasons, beside the flagged
    flagged: int
    with_p_value: int
    turned: tuple[int, int] | None  # flags that another block of draws takes away, and gives; None: one block
    cut: Cut


def rank(files: Sequence[Path], folder: Path, decision: Decision, *, explained: int = 10_000) -> Ranking:
    """Rank the records of the units' sorted files, in flat memory; intermediate files go into `folder`."""
    order, p_path, q_path = folder / "order.uint8", folder / "p.float64", folder / "q.float64"
    wanted = max(explained, decision.top_k or 0)
    rows, last = 0, (-np.inf, "", "", 0)
    files = grouped(files, folder / "records")
    deciding = [
        *KEYS,
        "p_value",
        *(name for name in BLOCKS if files and name in pq.read_schema(files[0]).names),
    ]
    with (
        order.open("wb") as order_file,
        p_path.open("wb") as p_file,
        BlockScores(folder) as blocks,
    ):
        for table in Stream(merge(files, deciding)).pieces(ROWS_PER_GROUP):
            order_file.write(table[FILE].to_numpy().tobytes())
            p_file.write(_numbers(table["p_value"]).tobytes())
            blocks.write(table, only_with_p_value=decision.top_k is None)
            if rows < wanted:
                last = sort_key(table, min(wanted - rows, table.num_rows) - 1)
            rows += table.num_rows
    write_q_values(p_path, q_path)
    flagged, with_p_value, limit = 0, 0, NO_P_VALUE
    for flags, p in _flags(decision, p_path, q_path):
        flagged, with_p_value = flagged + int(flags.sum()), with_p_value + int((~np.isnan(p)).sum())
        if decision.top_k is None:
            limit = max(limit, p[flags].max(initial=NO_P_VALUE))
    turned = blocks.turned((flags for flags, _ in _flags(decision, p_path, q_path)), flagged)
    cut = Cut(last, float(limit))
    places = tuple(files), order, p_path, q_path
    return Ranking(*places, decision, rows, explained, flagged, with_p_value, turned, cut)


def records(ranking: Ranking) -> Iterator[pa.Table]:
    """The scored records in rank order, ROWS_PER_GROUP at a time."""
    columns = [name for name in _scored(ranking).names if not name.startswith("_")]
    return interleave(ranking.files, numbers(ranking.order, ROWS_PER_GROUP, np.uint8), columns)


def _scored(ranking: Ranking) -> pa.Schema:
    return pq.read_schema(ranking.files[0]) if ranking.files else SCORED


def _flags(decision: Decision, p_path: Path, q_path: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(flags, p-values) in rank order, a row group at a time."""
    for first, p, q in _values(p_path, q_path):
        yield decision.flags(np.arange(first, first + len(p)), p, q), p


def write(ranking: Ranking, reasons: Sequence[Path], path: Path, marks: Marks) -> None:
    """Join ranks, q-values, flags and reasons (the units' files, sorted as the report is) into the report."""
    told = Stream(merge(grouped(reasons, ranking.order.parent / "reasons")))
    about = {"schema_version": SCHEMA_VERSION, "model": marks.model_name, **marks.facts}
    metadata = {f"elborank.{name}": json.dumps(value, sort_keys=True) for name, value in about.items()}
    with pq.ParquetWriter(
        path,
        schema_for(_scored(ranking)).with_metadata(metadata),
        compression="zstd",
        use_dictionary=DICTIONARIES,
        write_page_checksum=True,
    ) as writer:
        for table in ahead(_groups(told, ranking, marks)):
            writer.write_table(table, row_group_size=ROWS_PER_GROUP)
    if pq.read_metadata(path).num_rows != ranking.rows or told.take(1).num_rows:
        raise RuntimeError("records or reasons are missing in the report")


def _groups(told: Stream, ranking: Ranking, marks: Marks) -> Iterator[pa.Table]:
    """The report's row groups, in order."""
    values = _values(ranking.p_values, ranking.q_values)
    for table, (first, p, q) in zip(records(ranking), values, strict=True):
        yield _rows(table, first, p, q, told, ranking, marks)


def _rows(
    table: pa.Table, first: int, p: np.ndarray, q: np.ndarray, told: Stream, ranking: Ranking, marks: Marks
) -> pa.Table:
    """One row group of the report."""
    place = np.arange(first, first + len(p))
    flagged = ranking.decision.flags(place, p, q)
    explained = flagged | (place <= ranking.explained)
    columns = {name: table[name] for name in table.column_names}
    columns |= {
        "rank": pa.array(place),
        "flagged": pa.array(flagged),
        "q_value": pa.array(q, mask=np.isnan(q)),
    }
    columns |= _explanation(table, explained, told)
    columns["model_version"] = pa.array([marks.model_version] * len(p), pa.string())
    columns["as_of"] = pa.array([marks.as_of] * len(p), pa.timestamp("us", "UTC"))
    schema = schema_for(table.schema)
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _explanation(table: pa.Table, explained: np.ndarray, told: Stream) -> dict[str, Any]:
    """The columns WHY of these rows: the next in the stream where `explained`, else null."""
    count = int(explained.sum())
    if count == 0:
        return {name: pa.nulls(len(explained), SCHEMA.field(name).type) for name in WHY}
    next_ones = told.take(count)
    same = table.filter(pa.array(explained)).select(["record_id", "source", "row"])
    if next_ones.num_rows != count or not next_ones.select(same.column_names).equals(same):
        raise RuntimeError("the reasons do not belong to the records of the report")
    index = pa.array(np.cumsum(explained) - 1, mask=~explained)
    return {name: next_ones[name].take(index) for name in WHY}


def _values(p_path: Path, q_path: Path) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(rank of the first, p, q) for each row group."""
    first = 1
    for p, q in zip(numbers(p_path, ROWS_PER_GROUP), numbers(q_path, ROWS_PER_GROUP), strict=True):
        yield first, p, q
        first += len(p)


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    """float64, null as nan."""
    return pc.fill_null(column, np.nan).to_numpy()


# ------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class Report:
    """A published report, found and verified."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def path(self) -> Path:
        """The Parquet file."""
        return self.folder / REPORT

    @property
    def quarantine(self) -> Path:
        """The Parquet file of the records that could not be read: file, row, column, reason, raw."""
        return self.folder / QUARANTINE


def read_report(folder: str | Path) -> Report:
    """The report that counts in this place, every file checked against the manifest. Raises InputError."""
    given = Path(folder).resolve()
    place = publishing.current(given.parent if given.name == REPORT else given)
    return Report(place, publishing.verify(place))


def verify(folder: str | Path) -> dict[str, Any]:
    """Check every file of a report by its SHA-256, and return the manifest. Raises InputError."""
    return read_report(folder).manifest


def describe(folder: str | Path) -> dict[str, Any]:
    """The manifest, and where the files lie: all that a header above the ranking needs."""
    found = read_report(folder)
    return {**found.manifest, "folder": str(found.folder), "report": str(found.path)}


def top(folder: str | Path | Report, n: int = 10) -> list[dict[str, Any]]:
    """The first n rows as plain values; reads no more of the file than these need.

    A report that was read is taken as verified: its hashes are not computed again.
    """
    path = (folder if isinstance(folder, Report) else read_report(folder)).path
    with pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:  # not all of it
        batches = file.iter_batches(batch_size=max(1, min(n, 8192)), use_threads=False)
        rows: list[dict[str, Any]] = []
        while len(rows) < n and (batch := next(batches, None)) is not None:
            rows += batch.slice(0, n - len(rows)).to_pylist()
    return rows


def find(folder: str | Path | Report, record_id: str) -> list[dict[str, Any]]:
    """All rows with this record_id (a key may not be unique); where there is none, with the id that is shown
    so, its control characters made visible. Raises InputError when there is none either.
    """
    found = folder if isinstance(folder, Report) else read_report(folder)
    rows = _with_id(found, record_id)
    if not rows and "\\" in record_id:
        hidden = _shown_as(found, record_id)
        rows = [] if hidden is None else _with_id(found, hidden)
    if not rows:
        examples = ", ".join(f'"{row["record_id"]}"' for row in top(found, 2))
        fix = f"Its ids look like {examples}" if examples else "The report has no rows"
        raise InputError(f'there is no record "{record_id}"', file=found.path, fix=fix)
    return rows


def _with_id(report: Report, record_id: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with pq.ParquetFile(report.path, page_checksum_verification=True) as file:
        for group in range(file.num_row_groups):
            here = file.read_row_group(group, columns=["record_id"], use_threads=False)
            matches = pc.indices_nonzero(pc.equal(here["record_id"].combine_chunks(), record_id))
            if len(matches):
                rows += file.read_row_group(group, use_threads=False).take(matches).to_pylist()
    return rows


def _shown_as(report: Report, text: str) -> str | None:
    """The highest-ranked id that is shown as this text."""
    begun = text[: text.index("\\")]
    with pq.ParquetFile(report.path, page_checksum_verification=True) as file:
        for group in range(file.num_row_groups):
            ids = file.read_row_group(group, columns=["record_id"], use_threads=False)["record_id"]
            likely = ids.filter(pc.starts_with(ids, begun)).to_pylist()
            match = next((key for key in likely if one_line(key) == text), None)
            if match is not None:
                return str(match)
    return None
