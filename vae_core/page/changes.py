"""What is new since an earlier report: the section of the page that needs two reports.

A published page is drawn from its own folder alone, so that its bytes depend on nothing that lies beside it;
this section is therefore only in pages that are drawn anew.
"""

from __future__ import annotations

from typing import Any

from vae_core import comparison
from vae_core.report import Report

__all__ = ["gather"]

LISTED = 10  # records of each status


def gather(earlier: Report, report: Report, *, hide_values: bool) -> dict[str, Any]:
    """Counts, notes and the first anomalies of each status; sentences only where values may be told.

    Raises InputError when both are one report.
    """
    found = comparison.compare(earlier, report)
    seen = dict.fromkeys(found.counts, 0)
    rows: list[dict[str, Any]] = []
    for row in found.records.to_pylist():
        seen[row["status"]] += 1
        if seen[row["status"]] <= LISTED:
            rows.append({**row, "why": None} if hide_values else row)
    return {
        "since": earlier.manifest["as_of"] or f"run {earlier.manifest['run'][:12]}",
        "counts": found.counts,
        "shared": found.shared,
        "notes": found.notes,
        "rows": rows,
        "more": sum(found.counts.values()) - len(rows),
    }
