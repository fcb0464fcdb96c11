"""What commands and flows say of their results: plain values that JSON can hold and a terminal can show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.registry import ModelVersion

QUARANTINED = 3  # lines of the quarantine that a command shows


def of_dataset(data: Any) -> dict[str, Any]:
    """A dataset as plain values."""
    return {
        "name": data.name,
        "folder": str(data.folder),
        "rows": data.rows,
        "quarantined": data.quarantined,
        "outside": data.outside,
        "columns": dict(data.columns),
        "digest": data.digest,
        "warnings": list(data.warnings),
        "quarantine": of_quarantine(data),
    }


OF_VALUES = ("median_training", "median_current", "top_training", "top_current")


def of_quarantine(data: Any, *, hide_values: bool = False) -> list[dict[str, Any]]:
    """Some lines of the quarantine: file, row, column, reason and raw text of records that are not scored.

    With `hide_values` without reason and text, since the one quotes the other.
    """
    import pyarrow.parquet as pq

    if not data.quarantined:
        return []
    with pq.ParquetFile(data.quarantine) as file:
        lines: list[dict[str, Any]] = next(file.iter_batches(batch_size=QUARANTINED)).to_pylist()
    return [line | {"reason": "hidden", "raw": None} for line in lines] if hide_values else lines


def of_training(version: ModelVersion, data: Any, *, reused: bool) -> dict[str, Any]:
    """What a training gave, as plain values."""
    from vae_core import storage
    from vae_core.card import nothing_flagged
    from vae_core.report import Decision

    model = storage.load(version.folder)
    summary = model.summary
    reach = len(model.calibration.scores), math.isfinite(model.calibration.threshold)
    few = nothing_flagged(reach, Decision().as_dict(), model.settings)
    return {
        "name": version.name,
        "version": version.version,
        "aliases": list(version.aliases),
        "sha256": version.sha256,
        "reused": reused,
        "rows": data.rows,
        "quarantined": data.quarantined,
        "dataset_digest": data.digest,
        "heldout_elbo": summary.get("heldout_elbo"),
        "heldout_is": summary.get("heldout_is"),
        "linear_start_elbo": summary.get("linear_start_elbo"),
        "better_than_linear_start": summary.get("better_than_linear_start"),
        "ppca": summary.get("ppca"),
        "left_out": dict(model.encoding.left_out),
        "confirmed_left_out": len(data.left_out),
        "warnings": [*data.warnings, *few],
        "quarantine": of_quarantine(data),
    }


def of_model(version: ModelVersion, *, hide_values: bool = False) -> dict[str, Any]:
    """A registered version and its card; with `hide_values` without any column's distribution."""
    from vae_core import storage
    from vae_core.card import card, finite

    told = finite(card(storage.load(version.folder)))
    if hide_values:
        secret = ("quantiles", "categories")
        told["columns"] = [{k: v for k, v in c.items() if k not in secret} for c in told["columns"]]
    names = ("name", "version", "aliases", "sha256", "folder")
    return {**{name: getattr(version, name) for name in names}, "card": told}


def of_rows(rows: Sequence[Mapping[str, Any]], *, hide_values: bool) -> list[dict[str, Any]]:
    """Rows of a report; with `hide_values` without any value of a record: columns, keys and nats remain."""
    from vae_core.page.wording import HIDDEN, without_values

    if not hide_values:
        return [dict(row) for row in rows]
    secret = {"value": HIDDEN, "expected": HIDDEN, "low": None, "high": None, "value_number": None}
    return [
        {
            **row,
            "why": None if row["why"] is None else without_values(row["reasons"] or []),
            "reasons": None
            if row["reasons"] is None
            else [{**reason, **secret} for reason in row["reasons"]],
        }
        for row in rows
    ]


def of_map(folder: Path, row: Mapping[str, Any]) -> dict[str, str]:
    """Where the picture of a ranked image lies, if there is one."""
    picture = folder / "images" / f"rank-{row['rank']:06d}.png"
    return {"map": str(picture)} if picture.is_file() else {}


def of_report(folder: Path, manifest: Mapping[str, Any], *, hide_values: bool = False) -> dict[str, Any]:
    """A published report's counts, and what it was made by, as plain values."""
    from vae_core.page import PAGE

    counts = manifest["counts"]
    return {
        "folder": str(folder),
        "page": str(folder / PAGE) if (folder / PAGE).is_file() else None,
        "dataset": manifest["dataset"]["name"],
        "as_of": manifest["as_of"],
        "model": manifest["model"]["name"],
        "model_version": manifest["model"]["version"],
        "ranked": counts["ranked"],
        "flagged": counts["flagged"],
        # A report from before has none of these.
        **{name: counts.get(name) for name in ("flags_lost", "flags_gained", "with_p_value")},
        "quarantined": counts["quarantined"],
        "drift": of_drift(folder, manifest, hide_values=hide_values),
    }


def of_scoring(outcome: Any, data: Any, *, shown: int, fail: bool, hide_values: bool) -> dict[str, Any]:
    """What a scoring run published (`remote.Published`) of a dataset, with the first rows of the ranking."""
    from flows import judgements
    from vae_core import report as reports
    from vae_core.card import read_card, without_flags

    told = of_report(outcome.folder, outcome.manifest, hide_values=hide_values)
    if told["page"] is not None:
        told["page"] = f"{outcome.address}/{Path(told['page']).name}"
    found = reports.read_report(outcome.folder)
    top = of_rows(reports.top(found, shown), hide_values=hide_values)
    return {
        **told,
        "folder": outcome.address,
        "drift": of_drift(outcome.folder, outcome.manifest, fail=fail, hide_values=hide_values),
        "published": outcome.fresh,
        "warnings": [*data.warnings, *without_flags(read_card(outcome.folder), outcome.manifest)],
        "quarantine": of_quarantine(data, hide_values=hide_values),
        "top": judgements.marked(found, top),
    }


def of_drift(
    folder: Path, manifest: Mapping[str, Any], *, fail: bool = False, hide_values: bool = False
) -> dict[str, Any] | None:
    """The drift summary of a report, with the rows that have moved; None where nothing was compared.

    `failed`: the run was asked to fail on strong drift, and there is some. With `hide_values`, or of a
    report made so, no median and no class is told.
    """
    from vae_core import drift
    from vae_core.page.wording import HIDDEN

    found = manifest.get("drift")
    table = None if found is None else drift.read(folder)
    if found is None or table is None:
        return None
    rows = table.drop_columns(["bins"]).to_pylist()
    moved = [row for row in rows if row["verdict"] != "stable"]
    if hide_values or manifest.get("settings", {}).get("hide_values"):
        secret = {**dict.fromkeys(OF_VALUES), "change": HIDDEN}
        moved = [row if row["kind"] == "score" else row | secret for row in moved]
    return {**found, "failed": fail and found["verdict"] == "strong", "moved": moved}
