"""Text for a terminal and for CSV: what comes from the user's files is data, nothing in it is obeyed."""

from __future__ import annotations

import csv
import inspect
import json
import math
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vae_core.errors import one_line

if TYPE_CHECKING:
    import typer

BAR = 10  # characters of the longest bar


def examples(*commands: str) -> str:
    """The end of a help page: commands to copy, each on a line of its own."""
    return "Examples:\n\n" + "\n\n".join(f"$ {escape(command)}" for command in commands)


def flow_help(app: typer.Typer) -> None:
    """Let the paragraphs of every command's help fill the terminal: typer keeps the source's line breaks."""
    for command in app.registered_commands:
        paragraphs = (command.help or inspect.getdoc(command.callback) or "").split("\n\n")
        command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def safe(value: object) -> str:
    """A user's text for rich: one line, nothing obeyed.

    >>> safe("[red]a[/red]\\x1b[2J")
    '\\\\[red]a\\\\[/red]\\\\x1b[2J'
    """
    return escape(one_line(str(value)))


def cut(value: object, longest: int) -> str:
    """Text of at most so many characters.

    >>> cut("a long text", 6), cut("short", 6)
    ('a lon…', 'short')
    """
    text = str(value)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def to_paste(command: str, *arguments: str) -> str:
    """A command to paste; `--` stands before arguments that would be taken for options.

    >>> to_paste("explain", "my reports", "s1"), to_paste("explain", "reports", "-2+3")
    ("elborank explain 'my reports' s1", 'elborank explain -- reports -2+3')
    """
    options_end = ["--"] if any(argument.startswith("-") for argument in arguments) else []
    words = (shlex.quote(one_line(argument)) for argument in arguments)
    return " ".join(["elborank", command, *options_end, *words])


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


def print_yaml(document: Mapping[str, Any]) -> None:
    """A document as YAML on standard output."""
    import yaml

    print(yaml.safe_dump(plain(document), sort_keys=False, allow_unicode=True), end="")


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


def print_csv(records: Iterable[Mapping[str, Any]], names: Sequence[str]) -> None:
    """Records of these columns as CSV; a text that a spreadsheet would take for a formula begins with an
    apostrophe."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)
    for row in records:
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


def new_table(*columns: str) -> Table:
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


def number(value: float | None) -> str:
    """A number to read, with four or more digits.

    >>> number(12345.678), number(0.0123456), number(None)
    ('12,346', '0.01235', '')
    """
    if value is None or math.isnan(value):
        return ""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}"


def counted(count: int, what: str) -> str:
    """A number of things.

    >>> counted(1, "record"), counted(1200, "record"), counted(0, "record")
    ('1 record', '1,200 records', '0 records')
    """
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def which_elbo(result: Mapping[str, Any]) -> str:
    """What records the ELBO is of.

    >>> which_elbo({"heldout_is": "fit"}), which_elbo({"heldout_is": "calibration"})
    ('training ELBO', 'held-out ELBO')
    """
    return "training ELBO" if result.get("heldout_is") == "fit" else "held-out ELBO"


def bar(value: float, largest: float) -> str:
    """A bar that is full for the largest value, in eighths of a character, and empty for 0 and below.

    >>> bar(10.0, 10.0), bar(3.0, 10.0), bar(-1.0, 10.0)
    ('██████████', '███', '')
    """
    eighths = round(8 * BAR * max(0.0, value) / largest) if largest > 0 else 0
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def blank(value: object) -> object:
    return "" if value is None else value
