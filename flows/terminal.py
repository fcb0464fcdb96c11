"""What the command line shows: results on standard output as tables or JSON, the rest on standard error.

Text that comes from the user's files is data: control characters become visible and markup is not obeyed.
"""

from __future__ import annotations

import csv
import json
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vae_core.errors import one_line

__all__ = ["csv_cell", "examples", "fail", "print_csv", "scoring", "show", "spinner", "training"]


def examples(*commands: str) -> str:
    """The end of a help page: commands to copy, each on a line of its own."""
    return "Examples:\n\n" + "\n\n".join(f"$ {escape(command)}" for command in commands)


def safe(value: object) -> str:
    """A user's text for rich: one line, nothing obeyed.

    >>> safe("[red]a[/red]\\x1b[2J")
    '\\\\[red]a\\\\[/red]\\\\x1b[2J'
    """
    return escape(one_line(str(value)))


def fail(message: str, code: int) -> int:
    """One line on standard error; the exit code comes back."""
    print(f"elborank: {one_line(message)}", file=sys.stderr)
    return code


def show(result: Mapping[str, Any], as_json: bool, render: Any) -> None:
    """A command's result: one JSON document, or what `render(console, result)` prints."""
    if as_json:
        print(json.dumps(plain(result), ensure_ascii=False, allow_nan=False, indent=2))
    else:
        render(Console(highlight=False, emoji=False), result)


