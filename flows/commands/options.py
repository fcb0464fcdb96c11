"""Options that several commands share, each with its one help text; whether a command runs as a flow."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated, Literal

import typer

from vae_core.errors import InputError, one_line

PathArgument = Annotated[
    str,
    typer.Argument(help="A Parquet or CSV file, a folder of them or of images, a glob, or a dataset."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
UsePrefect = Annotated[
    bool, typer.Option("--prefect", help="Run as a Prefect flow, even without PREFECT_API_URL.")
]
Ids = Annotated[list[str], typer.Option("--id", help="A column of the record's key. Repeat for several.")]
From = Annotated[str | None, typer.Option("--from", help="Only records from this UTC time on (2013-03-01).")]
Until = Annotated[str | None, typer.Option(help="Only records before this UTC time.")]
Time = Annotated[str | None, typer.Option(help="The timestamp column meant by --from and --until.")]
NullValues = Annotated[
    list[str],
    typer.Option("--null-values", help="A text that stands for a missing cell. Repeat for several."),
]
OnSchema = Annotated[str, typer.Option(help="When files differ in their columns: warn, or stop.")]
Encoding = Annotated[str, typer.Option(help="How CSV files are written: utf-8, latin-1, ...")]
Delimiter = Annotated[
    str | None, typer.Option(help="What separates the columns of CSV files. Default: a comma.")
]
Dataset = Annotated[str | None, typer.Option("--dataset", help="The dataset's name. Default: from the path.")]
Model = Annotated[str, typer.Option(help="models:/NAME@champion, models:/NAME/VERSION, or a model's folder.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes that score at the same time.")]
Device = Annotated[str, typer.Option(help="cpu, cuda (a GPU: quicker, other last digits) or auto.")]
Engine = Annotated[
    Literal["local", "ray"],
    typer.Option(help="local: processes of this machine. ray: actors of the cluster that RAY_ADDRESS names."),
]
Fdr = Annotated[
    float | None, typer.Option(help="Flag with this false discovery rate (0.05: one in 20 is wrong).")
]
Alpha = Annotated[float | None, typer.Option(help="Flag records whose p-value is at most this.")]
TopK = Annotated[int | None, typer.Option(min=0, help="Flag the K highest-ranked records.")]
RankBy = Annotated[
    str | None,
    typer.Option(help="elbo: rank by the pure bound. Images: combined (the default) or elbo."),
]
HideValues = Annotated[
    bool,
    typer.Option("--hide-values", help="Show columns, keys and nats, but no value of any record."),
]
Size = Annotated[
    str | None, typer.Option(help="Images: bring them to WIDTHxHEIGHT. Default: their own, up to 64.")
]
Fit = Annotated[str | None, typer.Option(help="Images of another size: stretch (default), crop or pad.")]
Colour = Annotated[str | None, typer.Option(help="Images: grey or rgb. Default: as they are.")]
ImageColumn = Annotated[
    str | None, typer.Option(help="Images: the Parquet column of their bytes, or the array of an .npz file.")
]
Members = Annotated[
    str | None,
    typer.Option(
        help="Rank by these members only (vae, columns, kernel, crowd; commas between): vae for the pure VAE."
    ),
]
OnDrift = Annotated[
    Literal["warn", "fail"],
    typer.Option(help="Strong drift since training: warn, or fail (exit 3; the report is published)."),
]
Output = Annotated[str, typer.Option(help="Folder of the reports.")]


def image_options(
    size: str | None = None, fit: str | None = None, colour: str | None = None, column: str | None = None
) -> dict[str, str] | None:
    """What was said of images; None where nothing was."""
    said = {"size": size, "fit": fit, "colour": colour, "column": column}
    return {name: value for name, value in said.items() if value is not None} or None


def pairs(options: Sequence[str], flag: str) -> dict[str, str]:
    """COLUMN=VALUE options as a dictionary; a column's name may contain "=".

    >>> pairs(["a=b=real"], "--kind")
    {'a=b': 'real'}
    """
    found = {}
    for option in options:
        column, equals, value = option.rpartition("=")
        if not (column and equals and value):
            raise InputError(f'{flag} "{one_line(option)}" has no "="', fix=f"Write {flag} COLUMN=VALUE")
        found[column] = value
    return found


def as_flow(asked: bool) -> bool:
    """A typed command is a flow run when asked to be, or when a Prefect API is configured."""
    return asked or bool(os.environ.get("PREFECT_API_URL"))
