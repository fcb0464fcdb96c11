"""What the page tells, read from a report's folder: plain values and drawings for the template."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vae_core import drift
from vae_core.card import read_card, without_flags
from vae_core.page import changes, charts, sentences, strips, wording
from vae_core.page.scores import read_scores
from vae_core.report import Report

__all__ = ["DETAILED", "LISTED", "gather", "of_card"]

LISTED, DETAILED = 1_000, 200  # records in the page; of these so many open to their reasons
MOST_PICTURES = 1_200_000  # bytes of embedded pictures
QUARANTINED = 20  # lines of the quarantine
DRIFTING = 60  # rows of the drift table
OPTIONAL = (
    "p_value", "q_value", "elbo_se", "part", "elbo_excess", "complexity_bits", "known", "tilt_nats",
)  # fmt: skip


def gather(
    folder: Path,
    manifest: Mapping[str, Any],
    *,
    listed: int,
    detailed: int,
    hide_values: bool,
    earlier: Report | None = None,
) -> dict[str, Any]:
    """Everything that the template shows, of a report of any age: what an old one lacks is left out."""
    ours = Report(folder, dict(manifest))
    card = read_card(folder)
    strip = strips.Strips(card["columns"] if card and not hide_values else [])
    pictures = _pictures(folder, 0 if hide_values else MOST_PICTURES)
    records = [
        _record(row, place < detailed, strip, pictures, hide_values=hide_values)
        for place, row in enumerate(_rows(folder / "report.parquet", listed))
    ]
    scores = read_scores(folder / "report.parquet", (card or {}).get("scores"))
    return {
        "name": manifest["dataset"]["name"],
        "manifest": manifest,
        "counts": manifest["counts"],
        "model": manifest["model"],
        "rule": wording.flag_rule(manifest["decision"]),
        "unsure": wording.unsure_flags(manifest["counts"]),
        "unflagged": without_flags(card, manifest),
        "records": records,
        "detailed": min(detailed, len(records)),
        "symbols": strip.symbols(),
        "histogram": charts.histogram(scores) if scores else None,
        "calibration": charts.p_values(scores) if scores and sum(scores.p_counts) else None,
        "threshold": scores.threshold if scores else None,
        "quarantine": _quarantine(folder / "quarantine.parquet", hide_values=hide_values),
        "changes": None if earlier is None else changes.gather(earlier, ours, hide_values=hide_values),
        "drift": _drift(folder, hide_values=hide_values),
        "card": card,
        **of_card(card),
        "hide_values": hide_values,
        "charge": wording.CHARGE if any(record["tilt_nats"] for record in records) else None,
        "images": any(record["picture"] for record in records),
    }


def of_card(card: Mapping[str, Any] | None) -> dict[str, Any]:
    """The drawings of a model card."""
    return {
        "tail": charts.tail(card["scores"]) if card and card.get("scores") else None,
        "curve": charts.training_curve(card["summary"].get("history") or []) if card else None,
    }


def _rows(path: Path, count: int) -> Iterator[dict[str, Any]]:
    """The first rows of the report, in order; reads no more of the file than these need."""
    with pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
        left = count
        for batch in file.iter_batches(batch_size=min(count, 8192), use_threads=False):
            yield from batch.slice(0, left).to_pylist()
            left -= batch.num_rows
            if left <= 0:
                return


def _record(
    row: dict[str, Any],
    detailed: bool,
    strip: strips.Strips,
    pictures: Mapping[int, str],
    *,
    hide_values: bool,
) -> dict[str, Any]:
    """One row of the ranking; with its reasons where it is among the first."""
    reasons = row["reasons"] if detailed and row["reasons"] else []
    record = dict.fromkeys(OPTIONAL) | row
    if hide_values:
        record["why"] = wording.without_values(row["reasons"] or []) if row["why"] is not None else None
    record["names"] = sentences.delicate(row["reasons"] or [])
    told = [_reason(reason, strip, hide_values=hide_values) for reason in reasons]
    most = max((abs(reason["below"]) for reason in told), default=0.0)
    for reason in told:
        reason["share"] = round(100 * abs(reason["below"]) / most) if most else 0
    record["reasons"] = told
    # The page's column adds up: surprises + what is usual, with the other columns + the charge = the bound.
    charge = float(record["tilt_nats"] or 0.0)  # reports of before there was a tilt have none
    record["usual"] = row["bound"] - charge - sum(reason["below"] for reason in told)
    record["detailed"] = bool(reasons)
    record["picture"] = pictures.get(row["rank"]) if detailed else None
    return record


def _reason(reason: dict[str, Any], strip: strips.Strips, *, hide_values: bool) -> dict[str, Any]:
    below = reason["nats"] - reason["typical"]
    told = {**reason, "below": below, "strip": None}
    if reason["feature"] == wording.COMBINATION:
        return {**told, "feature": "unusual combination of values", "value": None, "expected": None}
    if hide_values:
        return {**told, "value": wording.HIDDEN, "expected": wording.HIDDEN, "low": None, "high": None}
    return {**told, "strip": strip.draw(reason)}


def _pictures(folder: Path, most: int) -> dict[int, str]:
    """Rank -> data URI of image, expectation and map; as many from the top as `most` bytes hold."""
    found: dict[int, str] = {}
    for path in sorted((folder / "images").glob("rank-*.png")) if most else []:
        content = base64.b64encode(path.read_bytes()).decode()
        most -= len(content)
        if most < 0:
            break
        found[int(path.stem.removeprefix("rank-"))] = f"data:image/png;base64,{content}"
    return found


def _drift(folder: Path, *, hide_values: bool) -> list[dict[str, Any]]:
    """The drift table's first rows, the score's before the columns'; none where there is no such table."""
    table = drift.read(folder)
    rows: list[dict[str, Any]] = [] if table is None else table.slice(0, DRIFTING).to_pylist()
    for row in rows:
        row["name"] = "the anomaly score" if row["kind"] == "score" else row["column"]
        row["picture"] = strips.shares(row["bins"])
        if hide_values and row["kind"] != "score":
            row |= {"change": wording.HIDDEN, "picture": None}
    return rows


def _quarantine(path: Path, *, hide_values: bool) -> list[dict[str, Any]]:
    """The first lines of the quarantine: where, why and the raw text."""
    if not path.is_file():
        return []
    with pq.ParquetFile(path) as file:
        first = next(file.iter_batches(batch_size=QUARANTINED), pa.RecordBatch.from_pylist([]))
    lines: list[dict[str, Any]] = first.to_pylist()
    if hide_values:  # the reason quotes the text
        lines = [{**line, "raw": wording.HIDDEN, "reason": wording.HIDDEN} for line in lines]
    return lines
