"""elborank ingest: raw files into a typed dataset."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from flows import terminal
from flows.commands.options import (
    Colour,
    Dataset,
    Delimiter,
    Encoding,
    Fit,
    From,
    Ids,
    ImageColumn,
    Json,
    NullValues,
    OnSchema,
    PathArgument,
    Size,
    Time,
    Until,
    UsePrefect,
    as_flow,
    image_options,
    pairs,
)

app = typer.Typer()


@app.command(epilog=terminal.examples("elborank ingest data/nyc_weather/ --id origin --id time_hour"))
def ingest(
    path: PathArgument,
    store: Annotated[str | None, typer.Option(help="Where datasets go. Default: .elborank/datasets.")] = None,
    name: Dataset = None,
    id: Ids = [],
    from_: From = None,
    until: Until = None,
    time: Time = None,
    type_: Annotated[
        list[str],
        typer.Option(
            "--type", metavar="COL=TYPE", help="Read a column as double, int64, bool, string or timestamp."
        ),
    ] = [],
    null_values: NullValues = [],
    on_schema: OnSchema = "warn",
    encoding: Encoding = "utf-8",
    delimiter: Delimiter = None,
    size: Size = None,
    fit: Fit = None,
    colour: Colour = None,
    image_column: ImageColumn = None,
    prefect: UsePrefect = False,
    json: Json = False,
) -> None:
    """Read raw files into a typed dataset; what cannot be read goes to quarantine with its reason.

    train and score do this on the way: ingest on its own shows what they would see.
    """
    from flows import descriptions, steps

    options: dict[str, Any] = {
        "store": store, "dataset": name, "ids": id, "start": from_, "until": until, "time": time,
        "types": pairs(type_, "--type"), "null_values": null_values, "on_schema": on_schema,
        "encoding": encoding, "delimiter": delimiter,
        "images": image_options(size, fit, colour, image_column),
    }  # fmt: skip
    if as_flow(prefect):
        from flows import orchestration
        from flows.ingest import ingest_flow

        result = orchestration.run(ingest_flow, path, **options)
    else:
        with terminal.spinner("Reading", quiet=json) as progress:
            result = descriptions.of_dataset(steps.ingest(path, **options, progress=progress))
    terminal.show(result, json, terminal.dataset)
