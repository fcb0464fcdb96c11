"""Two reports side by side: which anomalies are new, which persist, which are resolved, by record id.

An anomaly is a flagged record, or one of the first k. Reports of any size are read in pieces: what is held is
their anomalies, and eight bytes for each record.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vae_core import publishing
from vae_core.errors import InputError
from vae_core.report import Report

__all__ = ["SCHEMA", "Comparison", "compare", "previous", "write"]

STATUSES = ("new", "persisting", "resolved")
COLUMNS = ["record_id", "rank", "anomaly_score", "p_value", "flagged", "why"]


def _field(name: str, kind: pa.DataType, description: str, *, null: bool = True) -> pa.Field:
    return pa.field(name, kind, nullable=null, metadata={"description": description})


SCHEMA = pa.schema(
    [
        _field("record_id", pa.string(), "the record's key in both reports", null=False),
        _field("status", pa.string(), "new, persisting or resolved", null=False),
        _field("rank_old", pa.int64(), "rank in the old report; null: the record is not in it"),
        _field("rank_new", pa.int64(), "rank in the new report; null: the record is not in it"),
        _field("rank_change", pa.int64(), "places gained: positive = more anomalous now"),
        _field("score_old", pa.float64(), "anomaly score in the old report"),
        _field("score_new", pa.float64(), "anomaly score in the new report"),
        _field("score_change", pa.float64(), "new - old; null where the scores are of two models"),
        _field("p_value_old", pa.float64(), "p-value in the old report"),
        _field("p_value_new", pa.float64(), "p-value in the new report"),
        _field("why", pa.string(), "the sentence of the report that holds the anomaly, the new one first"),
    ]
)


@dataclass(frozen=True)
class Comparison:
    """Anomalies of two reports, and what is to be known of the two before reading them."""

    records: pa.Table  # SCHEMA; new ones first, each kind by its rank
    counts: dict[str, int]  # of each status
    shared: int  # record ids that are in both reports, anomalies or not
    comparable: bool  # the scores are of one model with one setting
    notes: tuple[str, ...]  # one line each, for a person


def compare(old: Report, new: Report, *, top_k: int | None = None) -> Comparison:
    """New, persisting and resolved anomalies. With `top_k` an anomaly is one of the first k, else flagged.

    Several records with one id count as one, the highest-ranked. Raises InputError when the reports are one.
    """
    if old.manifest["run"] == new.manifest["run"]:
        raise InputError("both are the same report", file=new.folder, fix="Name an older one first")
    anomalies = [_anomalies(report, top_k) for report in (old, new)]
    wanted = pa.array(sorted(set(anomalies[0]) | set(anomalies[1])), pa.string())
    rows = [_rows(report, wanted) for report in (old, new)]
    comparable = _same_scores(old.manifest, new.manifest)
    found = [_record(key, anomalies, rows, comparable) for key in wanted.to_pylist()]
    found.sort(key=_order)
    counts = {status: sum(row["status"] == status for row in found) for status in STATUSES}
    shared = _shared(old, new)
    notes = _notes(old.manifest, new.manifest, shared, comparable, top_k)
    return Comparison(pa.Table.from_pylist(found, SCHEMA), counts, shared, comparable, tuple(notes))


def previous(report: Report) -> Path | None:
    """The report of the same dataset for the interval before this one, where there is one beside it."""
    as_of = report.manifest["as_of"]
    if as_of is None:
        return None
    found: list[tuple[str, Path]] = []
    for folder in sorted(report.folder.parent.glob("as_of=*")):
        place = publishing.current(folder)
        if (place / publishing.MANIFEST).is_file():
            moment = publishing.read_manifest(place)["as_of"]
            if moment is not None and moment < as_of:
                found.append((moment, place))
    return max(found)[1] if found else None


def write(comparison: Comparison, path: str | Path) -> None:
    """The records as a Parquet file, whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with publishing.whole_file(path) as hidden:
        pq.write_table(comparison.records, hidden, write_page_checksum=True)


def _pieces(report: Report, columns: list[str]) -> Iterator[pa.Table]:
    with pq.ParquetFile(report.path, page_checksum_verification=True, pre_buffer=False) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, columns=columns, use_threads=False)


