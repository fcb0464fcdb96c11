"""elborank report, drift, explain: read what was published."""

from __future__ import annotations

from typing import Annotated

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
    hide_values: HideValues = False,
    json: Json = False,
) -> None:
    """Show the top of a report's ranking, with the reasons; or draw its page, report.html, anew."""
    from flows import pages, reading

    if html:
        terminal.show(pages.draw(path, output=output, hide_values=hide_values), json, terminal.drawn)
        return
    result = reading.report(path, top=top, hide_values=hide_values)
    if csv and not json:
        terminal.print_csv(result["records"])
    else:
        terminal.show(result, json, terminal.ranking)


@app.command(epilog=terminal.examples("elborank drift reports/nyc-weather/run=.../"))
def drift(
    path: Annotated[str, typer.Argument(help="A report's folder.")],
    json: Json = False,
) -> None:
    """Show how far each column, and the score, has moved since training, and whether that matters."""
    from flows import reading

    terminal.show(reading.drift(path), json, terminal.drift)


@app.command(
    epilog=terminal.examples('elborank explain reports/nyc-weather/run=.../ "EWR|2013-02-12T08:00:00Z"')
)
def explain(
    path: Annotated[str, typer.Argument(help="A report's folder.")],
    record_id: Annotated[str, typer.Argument(help="The record's key, as in the report.")],
    json: Json = False,
) -> None:
    """Say why one record stands where it stands: the columns that made it unlikely, in nats."""
    from flows import reading

    terminal.show(reading.explain(path, record_id), json, terminal.explained)
