"""elborank score: rank a table."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from flows import terminal
from flows.commands.options import (
    Alpha,
    Dataset,
    Delimiter,
    Device,
    Encoding,
    Engine,
    Fdr,
    From,
    HideValues,
    ImageColumn,
    Json,
    Members,
    Model,
    NullValues,
    OnDrift,
    OnSchema,
    Output,
    PathArgument,
    RankBy,
    TopK,
    Until,
    UsePrefect,
    Workers,
    as_flow,
    image_options,
)

app = typer.Typer()


@app.command(
    epilog=terminal.examples(
        "elborank score data/nyc_weather/ --until 2013-03-01 --model models:/nyc-weather@champion --fdr 0.05",
        "elborank score new.csv --model models:/nyc-weather/2 --top-k 100 --as-of 2013-02-01 --workers 2",
    )
)
def score(
    path: PathArgument,
    model: Model,
    output: Output = "reports",
    fdr: Fdr = None,
    alpha: Alpha = None,
    top_k: TopK = None,
    from_: From = None,
    until: Until = None,
    as_of: Annotated[
        str | None, typer.Option(help="Start of the interval the report stands for (UTC).")
    ] = None,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Publish a new report in place of another one for the same --as-of."),
    ] = False,
    workers: Workers = 1,
    engine: Engine = "local",
    device: Device = "cpu",
    members: Members = None,
    rank_by: RankBy = None,
    draws: Annotated[
        int | None, typer.Option(min=1, help="Noise draws for each record. Default: the model's own.")
    ] = None,
    hide_values: HideValues = False,
    null_values: NullValues = [],
    on_schema: OnSchema = "warn",
    on_drift: OnDrift = "warn",
    encoding: Encoding = "utf-8",
    delimiter: Delimiter = None,
    dataset: Dataset = None,
    image_column: ImageColumn = None,
    prefect: UsePrefect = False,
    json: Json = False,
) -> None:
    """Rank a table: write the report whose first rows are the least likely records.

    The same data, model and settings again: nothing to do. Interrupted: the same command goes on where it
    stopped.
    """
    from flows import reading, steps

    options: dict[str, Any] = {
        "model": model, "output": output, "dataset": dataset, "start": from_, "until": until, "as_of": as_of,
        "fdr": fdr, "alpha": alpha, "top_k": top_k, "replace": replace, "workers": workers,
        "engine": engine, "device": device, "draws": draws, "members": members, "rank_by": rank_by,
        "hide_values": hide_values, "images": image_options(column=image_column),
        "null_values": null_values, "on_schema": on_schema, "on_drift": on_drift,
        "encoding": encoding, "delimiter": delimiter,
    }  # fmt: skip
    if as_flow(prefect):
        from flows import orchestration
        from flows.score import score_flow

        result = orchestration.run(score_flow, path, **options)
    else:
        with terminal.scoring(quiet=json) as progress:
            result = steps.score(path, **options, progress=progress)
    terminal.show(result, json, terminal.scored)
    reading.refuse_drift(result)