def _anomalies(report: Report, top_k: int | None) -> set[str]:
    """Ids of the anomalies."""
    ids: set[str] = set()
    for table in _pieces(report, ["record_id", "rank", "flagged"]):
        chosen = table["flagged"] if top_k is None else pc.less_equal(table["rank"], top_k)
        ids.update(table.filter(chosen)["record_id"].to_pylist())
        if top_k is not None and table.num_rows and table["rank"][-1].as_py() >= top_k:
            break
    return ids


def _rows(report: Report, wanted: pa.Array) -> dict[str, dict[str, Any]]:
    """The highest-ranked row of each wanted id that the report holds."""
    rows: dict[str, dict[str, Any]] = {}
    for table in _pieces(report, COLUMNS):
        here = table.filter(pc.is_in(table["record_id"], value_set=wanted))
        for row in here.to_pylist():
            rows.setdefault(row["record_id"], row)
    return rows


def _record(
    key: str, anomalies: list[set[str]], rows: list[dict[str, dict[str, Any]]], comparable: bool
) -> dict[str, Any]:
    was, is_ = key in anomalies[0], key in anomalies[1]
    old, new = rows[0].get(key), rows[1].get(key)
    both = old is not None and new is not None
    row: dict[str, Any] = {
        "record_id": key,
        "status": "persisting" if was and is_ else "new" if is_ else "resolved",
        "rank_change": old["rank"] - new["rank"] if old and new else None,
        "score_change": None,
        "why": next((one["why"] for one in (new, old) if one and one["why"]), None),
    }
    for name, one in (("old", old), ("new", new)):
        row[f"rank_{name}"] = one["rank"] if one else None
        row[f"score_{name}"] = one["anomaly_score"] if one else None
        row[f"p_value_{name}"] = one["p_value"] if one else None
    if both and comparable:
        row["score_change"] = row["score_new"] - row["score_old"]
    return row


def _order(row: dict[str, Any]) -> tuple[int, int, str]:
    rank = row["rank_old"] if row["status"] == "resolved" else row["rank_new"]
    return STATUSES.index(row["status"]), rank, row["record_id"]


def _same_scores(old: dict[str, Any], new: dict[str, Any]) -> bool:
    names = ("draws", "members", "rank_by")
    return old["model"]["sha256"] == new["model"]["sha256"] and all(
        old["settings"].get(name) == new["settings"].get(name) for name in names
    )


def _shared(old: Report, new: Report) -> int:
    """How many ids are in both, by their 64-bit hashes."""
    hashes: list[np.ndarray] = []
    for report in (old, new):
        pieces = [
            pd.util.hash_array(table["record_id"].to_numpy().astype(object))
            for table in _pieces(report, ["record_id"])
        ]
        hashes.append(np.unique(np.concatenate(pieces)) if pieces else np.empty(0, np.uint64))
    return len(np.intersect1d(hashes[0], hashes[1], assume_unique=True))


def _notes(
    old: dict[str, Any], new: dict[str, Any], shared: int, comparable: bool, top_k: int | None
) -> Iterator[str]:
    ours, theirs = new["dataset"], old["dataset"]
    if theirs["name"] != ours["name"]:
        yield f"the reports are of two datasets, {theirs['name']} and {ours['name']}"
    if old["as_of"] and new["as_of"] and old["as_of"] > new["as_of"]:
        yield (
            f"the report compared with is the later one, of {old['as_of']} (this one: {new['as_of']}): "
            "what is called new was there before, so name the two the other way round"
        )
    if not shared:
        keys = [" + ".join(one["ids"]) or "file and row" for one in (theirs, ours)]
        made = "" if keys[0] == keys[1] else f" (made of {keys[0]} in one, of {keys[1]} in the other)"
        yield (
            f"no record id is in both reports{made}, so nothing can persist: "
            "two intervals of events have none in common; two tables of the same things should"
        )
    if not comparable:
        models = [f"{one['model']['name']} version {one['model']['version']}" for one in (old, new)]
        told = f"by {models[0]} and {models[1]}" if models[0] != models[1] else "with other settings"
        yield f"they were scored {told}: compare ranks and p-values, not scores"
    elif old["settings"].get("device") != new["settings"].get("device"):
        yield "one was scored on a GPU, whose scores differ in their last digits"
    if top_k is None and old["decision"] != new["decision"]:
        rules = [", ".join(f"{k} {v}" for k, v in one["decision"].items()) for one in (old, new)]
        yield f"they were flagged by two rules: {rules[0]}, and {rules[1]}"
