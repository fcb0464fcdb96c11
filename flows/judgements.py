"""The verbs of feedback: judge a record, list judgements, mark what is shown, leave out of training."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flows.registry import home
from vae_core.errors import InputError, nearest, one_line

__all__ = ["add", "columns", "judged", "known", "log", "marked", "without_confirmed"]

REPORTS = "reports"  # where reports go, unless --output says otherwise
MOST_NAMED = 20
MARKS = ("feedback", "feedback_note")


def log() -> Path:
    """The file that the judgements are kept in."""
    return home() / "feedback.parquet"


def add(path: str, record_id: str, verdict: str, note: str = "") -> dict[str, Any]:
    """Write down what somebody says of a record of a report."""
    from flows import remote
    from vae_core import feedback
    from vae_core import report as reports

    found = reports.read_report(remote.local_report(path))
    return {**feedback.add(log(), found, record_id, verdict, note), "log": str(log())}


def judged(dataset: str | None, *, k: int) -> dict[str, Any]:
    """All judgements, oldest first, and precision at k of each report.

    Raises InputError for a dataset that nobody has scored or judged here.
    """
    from vae_core import feedback

    lines = feedback.read(log(), dataset=dataset)
    if dataset is not None and not lines.num_rows:
        _check_known(dataset, feedback.read(log())["dataset"].unique().to_pylist())
    return {"log": str(log()), "lines": lines.to_pylist(), "k": k, "precision": feedback.precision(lines, k)}


def _check_known(dataset: str, judged: Iterable[str]) -> None:
    """A dataset without feedback is one that was read here, or that has reports in the usual folder."""
    places = [*(home() / "datasets").glob("[!.]*/"), *Path(REPORTS).glob("[!.]*/")]
    known = sorted({*judged, *(place.name for place in places)})
    if dataset in known:
        return
    more = f" and {len(known) - MOST_NAMED} more" if len(known) > MOST_NAMED else ""
    there = ", ".join(map(one_line, known[:MOST_NAMED])) + more
    raise InputError(
        f'there is no dataset "{one_line(dataset)}" here{nearest(dataset, known)}',
        fix=f"There are: {there}" if known else "Score one first: elborank score PATH --model MODEL",
    )


def columns(folder: str | Path) -> list[str]:
    """The columns of a report's rows as `marked` gives them, also where there is no row."""
    from pyarrow.parquet import read_schema

    from vae_core.report import REPORT

    return [*read_schema(Path(folder) / REPORT).names, *MARKS]


def known(report: Any) -> dict[str, dict[str, Any]]:
    """The judgement that counts for each record id of the report's dataset."""
    from vae_core import feedback

    try:
        said = feedback.read(log(), dataset=report.manifest["dataset"]["name"])
    except InputError as error:  # the report is published, and says what it says without the marks
        warnings.warn(str(error), stacklevel=2)
        said = feedback.SCHEMA.empty_table()
    return feedback.latest(said)


def marked(report: Any, rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows with `feedback`, the last verdict on this record of this dataset, or None, and its note."""
    lines, result = known(report), []
    for row in rows:
        line = lines.get(row["record_id"])
        said_of_it = (line["verdict"], line["note"]) if line else (None, None)
        result.append({**row, **dict(zip(MARKS, said_of_it, strict=True))})
    return result


def without_confirmed(data: Any, *, keep: bool = False) -> Any:
    """The dataset to train on: without the records that were confirmed as anomalies, unless they are kept."""
    from vae_core import feedback, sources

    said = {} if keep else feedback.latest(feedback.read(log(), dataset=data.name))
    return sources.leaving_out(data, [key for key, line in said.items() if line["verdict"] == "anomaly"])
