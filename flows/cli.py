"""The command `elborank`: one verb for each thing that one does with a model of a table.

Everything heavy is imported inside the commands, so that `--help` answers at once. Exit codes: 0 done, 2 bad
input, 3 refused. With `--json` a command prints one JSON document on standard output and nothing else there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from flows import terminal
from vae_core.errors import InputError, Refused, one_line

__all__ = ["app", "main"]

app = typer.Typer(
    name="elborank",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Rank the records of a table by how unlikely they are under a variational autoencoder.\n\n"
    "A record's ELBO is a lower bound on its log-probability; the lowest ones come first in the report.",
    epilog=terminal.examples(
        "elborank train data/nyc_weather/ --from 2013-03-01 --name nyc-weather --id origin --id time_hour",
        "elborank score data/nyc_weather/ --until 2013-03-01 --model models:/nyc-weather@champion",
        "elborank report reports/nyc-weather/run=.../ --top 10",
    ),
)
models_app = typer.Typer(no_args_is_help=True, help="List the registered models, or promote one.")
app.add_typer(models_app, name="models")

PathArgument = Annotated[
    str, typer.Argument(help="A Parquet or CSV file, a folder of them, a glob, or an ingested dataset.")
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
Fdr = Annotated[
    float | None, typer.Option(help="Flag with this false discovery rate (0.05: one in 20 is wrong).")
]
Alpha = Annotated[float | None, typer.Option(help="Flag records whose p-value is at most this.")]
TopK = Annotated[int | None, typer.Option(min=0, help="Flag the K highest-ranked records.")]
Members = Annotated[str | None, typer.Option(help="Rank by these members only: vae for the pure VAE.")]
Output = Annotated[str, typer.Option(help="Folder of the reports.")]


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
    }  # fmt: skip
    if as_flow(prefect):
        from flows import orchestration
        from flows.ingest import ingest_flow

        result = orchestration.run(ingest_flow, path, **options)
    else:
        with terminal.spinner("Reading", quiet=json) as progress:
            result = descriptions.of_dataset(steps.ingest(path, **options, progress=progress))
    terminal.show(result, json, terminal.dataset)


@app.command(
    epilog=terminal.examples(
        "elborank train data/nyc_weather/ --from 2013-03-01 --name nyc-weather --id origin --id time_hour",
        "elborank train table.csv --name lecture --preset lecture --seed 1",
    )
)
def train(
    path: PathArgument,
    name: Annotated[str, typer.Option(help="The registered model's name.")],
    id: Ids = [],
    from_: From = None,
    until: Until = None,
    time: Time = None,
    kind: Annotated[
        list[str],
        typer.Option(
            metavar="COL=KIND",
            help="Use a column as real, whole, boolean, category, timestamp or label (not used).",
        ),
    ] = [],
    preset: Annotated[str, typer.Option(help="default, or lecture: the lecture's own VAE.")] = "default",
    steps_: Annotated[int | None, typer.Option("--steps", min=1, help="Training steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Records in a training step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Adam's learning rate.")] = None,
    latent: Annotated[
        int | None, typer.Option(min=1, help="Latents p. Default: by the number of columns.")
    ] = None,
    likelihood: Annotated[
        str | None, typer.Option(help="Likelihood of the real columns. Default: gaussian.")
    ] = None,
    draws: Annotated[int | None, typer.Option(min=1, help="Noise draws for each record at scoring.")] = None,
    members: Annotated[int | None, typer.Option(min=1, help="VAEs in the ensemble.")] = None,
    columns_weight: Annotated[
        float | None, typer.Option(min=0, help="Weight of an independent-columns member beside the VAE's 1.")
    ] = None,
    positivity: Annotated[str | None, typer.Option(help="The encoder's variances by exp or square.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    seed: Annotated[int, typer.Option(help="Random state: the same seed and data give the same model.")] = 0,
    null_values: NullValues = [],
    on_schema: OnSchema = "warn",
    encoding: Encoding = "utf-8",
    delimiter: Delimiter = None,
    dataset: Dataset = None,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Train even if this very model is registered already.")
    ] = False,
    prefect: UsePrefect = False,
    json: Json = False,
) -> None:
    """Learn what is usual: fit a model to a table and register it.

    The first version of a name becomes its champion, later ones the challenger (elborank models promote).
    """
    from flows import steps

    settings = {
        "preset": preset, "steps": steps_, "batch_size": batch_size, "learning_rate": learning_rate,
        "latent": latent, "likelihood": likelihood, "draws": draws, "members": members,
        "columns_weight": columns_weight, "positivity": positivity, "device": device, "random_state": seed,
    }  # fmt: skip
    options: dict[str, Any] = {
        "name": name, "dataset": dataset, "ids": id, "start": from_, "until": until, "time": time,
        "kinds": pairs(kind, "--kind"), "null_values": null_values, "on_schema": on_schema,
        "encoding": encoding, "delimiter": delimiter,
        "settings": {k: v for k, v in settings.items() if v is not None}, "retrain": retrain,
    }  # fmt: skip
    if as_flow(prefect):
        from flows import orchestration
        from flows.train import train_flow

        result = orchestration.run(train_flow, path, **options)
    else:
        with terminal.training(quiet=json) as progress:
            result = steps.train(path, **options, progress=progress)
    terminal.show(result, json, terminal.trained)


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
    members: Members = None,
    null_values: NullValues = [],
    on_schema: OnSchema = "warn",
    encoding: Encoding = "utf-8",
    delimiter: Delimiter = None,
    dataset: Dataset = None,
    prefect: UsePrefect = False,
    json: Json = False,
) -> None:
    """Rank a table: write the report whose first rows are the least likely records.

    The same data, model and settings again: nothing to do. Interrupted: the same command goes on where it
    stopped.
    """
    from flows import steps

    options: dict[str, Any] = {
        "model": model, "output": output, "dataset": dataset, "start": from_, "until": until, "as_of": as_of,
        "fdr": fdr, "alpha": alpha, "top_k": top_k, "replace": replace, "workers": workers,
        "members": members, "null_values": null_values, "on_schema": on_schema,
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


@app.command(epilog=terminal.examples("elborank report reports/nyc-weather/run=.../ --top 10"))
def report(
    path: Annotated[str, typer.Argument(help="A report's folder.")],
    top: Annotated[int, typer.Option(min=1, help="How many records.")] = 10,
    csv: Annotated[bool, typer.Option("--csv", help="Print them as CSV.")] = False,
    json: Json = False,
) -> None:
    """Show the top of a report's ranking, with the reasons."""
    from flows import steps

    result = steps.report(path, top=top)
    if csv and not json:
        terminal.print_csv(result["records"])
    else:
        terminal.show(result, json, terminal.ranking)


