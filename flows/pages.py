"""A report's page, drawn anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows import descriptions, judgements, outputs, remote


def draw(
    path: str, *, output: str | None = None, since: str | None = None, hide_values: bool = False
) -> dict[str, Any]:
    """The page of a published report in a file of its own; what is published stays as it is.

    Told is also what is new since an earlier report: `since`, or the one of the interval before beside it;
    and what people said of its records.
    """
    from vae_core import comparison, page, publishing
    from vae_core import report as reports

    found = reports.read_report(remote.local_report(path))
    name = f"{Path(found.manifest['dataset']['name']).name}-{found.folder.name}.html"  # it may come from afar
    target = output or name.replace("=", "-")
    outputs.check_outside_reports(target)
    before = remote.local_report(since) if since else comparison.previous(found)
    earlier = None if before is None else reports.read_report(before)
    anew = {"hide_values": hide_values, "earlier": earlier, "known": judgements.known(found)}
    text = page.build(found.folder, found.manifest, **anew)
    with outputs.written(target, replace=True) as place:
        place.parent.mkdir(parents=True, exist_ok=True)
        with publishing.whole_file(place) as hidden:
            hidden.write_text(text, encoding="utf-8")
    return {
        **descriptions.of_report(found.folder, found.manifest, hide_values=hide_values),
        "page": target,
        "since": None if earlier is None else str(earlier.folder),
    }
