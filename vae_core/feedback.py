"""What people said of ranked records: a small Parquet log beside the reports, which it never changes.

Each line is one judgement, expected or anomaly, of one record of one report; of several of one record the
last counts. Later reports mark records known as expected when they are shown (they are not removed), and
records confirmed as anomalies can be left out of the next training.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vae_core import publishing
from vae_core.arrow import UNREADABLE
from vae_core.errors import InputError, one_line
from vae_core.report import Report, find

__all__ = ["SCHEMA", "VERDICTS", "add", "latest", "precision", "read"]

VERDICTS = ("expected", "anomaly")
LONGEST_NOTE = 2_000  # characters: each output that shows the record shows it
SCHEMA = pa.schema(
    [
        ("recorded_at", pa.timestamp("us", "UTC")),
        ("dataset", pa.string()),
        ("record_id", pa.string()),
        ("verdict", pa.string()),
        ("note", pa.string()),
        ("rank", pa.int64()),
        ("anomaly_score", pa.float64()),
        ("p_value", pa.float64()),
        ("why", pa.string()),
        ("run", pa.string()),  # of the report
        ("as_of", pa.string()),
        ("model", pa.string()),
        ("model_version", pa.string()),
    ]
)


def add(
    log: Path, report: Report, record_id: str, verdict: str, note: str = "", *, at: datetime | None = None
) -> dict[str, Any]:
    """Write one judgement into the log and return its line; of records with one id the first is meant.

    Raises InputError for a record that is not in the report, another verdict, a note longer than
    LONGEST_NOTE, or records without ids of their own (a column's, or an image file's path). Several at once
    wait.
    """
    if verdict not in VERDICTS:
        raise InputError(f'there is no verdict "{one_line(verdict)}"', fix=f"Say {' or '.join(VERDICTS)}")
    if len(note) > LONGEST_NOTE:
        raise InputError(
            f"the note has {len(note):,} characters, and at most {LONGEST_NOTE:,} are kept",
            fix="Shorten it, or note where the rest is written",
        )
    row, manifest = find(report, record_id)[0], report.manifest
    if not manifest["dataset"].get("ids") and row["record_id"] != row["source"]:  # an image file is its path
        own = "Keep each image in a file of its own, or in Parquet with" if "part" in row else "Ingest with"
        raise InputError(
            "its records are known by file and row only, which other records will have tomorrow",
            file=report.folder,
            fix=f"{own} --id COLUMN, then feedback finds its record again",
        )
    line = {
        "recorded_at": at or datetime.now(UTC),
        "dataset": manifest["dataset"]["name"],
        "verdict": verdict,
        "note": note,
        **{name: row[name] for name in ("record_id", "rank", "anomaly_score", "p_value", "why")},
        "run": manifest["run"],
        "as_of": manifest["as_of"],
        "model": manifest["model"]["name"],
        "model_version": manifest["model"]["version"],
    }
    log.parent.mkdir(parents=True, exist_ok=True)
    with publishing.lock(log.with_name(f".{log.name}")), publishing.writing(log):
        known = read(log)
        temporary = log.with_name(f".{log.name}.tmp")
        pq.write_table(
            pa.concat_tables([known, pa.Table.from_pylist([line], SCHEMA)]),
            temporary,
            write_page_checksum=True,
        )
        publishing.commit(temporary, log)
    return line


def read(log: Path, *, dataset: str | None = None) -> pa.Table:
    """All lines, oldest first, of one dataset or of all."""
    if not log.is_file():
        return SCHEMA.empty_table()
    try:
        table = pq.read_table(log, page_checksum_verification=True).select(SCHEMA.names).cast(SCHEMA)
    except UNREADABLE as error:
        raise InputError(
            "is damaged, or no feedback log", file=log, fix="Restore it from a backup"
        ) from error
    return table if dataset is None else table.filter(pa.compute.equal(table["dataset"], dataset))


def latest(lines: pa.Table) -> dict[str, dict[str, Any]]:
    """The judgement that counts for each record id: the last one."""
    return {line["record_id"]: line for line in lines.to_pylist()}


def precision(lines: pa.Table, k: int) -> list[dict[str, Any]]:
    """For each report, oldest first: the share of anomalies among the judged records ranked up to k.

    `judged` of k says how much that rests on.
    """
    reports: dict[str, dict[str, Mapping[str, Any]]] = {}
    for line in lines.to_pylist():
        if line["rank"] <= k:
            own = reports.setdefault(line["run"], {})
            own[line["record_id"]] = line
    rows = []
    for run, judged in reports.items():
        first = next(iter(judged.values()))
        anomalies = sum(line["verdict"] == "anomaly" for line in judged.values())
        rows.append(
            {
                **{name: first[name] for name in ("dataset", "as_of", "model", "model_version")},
                "run": run[:12],
                "k": k,
                "judged": len(judged),
                "anomalies": anomalies,
                "precision": anomalies / len(judged),
            }
        )
    return sorted(rows, key=lambda row: (row["dataset"], row["as_of"] or "", row["model_version"]))