@app.command(
    epilog=terminal.examples('elborank explain reports/nyc-weather/run=.../ "EWR|2013-02-12T08:00:00Z"')
)
def explain(
    path: Annotated[str, typer.Argument(help="A report's folder.")],
    record_id: Annotated[str, typer.Argument(help="The record's key, as in the report.")],
    json: Json = False,
) -> None:
    """Say why one record stands where it stands: the columns that made it unlikely, in nats."""
    from flows import steps

    terminal.show(steps.explain(path, record_id), json, terminal.explained)


@app.command(
    epilog=terminal.examples(
        "elborank generate --model models:/nyc-weather@champion --n 1000 --output synthetic.parquet",
        "elborank generate --model models:/nyc-weather@champion --n 50 --output typical.csv --mean",
    )
)
def generate(
    model: Model,
    n: Annotated[int, typer.Option("--n", min=1, help="How many records.")],
    output: Annotated[str, typer.Option(help="A file ending in .parquet or .csv.")],
    mean: Annotated[bool, typer.Option("--mean", help="The decoder's mean, without its spread.")] = False,
    missing: Annotated[bool, typer.Option("--missing", help="Imitate missing cells too.")] = False,
    seed: Annotated[int, typer.Option(help="Random state: the same seed gives the same records.")] = 0,
    data: Annotated[
        str | None, typer.Option(help="Compare with these data. Default: the training data, if still there.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite the output file.")] = False,
    prefect: UsePrefect = False,
    json: Json = False,
) -> None:
    """Make new records like those of training, in the same columns, types, units and categories."""
    from flows import steps

    options: dict[str, Any] = {
        "model": model, "n": n, "output": output, "mean": mean, "missing": missing, "seed": seed,
        "data": data, "replace": replace,
    }  # fmt: skip
    if as_flow(prefect):
        from flows import orchestration
        from flows.generate import generate_flow

        result = orchestration.run(generate_flow, **options)
    else:
        with terminal.spinner("Generating", quiet=json):
            result = steps.generate(**options)
    terminal.show(result, json, terminal.generated)


@models_app.command("list", epilog=terminal.examples("elborank models list --json"))
def models_list(json: Json = False) -> None:
    """List every version of every registered model, with its aliases."""
    from flows import registry

    terminal.show({"models": registry.list_models()}, json, terminal.models)


@models_app.command(
    "promote",
    epilog=terminal.examples(
        "elborank models promote nyc-weather", "elborank models promote nyc-weather --version 3"
    ),
)
def models_promote(
    name: Annotated[str, typer.Argument(help="The model's name.")],
    version: Annotated[str | None, typer.Option(help="The version. Default: the challenger.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Even if it expects other columns.")] = False,
    json: Json = False,
) -> None:
    """Make a version the champion, which scheduled runs use; the one before becomes `previous`."""
    from flows import registry

    terminal.show(registry.promote(name, version, force=force), json, terminal.promoted)


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; what its user can mend becomes one line on standard error and an exit code."""
    try:
        app(args=None if arguments is None else list(arguments), prog_name="elborank")
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except InputError as error:
        return terminal.fail(str(error), 2)
    except Refused as error:
        return terminal.fail(str(error), 3)
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError:
        return terminal.fail("Out of memory. Give fewer workers, or a machine with more.", 2)
    except OSError as error:
        place = f"{Path(os.fsdecode(error.filename))}: " if error.filename else ""
        return terminal.fail(f"{place}{error.strerror or error}.", 2)
    except KeyboardInterrupt:
        return terminal.fail("Stopped. The same command takes up the finished work.", 130)
    return 0


if __name__ == "__main__":
    sys.exit(main())