def plain(value: Any) -> Any:
    """A value as JSON has it: NaN and infinities become null, times ISO text, paths text."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def print_csv(records: Iterable[Mapping[str, Any]]) -> None:
    """Records as CSV; a text that a spreadsheet would take for a formula begins with an apostrophe."""
    rows = list(records)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    names = list(rows[0]) if rows else []
    writer.writerow(names)
    for row in rows:
        writer.writerow([csv_cell(row[name]) for name in names])


def is_formula(text: str) -> bool:
    """Whether a spreadsheet would obey this text. A lone sign and a negative number are what they are.

    >>> [is_formula(text) for text in ("=cmd|'/c calc'!A0", "@x", "-", "-1.5", "+1+cmd", "EWR")]
    [True, True, False, False, True, False]
    """
    if text[:1] in ("+", "-"):
        return len(text) > 1 and not re.fullmatch(r"[+-][0-9.]+(?:[eE][+-]?[0-9]+)?", text)
    return text[:1] in ("=", "@", "\t", "\r", "\n")


def csv_cell(value: Any) -> Any:
    """A cell of a CSV file.

    >>> csv_cell("=1+1"), csv_cell(-1.5), csv_cell(float("nan"))
    ("'=1+1", -1.5, '')
    """
    if isinstance(value, list | Mapping):
        value = json.dumps(plain(value), ensure_ascii=False)
    value = plain(value)
    if isinstance(value, str):
        return f"'{value}" if is_formula(value) else value
    return "" if value is None else value


# What each command prints.


def dataset(console: Console, result: Mapping[str, Any]) -> None:
    console.print(
        f"[bold]{safe(result['name'])}[/bold]: {result['rows']:,} records, {result['quarantined']:,} in "
        f"quarantine, {result['outside']:,} outside the interval"
    )
    table = _table("column", "type")
    for name, kind in result["columns"].items():
        table.add_row(safe(name), safe(kind))
    console.print(table)
    _warnings(console, result)
    console.print(f"Dataset: {safe(result['folder'])}", soft_wrap=True)


def trained(console: Console, result: Mapping[str, Any]) -> None:
    if result["reused"]:
        console.print("Nothing to do: the same data and settings were trained before.")
    aliases = ", ".join(result["aliases"])
    console.print(
        f"[bold]{safe(result['name'])}[/bold] version {result['version']}"
        + (f" ({aliases})" if aliases else "")
        + f": held-out ELBO {_number(result['heldout_elbo'])} nats on average"
        + f", linear start {_number(result['linear_start_elbo'])}"
    )
    if result["better_than_linear_start"] is False:
        console.print(
            "[bold yellow]The VAE is not better than its own linear start: little is gained over pPCA.[/]"
        )
    for name, reason in result["left_out"].items():
        console.print(f'Left out: column "{safe(name)}" ({safe(reason)})')
    _warnings(console, result)
    console.print(f"Model: models:/{result['name']}/{result['version']}", soft_wrap=True)


def scored(console: Console, result: Mapping[str, Any]) -> None:
    if not result["published"]:
        console.print("Nothing to do: this report is published already.")
    console.print(
        f"{result['ranked']:,} records ranked, {result['flagged']:,} flagged, "
        f"{result['quarantined']:,} in quarantine, by {safe(result['model'])} "
        f"version {safe(result['model_version'])}"
    )
    _records(console, result["top"])
    _warnings(console, result)
    console.print(f"Report: {safe(result['folder'])}", soft_wrap=True)


def ranking(console: Console, result: Mapping[str, Any]) -> None:
    _records(console, result["records"])
    console.print(
        f"{len(result['records']):,} of {result['ranked']:,} records, {result['flagged']:,} flagged"
    )


def _records(console: Console, records: Iterable[Mapping[str, Any]]) -> None:
    table = _table("rank", "record", "score", "why")
    for record in records:
        flag = "[bold red]*[/]" if record.get("flagged") else ""
        table.add_row(
            f"{record['rank']}{flag}", safe(record["record_id"]), _number(record["anomaly_score"]),
            safe(record["why"] or ""),
        )  # fmt: skip
    console.print(table)


def explained(console: Console, result: Mapping[str, Any]) -> None:
    flagged = "flagged" if result["flagged"] else "not flagged"
    console.print(
        f"[bold]{safe(result['record_id'])}[/bold]: rank {result['rank']:,} of {result['ranked']:,}, "
        f"score {_number(result['anomaly_score'])} nats, p-value {_number(result['p_value'])}, {flagged}"
    )
    whole = "" if result["bound"] == result["elbo"] else f"bound {_number(result['bound'])}; the VAE's "
    reconstruction, kl = _number(result["reconstruction"]), _number(result["kl"])
    console.print(f"{whole}elbo {_number(result['elbo'])} = reconstruction {reconstruction} - KL {kl}")
    if result["why"]:
        console.print(safe(result["why"]))
    if not result["reasons"]:
        console.print("No reasons are kept for a record this far down the ranking.")
        return
    table = _table("column", "value", "expected", "usually", "nats", "typical")
    for reason in result["reasons"]:
        usual = " to ".join(str(reason[k]) for k in ("low", "high") if reason.get(k) is not None)
        table.add_row(
            safe(reason["feature"]), safe(_blank(reason["value"])), safe(_blank(reason["expected"])),
            safe(usual), _number(reason["nats"]), _number(reason["typical"]),
        )  # fmt: skip
    table.add_row("the rest", "", "", "", _number(result["rest_nats"]), "")
    console.print(table)


def generated(console: Console, result: Mapping[str, Any]) -> None:
    console.print(f"{result['n']:,} records in {safe(result['output'])}", soft_wrap=True)
    if not result["distances"]:
        return
    console.print("Distance of each column to the training data (0 = the same distribution, 1 = apart):")
    table = _table("column", "measure", "VAE", "pPCA")
    for row in result["distances"]:
        table.add_row(safe(row["column"]), row["measure"], _number(row["vae"]), _number(row["ppca"]))
    console.print(table)


def models(console: Console, result: Mapping[str, Any]) -> None:
    if not result["models"]:
        console.print("No models yet: elborank train PATH --name NAME")
        return
    table = _table("model", "version", "aliases", "held-out ELBO", "records", "created")
    for row in result["models"]:
        table.add_row(
            safe(row["name"]), row["version"], ", ".join(row["aliases"]), _number(row["heldout_elbo"]),
            "" if row["rows"] is None else f"{row['rows']:,}", row["created"][:10],
        )  # fmt: skip
    console.print(table)


def promoted(console: Console, result: Mapping[str, Any]) -> None:
    name = safe(result["name"])
    if not result["changed"]:
        console.print(f"Nothing to do: version {result['champion']} is the champion of {name} already.")
        return
    before = f"; version {result['previous']} is `previous` now" if result["previous"] else ""
    console.print(f"Version {result['champion']} is the champion of {name}{before}.")


def deployed(console: Console, result: Mapping[str, Any]) -> None:
    console.print(
        f"Serving [bold]{safe(result['deployment'])}[/bold], {safe(result['schedule'])}. Reports go to "
        f"{safe(result['output'])}. Ctrl-C stops.",
        soft_wrap=True,
    )


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        right = column in (
            "rank",
            "score",
            "nats",
            "typical",
            "VAE",
            "pPCA",
            "records",
            "held-out ELBO",
            "version",
        )
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    return table


def _warnings(console: Console, result: Mapping[str, Any]) -> None:
    for warning in result["warnings"]:
        console.print(f"[yellow]Warning:[/] {safe(warning)}")
    for line in result["quarantine"]:
        column = f', column "{safe(line["column"])}"' if line["column"] is not None else ""
        console.print(
            f"In quarantine: {safe(line['file'])}{column}, row {line['row']}: {safe(line['reason'])}"
        )
    if result["quarantined"] > len(result["quarantine"]):
        more = result["quarantined"] - len(result["quarantine"])
        console.print(f"and {more:,} more, all in quarantine.parquet")


def _blank(value: object) -> object:
    return "" if value is None else value


def _number(value: float | None) -> str:
    """A number to read, with four or more digits.

    >>> _number(12345.678), _number(0.0123456), _number(None)
    ('12,346', '0.01235', '')
    """
    if value is None or math.isnan(value):
        return ""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}"


# Progress, on standard error; none for --json.


@contextmanager
def spinner(text: str, *, quiet: bool = False) -> Iterator[None]:
    """A sign of life for a step without a measure."""
    with Console(stderr=True, quiet=quiet).status(text):
        yield None


@contextmanager
def training(*, quiet: bool = False) -> Iterator[Any]:
    """Yields a callback for `training.fit`: steps done, held-out ELBO, time left."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("Training"), BarColumn(bar_width=20), MofNCompleteColumn(),
        TextColumn("held-out ELBO {task.fields[elbo]}"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True, quiet=quiet), transient=True) as bar:
        task = bar.add_task("training", total=None, elbo="-")

        def show_step(state: Any) -> None:
            elbo = getattr(state, "heldout_elbo", None)
            fields = {} if elbo is None or math.isnan(elbo) else {"elbo": f"{elbo:.3f}"}
            bar.update(task, total=state.steps, completed=state.step, **fields)

        yield show_step


@contextmanager
def scoring(*, quiet: bool = False) -> Iterator[Any]:
    """Yields a callback (done, total) in units."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("Scoring"), BarColumn(bar_width=20), MofNCompleteColumn(), TextColumn("units"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True, quiet=quiet), transient=True) as bar:
        task = bar.add_task("scoring", total=None)

        def show_units(done: int, total: int) -> None:
            bar.update(task, total=total, completed=done)

        yield show_units
