"""What the commands that read and compare reports print."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from flows.terminal.text import new_table, number, safe

COLOURS = {"stable": "green", "moderate": "yellow", "strong": "bold red"}
MOVED = 5  # columns that a scoring command names


def drift_line(console: Console, result: Mapping[str, Any]) -> None:
    """One line under a scoring run, and the columns that have moved furthest."""
    found = result.get("drift")
    if not found:
        return
    moved = found["moved"]
    told = f"{len(moved)} of {found['columns']} columns moved" if moved else "no column moved"
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


def _drift_rows(console: Console, rows: list[dict[str, Any]]) -> None:
    table = new_table("column", "drift", "effect", "what has moved")
    for row in rows:
        table.add_row(
            safe(row["column"]), _verdict(row["verdict"]), number(row["effect"]), safe(row["change"])
        )
    console.print(table)


def _verdict(verdict: str) -> str:
    return f"[{COLOURS[verdict]}]{verdict}[/]"
