"""elborank generate: new records."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from flows import terminal
from flows.commands.options import Json, Model, UsePrefect, as_flow

app = typer.Typer()


@app.command(
    epilog=terminal.examples(
        "elborank generate --model models:/nyc-weather@champion --n 1000 --output synthetic.parquet",
        "elborank generate --model models:/nyc-weather@champion --n 50 --output typical.csv --mean",
    )
)
def generate(
    model: Model,
    n: Annotated[int, typer.Option("--n", min=1, help="How many records.")],
    output: Annotated[
        str,
        typer.Option(
            help="A .parquet or .csv file (in CSV an apostrophe stands before what a spreadsheet would take "
            "for a formula). Of images: a folder, or an .npz file."
        ),
    ],
    mean: Annotated[bool, typer.Option("--mean", help="The decoder's mean, without its spread.")] = False,
    missing: Annotated[bool, typer.Option("--missing", help="Imitate missing cells too.")] = False,
    seed: Annotated[int, typer.Option(help="Random state: the same seed gives the same records.")] = 0,
    data: Annotated[
        str | None, typer.Option(help="Compare with these data. Default: the training data, if still there.")
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(help="Images: write what is expected in place of this one (--output ends in .png)."),
    ] = None,
    peer: Annotated[
        bool,
        typer.Option("--peer", help="Compare also with a TVAE's records (extra bench; takes minutes)."),
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite the output file.")] = False,
    prefect: UsePrefect = False,
    json: Json = False,
) -> None:
    """Make new records like those of training, in its types, units and categories.

    Keys, identifiers and free text are not generated.
    """
    from flows import steps

    options: dict[str, Any] = {
        "model": model, "n": n, "output": output, "mean": mean, "missing": missing, "seed": seed,
        "data": data, "like": like, "peer": peer, "replace": replace,
    }  # fmt: skip
    if as_flow(prefect):
        from flows import orchestration
        from flows.generate import generate_flow

        result = orchestration.run(generate_flow, **options)
    else:
        with terminal.spinner("Generating", quiet=json):
            result = steps.generate(**options)
    terminal.show(result, json, terminal.generated)
