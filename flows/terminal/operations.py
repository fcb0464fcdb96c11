"""What the commands for scheduled work print of their results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from flows.intervals import in_utc
from flows.terminal.text import new_table, safe

SHOWN = 20  # intervals of a backfill; the others are counted


def deployments(console: Console, result: Mapping[str, Any]) -> None:
    table = new_table("deployment", "schedule")
    for row in result["deployments"]:
        table.add_row(safe(row["deployment"]), safe(row["schedule"]))
    console.print(table)
    for name in result["left"]:
        console.print(
            f"[bold]{safe(name)}[/bold] is on the server from before, with its schedule, and this file does "
            f"not ask for it. To remove it: prefect deployment delete '{safe(name)}'",
            soft_wrap=True,
        )
    pool = safe(result["pool"])
    console.print(
        f"For the workers of the {result['type']} pool {pool}. Start one: prefect worker start --pool {pool}",
        soft_wrap=True,
    )


def decision(console: Console, result: Mapping[str, Any]) -> None:
    word = "may be promoted" if result["passed"] else "is refused"
    against = f" against version {result['champion']}" if result["champion"] else ""
    console.print(f"[bold]{safe(result['name'])}[/bold] version {result['version']} {word}{against}")
    table = new_table("check", "", "found", "needed")
    signs = {True: "[green]ok[/]", False: "[bold red]no[/]", None: "-"}
    for row in result["checks"]:
        table.add_row(row["check"], signs[row["passed"]], safe(row["found"]), safe(row["needed"]))
    console.print(table)


def backfilled(console: Console, result: Mapping[str, Any]) -> None:
    table = new_table("interval (UTC)", "records", "flagged", "outcome")
    for row in result["intervals"][:SHOWN]:
        told = safe(row["problem"] or row["outcome"])
        ranked, flagged = (f"{row[key]:,}" if key in row else "" for key in ("ranked", "flagged"))
        table.add_row(f"{in_utc(row['start'])} to {in_utc(row['end'])}", ranked, flagged, told)
    console.print(table)
    if len(result["intervals"]) > SHOWN:
        console.print(f"and {len(result['intervals']) - SHOWN:,} more intervals")
    console.print(
        f"{result['published']:,} published, {result['kept']:,} there already, {result['failed']:,} failed"
    )
    if waiting := result["not_over"]:
        intervals = "1 interval is" if waiting == 1 else f"{waiting:,} intervals are"
        delay = f" (its delay of {safe(result['delay'])} counted)" if result["delay"] else ""
        console.print(
            f"{intervals} left out: not over yet{delay}. The schedule scores what is still to come",
            soft_wrap=True,
        )
    console.print(f"Reports: {safe(result['output'])}", soft_wrap=True)
