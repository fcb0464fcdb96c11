"""The model card in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from rich.console import Console
from rich.table import Table

from flows.terminal.text import counted, new_table, number, safe, which_elbo

CATEGORIES = 3  # of a column, the most frequent ones


def model_card(console: Console, result: Mapping[str, Any]) -> None:
    """What the model was trained on, how good it is, and what its columns were like."""
    card = result["card"]
    aliases = f" ({', '.join(result['aliases'])})" if result["aliases"] else ""
    console.print(f"[bold]{safe(result['name'])}[/bold] version {safe(result['version'])}{safe(aliases)}")
    facts = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    facts.add_column(no_wrap=True, style="bold")
    facts.add_column(overflow="fold")
    for name, text in _facts(card):
        facts.add_row(name, safe(text))
    console.print(facts)
    if tilts := card.get("tilts"):
        members = new_table("member", "usual bound", "spread")
        for name, own in tilts.items():
            members.add_row(safe(name), number(own["usual"]), number(own["spread"]))
        console.print(members)
        console.print(
            "A member's bound (nats) that lies below the usual one is lowered by the square of the distance "
            "over the spread."
        )
    if card["columns"]:
        columns = new_table("column", "likelihood", "missing", "in training")
        known = card["summary"].get("likelihoods") or {}
        for column in card["columns"]:
            kind = known.get(column["name"], column["kind"])
            columns.add_row(safe(column["name"]), safe(kind), _share(column), safe(_distribution(column)))
        console.print(columns)
    for name, reason in card["left_out"].items():
        console.print(f'Left out: column "{safe(name)}" ({safe(reason)})')
    console.print(f"Model folder: {safe(result['folder'])}", soft_wrap=True)


def _facts(card: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    summary, scores = card["summary"], card["scores"]
    if rows := summary.get("rows"):
        yield (
            "Trained on",
            f"{counted(rows['fit'], 'record')}; {rows['selection']:,} chose the best state, "
            f"{rows['calibration']:,} {'was' if rows['calibration'] == 1 else 'were'} held out for p-values",
        )
    if summary.get("heldout_elbo") is not None:
        beside = ""
        if summary.get("linear_start_elbo") is not None:
            beside = f"; probabilistic PCA with the same likelihoods {number(summary['linear_start_elbo'])}"
        elif summary.get("ppca") is not None:
            beside = f"; probabilistic PCA's log P(x) {number(summary['ppca'])}"
        what = which_elbo(summary)
        yield what[0].upper() + what[1:], f"{number(summary['heldout_elbo'])} nats a record{beside}"
    holds = "; it holds training records" if summary.get("holds_training_records") else ""
    members = ", ".join(f"{name} {100 * weight:.0f}%" for name, weight in card["members"].items())
    yield "Members", f"{members}{holds}"
    yield "Draws", f"{card['draws']}, the same for all records"
    if scores is None:
        yield "p-values", "none: no records were held out"
    else:
        tail = scores["tail_from"]
        fitted = f"; a fitted tail from a score of {number(tail)} on" if tail is not None else "; no tail"
        yield "p-values", f"from {counted(scores['records'], 'held-out record')}{fitted}"
    if card["time"]:
        yield "Time", f"{card['time']} is context, not a feature"
    if summary.get("steps"):
        yield "Training", counted(summary["steps"], "step")
    yield "Made by", f"elborank {card['code_version']}"


def _share(column: Mapping[str, Any]) -> str:
    if not column["missing"]:
        return ""
    return f"{100 * column['missing'] / max(1, column['rows']):.2g}%"


def _distribution(column: Mapping[str, Any]) -> str:
    """The middle and most of a column's values; of a category the most frequent ones."""
    if told := column.get("categories"):
        more = ", ..." if len(told) > CATEGORIES else ""
        rows = max(1, column["rows"])
        return ", ".join(f"{name} {100 * count / rows:.2g}%" for name, count in told[:CATEGORIES]) + more
    levels = column.get("quantiles")
    if not levels:
        return ""
    if column["kind"] == "boolean":
        return f"true {100 * sum(levels) / len(levels):.2g}%"
    last = len(levels) - 1
    shown = _date if column["type"] == "timestamp" else number
    low, middle, high = (shown(levels[round(share * last)]) for share in (0.025, 0.5, 0.975))
    return f"{middle} ({low} to {high})"


def _date(microseconds: float) -> str:
    return f"{datetime(1970, 1, 1) + timedelta(microseconds=microseconds):%Y-%m-%d}"
