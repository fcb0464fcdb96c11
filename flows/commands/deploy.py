"""elborank deploy and backfill: work on a schedule, and intervals of the past."""

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
    Fdr,
    From,
    Json,
    Members,
    NullValues,
    Output,
    TopK,
    Until,
    UsePrefect,
    Workers,
    as_flow,
)
from vae_core.errors import InputError

app = typer.Typer()


@app.command(
    epilog=terminal.examples(
        "elborank deploy weather.toml",
        "elborank deploy weather.toml --yaml > prefect.yaml",
        "elborank deploy /data/incoming --model models:/nyc-weather@champion --every 1h --fdr 0.05",
    )
)
def deploy(
    path: Annotated[
        str, typer.Argument(help="A dataset file (.toml), or the data itself: a file, a folder, a glob.")
    ],
    model: Annotated[str | None, typer.Option(help="With data: models:/NAME@champion or a folder.")] = None,
    every: Annotated[
        str | None, typer.Option(help="Interval: 30s, 15m, 1h or 1d, counted from 1970-01-01 UTC.")
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
    device: Device = "cpu",
    members: Members = None,
    null_values: NullValues = [],
    encoding: Encoding = "utf-8",
    delimiter: Delimiter = None,
    dataset: Dataset = None,
    as_yaml: Annotated[
        bool, typer.Option("--yaml", help="Print a dataset file's deployments as a prefect.yaml.")
    ] = False,
    json: Json = False,
) -> None:
    """Run on a schedule. Needs a Prefect server (prefect server start).

    A dataset file becomes deployments (train, score, generate) for the workers of its pool. Data with --model
    and a schedule is served by this process until stopped (Ctrl-C). Each run's report stands under
    as_of=START of its interval.
    """
    from flows import choices, dataset_file, deployments

    given: dict[str, Any] = {
        "model": model, "every": every, "cron": cron, "name": name, "fdr": fdr, "alpha": alpha,
        "top_k": top_k, "from": from_, "until": until, "members": members, "dataset": dataset,
        "delimiter": delimiter, "only-interval": only_interval or None, "null-values": null_values or None,
        # What is as it would be unsaid is taken for unsaid.
        "output": None if output == "reports" else output, "workers": None if workers == 1 else workers,
        "encoding": None if encoding == "utf-8" else encoding, "device": None if device == "cpu" else device,
    }  # fmt: skip
    if dataset_file.is_dataset_file(path):
        too_much = [f"--{key.replace('_', '-')}" for key, value in given.items() if value is not None]
        if too_much:
            what = f"a dataset file takes no {', '.join(too_much)} beside it"
            raise InputError(what, file=path, fix="Write it into the file")
        file = dataset_file.read(path)
        if as_yaml:
            terminal.print_yaml(deployments.document(file))
        else:
            _show(deployments.deploy(file), json, terminal.deployments)
        return
    if as_yaml:
        raise InputError(
            "--yaml prints the deployments of a dataset file, and this is none by its name",
            file=path,
            fix="Give a file that ends in .toml (docs/operations.md shows one), or leave out --yaml",
        )
    if model is None:
        raise InputError(
            "data is scored by a model", fix="Give --model, or a dataset file that ends in .toml"
        )
    _check_typed(path, output, every, cron)
    choices.check_device(device, "local")
    choices.member_names(members)
    parameters: dict[str, Any] = {
        "path": path, "model": model, "output": output, "dataset": dataset, "start": from_, "until": until,
        "fdr": fdr, "alpha": alpha, "top_k": top_k, "workers": workers, "members": members,
        "device": device, "null_values": null_values, "encoding": encoding, "delimiter": delimiter,
        "only_interval": only_interval,
    }  # fmt: skip
    deployments.serve(
        parameters,
        name=name,
        every=every,
        cron=cron,
        announce=lambda result: _show(result, json, terminal.deployed),
    )


def _check_typed(path: str, output: str, every: str | None, cron: str | None) -> None:
    """Refuse now what would else be refused in the first run."""
    from vae_core import stores

    if (every is None) == (cron is None):
        raise InputError(
            "a schedule is one of --every and --cron", fix="Write --every 1h, or --cron '0 * * * *'"
        )
    for place in (path, output):
        if stores.is_remote(place):
            stores.parted(place)


def _show(result: dict[str, Any], json: bool, render: Any) -> None:
    for warning in result["warnings"]:
        typer.echo(f"elborank: {warning}", err=True)
    terminal.show(result, json, render)


@app.command(
    epilog=terminal.examples(
        "elborank backfill weather.toml --from 2013-02-01 --until 2013-02-08",
        "elborank backfill weather.toml --from 2013-02-01T08:00:00Z --until 2013-02-01T09:00:00Z --replace",
    )
)
def backfill(
    file: Annotated[str, typer.Argument(help="A dataset file (.toml) whose part 'score' has a schedule.")],
    from_: Annotated[str, typer.Option("--from", help="The first interval's start (UTC).")],
    until: Annotated[str, typer.Option("--until", "--to", help="Where to end (UTC); not included itself.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Publish anew where an interval has a report already.")
    ] = False,
    prefect: UsePrefect = False,
    json: Json = False,
) -> None:
    """Score every whole interval of a schedule between two times that has no report yet."""
    from flows import dataset_file, scheduled, steps
    from flows.intervals import instant

    chosen = dataset_file.read(file)
    start, end = instant(from_, "--from"), instant(until, "--until")
    assert start is not None and end is not None
    if as_flow(prefect):
        from flows import orchestration
        from flows.score import score_flow

        def score(path: str, **options: Any) -> dict[str, Any]:
            return orchestration.run(score_flow, path, **options)
    else:
        score = steps.score
    with terminal.scoring(quiet=json) as progress:
        result = scheduled.backfill(chosen, start, end, replace=replace, score=score, progress=progress)
    terminal.show(result, json, terminal.backfilled)
    if result["failed"]:
        first = next(row for row in result["intervals"] if row["problem"])
        raise InputError(
            f"{result['failed']} of {len(result['intervals'])} intervals failed: {first['problem']}"
        )
