"""elborank train: learn what is usual."""

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
    members: Annotated[int | None, typer.Option(min=1, help="VAEs in the ensemble. Default: 1.")] = None,
    columns_weight: Annotated[
        float | None,
        typer.Option(min=0, help="Weight of the independent columns beside the VAE's 1. Default: balanced."),
    ] = None,
    kernel_weight: Annotated[
        float | None,
        typer.Option(
            min=0, help="The same of the kernel density. 0: without; the model then holds no records."
        ),
    ] = None,
    positivity: Annotated[str | None, typer.Option(help="The encoder's variances by exp or square.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    seed: Annotated[int, typer.Option(help="Random state: the same seed and data give the same model.")] = 0,
    null_values: NullValues = [],
    on_schema: OnSchema = "warn",
    encoding: Encoding = "utf-8",
    delimiter: Delimiter = None,
    dataset: Dataset = None,
    size: Size = None,
    fit: Fit = None,
    colour: Colour = None,
    image_column: ImageColumn = None,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Train even if this very model is registered already.")
    ] = False,
    keep_anomalies: Annotated[
        bool,
        typer.Option(
            "--keep-anomalies", help="Train also on records that feedback has confirmed as anomalies."
        ),
    ] = False,
    prefect: UsePrefect = False,
    json: Json = False,
) -> None:
    """Learn what is usual: fit a model to a table and register it.

    The first version of a name becomes its champion, later ones the challenger (elborank models promote).
    """
    from flows import steps, together

    settings = {
        "preset": preset, "steps": steps_, "batch_size": batch_size, "learning_rate": learning_rate,
        "latent": latent, "likelihood": likelihood, "draws": draws, "members": members,
        "columns_weight": columns_weight, "kernel_weight": kernel_weight, "positivity": positivity,
        "device": device, "random_state": seed,
    }  # fmt: skip
    options: dict[str, Any] = {
        "name": name, "dataset": dataset, "ids": id, "start": from_, "until": until, "time": time,
        "kinds": pairs(kind, "--kind"), "null_values": null_values, "on_schema": on_schema,
        "encoding": encoding, "delimiter": delimiter,
        "images": image_options(size, fit, colour, image_column),
        "settings": {k: v for k, v in settings.items() if v is not None}, "retrain": retrain,
        "keep_anomalies": keep_anomalies,
    }  # fmt: skip
    if as_flow(prefect):
        from flows import orchestration
        from flows.train import train_flow

        result = orchestration.run(train_flow, path, **options)
    else:
        run = together.train if together.LAUNCHED else steps.train
        with terminal.training(quiet=json or together.LAUNCHED) as progress:
            result = run(path, **options, progress=progress)
    if result is not None:
        terminal.show(result, json, terminal.trained)
