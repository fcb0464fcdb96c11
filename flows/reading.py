"""The verbs that read published reports: the top, one record, drift. Plain functions, as in `flows.steps`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flows import descriptions, judgements, outputs
from vae_core.errors import InputError, Refused, one_line


def refuse_drift(result: Mapping[str, Any]) -> None:
    """Raises Refused for a scoring run that was to fail on strong drift and met some; its report stays."""
    found = result.get("drift")
    if found and found["failed"]:
        names = ", ".join(one_line(name) for name in found["strong"][:3])
        more = f" and {len(found['strong']) - 3} more" if len(found["strong"]) > 3 else ""
        raise Refused(
            f"drift is strong in {names}{more} (on drift: fail). The report is published: {result['folder']}"
        )


def drift(path: str) -> dict[str, Any]:
    """The drift table of a report, all columns."""
    from flows import remote
    from vae_core import drift as drifting
    from vae_core import report as reports

    found = reports.read_report(remote.local_report(path))
    table = drifting.read(found.folder)
    if table is None:
        raise InputError(
            "has no drift table",
            file=found.folder,
            fix="Score again: its model kept no profile, or no record",
        )
    rows = table.drop_columns(["bins"]).to_pylist()
    return {**descriptions.of_report(found.folder, found.manifest), "rows": rows}


def report(path: str, *, top: int, hide_values: bool = False) -> dict[str, Any]:
    """The first rows of a report and its counts, and why records cannot be flagged."""
    from flows import remote
    from vae_core import report as reports
    from vae_core.card import read_card, without_flags

    found = reports.read_report(remote.local_report(path))
    rows = descriptions.of_rows(reports.top(found, top), hide_values=hide_values)
    told = descriptions.of_report(found.folder, found.manifest, hide_values=hide_values)
    warnings = without_flags(read_card(found.folder), found.manifest)
    return {**told, "warnings": warnings, "records": judgements.marked(found, rows)}


def explain(
    path: str, record_id: str, *, similar: int | None = None, hide_values: bool = False
) -> dict[str, Any]:
    """One record of a report, with its reasons; where several share the key, the highest-ranked.

    `similar`: also so many normal records of the same report that are like the rest of this one.
    """
    from flows import remote
    from vae_core import report as reports

    found = reports.read_report(remote.local_report(path))
    rows = reports.find(found, record_id)
    told = descriptions.of_report(found.folder, found.manifest, hide_values=hide_values)
    if not hide_values:
        told |= descriptions.of_map(found.folder, rows[0])
    if similar:
        from flows import similar as neighbours

        told |= neighbours.of_record(found, rows[0], similar, hide_values=hide_values)
    shown = descriptions.of_rows(rows[:1], hide_values=hide_values)
    return {**told, "same_key": len(rows), **judgements.marked(found, shown)[0]}


def diff(
    old: str, new: str, *, top_k: int | None = None, output: str | None = None, replace: bool = False
) -> dict[str, Any]:
    """New, persisting and resolved anomalies of two reports; with `output` also as a Parquet file.

    Raises Refused where there is such a file and it is not to be replaced.
    """
    from flows import remote
    from vae_core import comparison
    from vae_core import report as reports

    if output is not None and not output.lower().endswith(".parquet"):
        raise InputError("is no Parquet file by its name", file=output, fix="End it in .parquet")
    if output is not None:
        outputs.check(output, replace=replace)
    ours, theirs = (reports.read_report(remote.local_report(path)) for path in (new, old))
    found = comparison.compare(theirs, ours, top_k=top_k)
    if output is not None:
        with outputs.written(output, replace=replace) as place:
            comparison.write(found, place)
    return {
        **{
            name: descriptions.of_report(one.folder, one.manifest)
            for name, one in (("old", theirs), ("new", ours))
        },
        "counts": found.counts,
        "shared": found.shared,
        "comparable": found.comparable,
        "notes": list(found.notes),
        "output": output,
        "records": judgements.marked(ours, found.records.to_pylist()),
    }
