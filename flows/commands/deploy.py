"""elborank deploy: score on a schedule."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from flows import terminal
from flows.commands.options import (
    Alpha,
    Dataset,
    Delimiter,
    Encoding,
    Fdr,
    From,
    Json,
    Members,
    Model,
    NullValues,
    Output,
    PathArgument,
    TopK,
    Until,
    Workers,
)

app = typer.Typer()


@app.command(
    epilog=terminal.examples(
        "elborank deploy /data/incoming --model models:/nyc-weather@champion --every 1h --fdr 0.05",
        "elborank deploy /data/incoming --model models:/nyc-weather@champion --cron '5 * * * *'",
    )
)
def deploy(
    path: PathArgument,
    model: Model,
    every: Annotated[
        str | None, typer.Option(help="Interval: 30s, 15m, 1h or 1d, counted from midnight UTC.")
    ] = None,
    cron: Annotated[str | None, typer.Option(help="A cron expression, in UTC.")] = None,
    output: Output = "reports",
    name: Annotated[str | None, typer.Option(help="The deployment's name. Default: the dataset's.")] = None,
    only_interval: Annotated[
        bool,
        typer.Option(
            "--only-interval", help="Score only the records of each interval, by their time column."
        ),
    ] = False,
    fdr: Fdr = None,
    alpha: Alpha = None,
    top_k: TopK = None,
    from_: From = None,
    until: Until = None,
    workers: Workers = 1,
    members: Members = None,
    null_values: NullValues = [],
    encoding: Encoding = "utf-8",
    delimiter: Delimiter = None,
    dataset: Dataset = None,
    json: Json = False,
) -> None:
    """Score on a schedule: serve a deployment until stopped (Ctrl-C). Needs a Prefect server.

    Each run's report stands under as_of=START of its interval. Start a server with: prefect server start
    """
    from flows import deployments

    parameters: dict[str, Any] = {
        "path": path, "model": model, "output": output, "dataset": dataset, "start": from_, "until": until,
        "fdr": fdr, "alpha": alpha, "top_k": top_k, "workers": workers, "members": members,
        "null_values": null_values, "encoding": encoding, "delimiter": delimiter,
        "only_interval": only_interval,
    }  # fmt: skip
    deployments.serve(
        parameters,
        name=name,
        every=every,
        cron=cron,
        announce=lambda result: terminal.show(result, json, terminal.deployed),
    )
