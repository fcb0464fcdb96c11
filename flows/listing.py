"""Which reports count: the one of each interval, also where it was replaced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vae_core.errors import InputError, one_line

__all__ = ["listed"]


def listed(path: str) -> dict[str, Any]:
    """The report of each interval in a dataset's folder or address, in order of time, with its files.

    One that cannot be read is told beside them.
    """
    from vae_core import stores, timeline

    place = path.rstrip("/")
    if stores.is_remote(path):
        found, damaged = stores.of_intervals(stores.open_store(path))
    else:
        found, damaged = timeline.of_intervals(path)
    if not found and not damaged:
        raise InputError(
            "holds no report of an interval",
            file=path,
            fix=f"Give a dataset's folder of reports made by a schedule or with --as-of{_those_below(path)}",
        )
    rows = [_row(f"{place}/{name}", manifest) for name, manifest in found]
    return {"path": path, "reports": rows, "damaged": damaged}


def _row(folder: str, manifest: dict[str, Any]) -> dict[str, Any]:
    names = {name: f"{name}.parquet" for name in ("report", "drift", "quarantine")}
    return {
        "as_of": manifest["as_of"],
        "ranked": manifest["counts"]["ranked"],
        "flagged": manifest["counts"]["flagged"],
        "model_version": manifest["model"]["version"],
        "folder": folder,
        **{key: f"{folder}/{name}" if name in manifest["files"] else None for key, name in names.items()},
    }


def _those_below(path: str) -> str:
    below = sorted({found.parent.name for found in Path(path).glob("*/as_of=*")})
    if not below:
        return ""
    return ": " + ", ".join(f"{one_line(path).rstrip('/')}/{one_line(name)}" for name in below[:5])
