"""elborank report, drift, explain, diff, feedback: read and judge what was published."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from flows import terminal
from flows.commands.options import HideValues, Json

app = typer.Typer()


@app.command(
    epilog=terminal.examples(
        "elborank report reports/nyc-weather/run=.../ --top 10",
        "elborank report reports/nyc-weather/run=.../ --html --output winter.html",
    )
)
def report(
    path: Annotated[str, typer.Argument(help="A report's folder.")],
    top: Annotated[int, typer.Option(min=1, help="How many records.")] = 10,
    csv: Annotated[bool, typer.Option("--csv", help="Print them as CSV.")] = False,
    html: Annotated[bool, typer.Option("--html", help="Draw the report's page anew, as one file.")] = False,
    output: Annotated[
        str | None, typer.Option(help="With --html: the file. Default: DATASET-REPORT.html, here.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(help="With --html: the earlier report. Default: the interval before, if it is there."),
    ] = None,
    hide_values: HideValues = False,
    json: Json = False,
) -> None:
    """Show the top of a report's ranking, with the reasons; or draw its page, report.html, anew."""
    from flows import judgements, pages, reading
    from vae_core.errors import InputError

    if not html and (output is not None or since is not None):
        raise InputError("--output and --since belong to a page", fix="Add --html, or leave them out")
    if html and csv:
        raise InputError("--html and --csv are two outputs", fix="Leave one of them out")
    if html:
        terminal.show(
            pages.draw(path, output=output, since=since, hide_values=hide_values), json, terminal.drawn
        )
        return
    result = reading.report(path, top=top, hide_values=hide_values)
    if csv and not json:
        terminal.print_csv(result["records"], judgements.columns(result["folder"]))
    else:
        terminal.show(result, json, terminal.ranking)


@app.command(
    epilog=terminal.examples(
        "elborank reports reports/nyc-weather", "elborank reports reports/nyc-weather --json > reports.json"
    )
)
def reports(
    path: Annotated[str, typer.Argument(help="A dataset's folder of reports.")],
    json: Json = False,
) -> None:
    """List the report that counts for each interval: of a replaced one the new one.

    With --json each has the paths of its files, for readers of Parquet: a glob over the folders would take
    what was replaced.
    """
    from flows import listing

    terminal.show(listing.listed(path), json, terminal.listed)


@app.command(epilog=terminal.examples("elborank drift reports/nyc-weather/run=.../"))
def drift(
    path: Annotated[str, typer.Argument(help="A report's folder.")],
    json: Json = False,
) -> None:
    """Show how far each column, and the score, has moved since training, and whether that matters."""
    from flows import reading

    terminal.show(reading.drift(path), json, terminal.drift)


@app.command(
    epilog=terminal.examples(
        'elborank explain reports/nyc-weather/run=.../ "EWR|2013-02-12T08:00:00Z"',
        'elborank explain reports/nyc-weather/run=.../ "EWR|2013-02-12T08:00:00Z" --similar 3',
    )
)
def explain(
    path: Annotated[str, typer.Argument(help="A report's folder.")],
    record_id: Annotated[str, typer.Argument(help="The record's key, as in the report.")],
    similar: Annotated[
        int | None, typer.Option(min=1, max=20, help="Also show this many similar normal records.")
    ] = None,
    hide_values: HideValues = False,
    json: Json = False,
) -> None:
    """Say why one record stands where it stands: the columns that made it unlikely, in nats.

    Similar normal records are those of the same report, not flagged and with a p-value of at least 0.5,
    that are nearest in latent space with the strange columns left out. They are read from the dataset and
    the model that made the report, which must be here.
    """
    from flows import reading

    result = reading.explain(path, record_id, similar=similar, hide_values=hide_values)
    terminal.show(result, json, terminal.explained)


@app.command(
    epilog=terminal.examples(
        "elborank diff reports/shop/as_of=20240108T000000Z reports/shop/as_of=20240115T000000Z"
    )
)
def diff(
    old: Annotated[str, typer.Argument(help="The older report's folder.")],
    new: Annotated[str, typer.Argument(help="The newer report's folder.")],
    top_k: Annotated[
        int | None,
        typer.Option(min=1, help="Compare the K first records of each. Default: the flagged ones."),
    ] = None,
    output: Annotated[str | None, typer.Option(help="Write all records also into this Parquet file.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite the output file.")] = False,
    json: Json = False,
) -> None:
    """Compare two reports by record id: which anomalies are new, persist, or are resolved."""
    from flows import reading

    found = reading.diff(old, new, top_k=top_k, output=output, replace=replace)
    terminal.show(found, json, terminal.diff)


feedback = typer.Typer(
    no_args_is_help=True, help="Say what you think of ranked records, and see how that adds up."
)
app.add_typer(feedback, name="feedback")


@feedback.command(
    "add",
    epilog=terminal.examples(
        'elborank feedback add reports/shop/run=.../ s0650 --verdict anomaly --note "wrong price"'
    ),
)
def feedback_add(
    path: Annotated[str, typer.Argument(help="A report's folder.")],
    record_id: Annotated[str, typer.Argument(help="The record's key, as in the report.")],
    verdict: Annotated[
        Literal["expected", "anomaly"],
        typer.Option(
            help="expected: strange but known, marked in later reports. anomaly: confirmed, left out "
            "of the next training."
        ),
    ],
    note: Annotated[str, typer.Option(help="Why, in at most 2,000 characters; shown with the mark.")] = "",
    json: Json = False,
) -> None:
    """Say of a record whether it was expected or is an anomaly. The report itself stays as it is."""
    from flows import judgements

    terminal.show(judgements.add(path, record_id, verdict, note), json, terminal.judgement)


@feedback.command("list", epilog=terminal.examples("elborank feedback list --dataset shop --k 20"))
def feedback_list(
    dataset: Annotated[str | None, typer.Option(help="Only of this dataset.")] = None,
    k: Annotated[int, typer.Option("--k", min=1, help="Precision among the first K records.")] = 20,
    json: Json = False,
) -> None:
    """Show all judgements, and for each report how many of its first K were anomalies."""
    from flows import judgements

    terminal.show(judgements.judged(dataset, k=k), json, terminal.judged)
