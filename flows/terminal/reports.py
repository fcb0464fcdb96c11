"""What the commands that read and compare reports print."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from flows.terminal.text import counted, cut, new_table, number, safe

COLOURS = {"stable": "green", "moderate": "yellow", "strong": "bold red"}
STATUS = {"new": "bold red", "persisting": "yellow", "resolved": "green"}
SHOWN = 10  # records of each status
SHOWN_LINES = 50  # judgements, the last ones
MOVED = 5  # columns that a scoring command names
NOTE = 60  # characters of a note in a table
LONGEST = 40  # characters of a value beside others
VALUES_SHOWN, BESIDE = 20, 4  # columns, and similar records beside each other, that fit a terminal


def drift_line(console: Console, result: Mapping[str, Any]) -> None:
    """One line under a scoring run, and the columns that have moved furthest."""
    found = result.get("drift")
    if not found:
        return
    moved = found["moved"]
    columns = [row for row in moved if row["kind"] != "score"]
    what = [f"{len(columns)} of {counted(found['columns'], 'column')}"] if columns else []
    what += ["the score"] if len(columns) < len(moved) else []
    told = f"{' and '.join(what)} moved" if what else "no column moved"
    console.print(f"Drift since training: {_verdict(found['verdict'])}, {told}")
    if moved:
        _drift_rows(console, moved[:MOVED])


def drift(console: Console, result: Mapping[str, Any]) -> None:
    """The whole table of `elborank drift`."""
    _drift_rows(console, result["rows"])
    console.print(
        "Effect: the share of records that moved (0 to 1); moderate from 0.1, strong from 0.25. "
        f"Training's records against {result['ranked']:,} of this report."
    )


def listed(console: Console, result: Mapping[str, Any]) -> None:
    """The report of each interval, the last ones."""
    rows = result["reports"]
    table = new_table("as of (UTC)", "records", "flagged", "model", "report")
    for row in rows[-SHOWN_LINES:]:
        version = f"version {row['model_version']}"[:20]
        name = safe(row["folder"].rpartition("/")[2])
        table.add_row(row["as_of"], f"{row['ranked']:,}", f"{row['flagged']:,}", safe(version), name)
    console.print(table)
    if len(rows) > SHOWN_LINES:
        console.print(f"and {len(rows) - SHOWN_LINES:,} earlier ones; --json has all")
    for problem in result["damaged"]:
        console.print(f"[yellow]Left out:[/] {safe(problem)}")


def mark(record: Mapping[str, Any], longest: int = NOTE) -> str:
    """What somebody has said of the record, before its reasons; of a note at most so many characters."""
    said = record.get("feedback")
    if not said:
        return ""
    note = f": {safe(cut(record['feedback_note'], longest))}" if record.get("feedback_note") else ""
    return f"[green]\\[known: expected{note}][/] " if said == "expected" else f"[red]\\[confirmed{note}][/] "


def diff(console: Console, result: Mapping[str, Any]) -> None:
    """New, persisting and resolved anomalies; the first of each kind."""
    for note in result["notes"]:
        console.print(f"[yellow]Note:[/] {safe(note)}")
    counts = ", ".join(f"{count:,} {status}" for status, count in result["counts"].items())
    both = "is in both reports" if result["shared"] == 1 else "are in both reports"
    console.print(f"[bold]{counts}[/bold]; {counted(result['shared'], 'record id')} {both}")
    table = new_table("", "record", "rank", "before", "score", "change", "why")
    shown = dict.fromkeys(result["counts"], 0)
    for row in result["records"]:
        status = row["status"]
        shown[status] += 1
        if shown[status] <= SHOWN:
            rank, before = (_rank(row[f"rank_{name}"]) for name in ("new", "old"))
            score = row["score_new"] if row["score_new"] is not None else row["score_old"]
            table.add_row(
                f"[{STATUS[status]}]{status}[/]", safe(row["record_id"]), rank, before, number(score),
                number(row["score_change"]), mark(row) + safe(row["why"] or ""),
            )  # fmt: skip
    console.print(table)
    for status, count in shown.items():
        if count > SHOWN:
            console.print(f"and {count - SHOWN:,} more that are {status} (--json, --output FILE.parquet)")
    if result["output"]:
        console.print(f"Comparison: {safe(result['output'])}", soft_wrap=True)


def similar(console: Console, result: Mapping[str, Any]) -> None:
    """Normal records that are like the rest of a strange one: who they are, their values beside its own."""
    found = result["similar"]
    if not found:
        console.print("No record of this report is normal enough to be compared with.")
        return
    console.print("Similar normal records, the strange columns left aside:")
    for place, row in enumerate(found, start=1):
        told = f"({place}) {safe(row['record_id'])}, rank {row['rank']:,}, distance {number(row['distance'])}"
        console.print(told)
    if "values" not in result:
        return
    first = [reason["feature"] for reason in result["reasons"] if reason["feature"] in result["values"]]
    rest = [name for name in result["values"] if name not in first]
    names = [*first, *rest][:VALUES_SHOWN]
    beside = found[:BESIDE]
    table = new_table("column", "this record", *(f"({place})" for place in range(1, len(beside) + 1)))
    for name in names:
        own = safe(cut(result["values"][name], LONGEST))
        shown = f"[bold]{own}[/]" if name in first else own
        table.add_row(safe(name), shown, *(safe(cut(row["values"][name], LONGEST)) for row in beside))
    console.print(table)
    if len(names) < len(result["values"]) or len(beside) < len(found):
        console.print("All columns and records: --json")


def _rank(rank: int | None) -> str:
    return "-" if rank is None else f"{rank:,}"


def judged(console: Console, result: Mapping[str, Any]) -> None:
    """Judgements, and precision at k of each report."""
    if not result["lines"]:
        console.print("No feedback yet: elborank feedback add REPORT RECORD --verdict expected|anomaly")
        return
    table = new_table("dataset", "record", "verdict", "rank", "as of", "note")
    for line in result["lines"][-SHOWN_LINES:]:
        when = line["as_of"] or f"run {line['run'][:8]}"
        table.add_row(
            safe(line["dataset"]), safe(line["record_id"]), line["verdict"], f"{line['rank']:,}", safe(when),
            safe(cut(line["note"] or "", NOTE)),
        )  # fmt: skip
    console.print(table)
    k = result["k"]
    table = new_table("dataset", "as of", "model", f"precision at {k}", "judged")
    for row in result["precision"]:
        table.add_row(
            safe(row["dataset"]), safe(row["as_of"] or f"run {row['run'][:8]}"),
            f"{safe(row['model'])} {safe(row['model_version'])}", number(row["precision"]),
            f"{row['judged']} of {k}",
        )  # fmt: skip
    console.print(table)


def judgement(console: Console, result: Mapping[str, Any]) -> None:
    """One line that was just written."""
    console.print(
        f"[bold]{safe(result['record_id'])}[/bold] of {safe(result['dataset'])} (rank {result['rank']:,}): "
        f"{result['verdict']}. "
        + (
            "Later reports mark it as known."
            if result["verdict"] == "expected"
            else f"The next training on data named {safe(result['dataset'])} leaves it out."
        )
    )


def _drift_rows(console: Console, rows: list[dict[str, Any]]) -> None:
    table = new_table("column", "drift", "effect", "what has moved")
    for row in rows:
        table.add_row(
            safe(row["column"]), _verdict(row["verdict"]), number(row["effect"]), safe(row["change"])
        )
    console.print(table)


def _verdict(verdict: str) -> str:
    return f"[{COLOURS[verdict]}]{verdict}[/]"
