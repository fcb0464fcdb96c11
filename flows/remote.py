"""Scoring into a store, and reading from one: work is on local disk, the store gets what is finished."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from flows.registry import home
from vae_core import job, publishing, stores, timeline
from vae_core import report as reports
from vae_core.errors import Refused

__all__ = ["Published", "local_output", "local_report", "manifest_of", "places", "published_for", "run"]


@dataclass(frozen=True)
class Published:
    """A report: a local folder to read it from, its manifest, and where it really lies."""

    folder: Path
    manifest: dict[str, Any]
    fresh: bool
    address: str


def local_output(output: str) -> Path:
    """Where the work for an output folder is done: there, or for a store in our own folder."""
    if not stores.is_remote(output):
        return Path(output)
    return home() / "outgoing" / hashlib.sha256(output.rstrip("/").encode()).hexdigest()[:16]


def run(
    what: job.Job,
    output: str,
    *,
    workers: int,
    engine: str = "local",
    replace: bool,
    on_done: Callable[[Any], None] | None = None,
) -> Published:
    """`job.run`, whose report is then put into the store that `output` names, if it names one."""
    if not stores.is_remote(output):
        outcome = job.run(what, engine=engine, workers=workers, replace=replace, on_done=on_done)
        return Published(outcome.folder, outcome.manifest, outcome.fresh, str(outcome.folder))
    store = stores.open_store(output)
    plan = job.prepare(what, replace=True)
    folder = f"{plan.data.name}/{plan.final.name}"
    # Runs of this machine one after the other: a local copy that was sent is removed.
    with publishing.lock(plan.final.with_name(f".sending-{plan.final.name}")):
        there = _there(store, folder, plan.run, replace=replace)
        if there is not None:
            return _fetched(f"{output.rstrip('/')}/{there}")
        outcome = job.run(what, engine=engine, workers=workers, replace=True, on_done=on_done)
        place = stores.publish(outcome.folder, store, folder, replace=replace)
        found = _fetched(f"{output.rstrip('/')}/{place}", fresh=True)
        for copy in {outcome.folder, plan.final}:
            _forget(copy)
    return found


def _there(store: stores.Store, folder: str, run: str, *, replace: bool) -> str | None:
    try:
        return stores.published(store, folder, run)
    except Refused:
        if not replace:
            raise
    return None


def _forget(folder: Path) -> None:
    """The local copy has done its duty; first its manifest, so that half of it is never taken for a whole."""
    folder.with_name(f"_current-{folder.name}.json").unlink(missing_ok=True)
    (folder / publishing.MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _fetched(address: str, *, fresh: bool = False) -> Published:
    folder = stores.fetch_report(address, home() / "reports")
    return Published(folder, publishing.read_manifest(folder), fresh, address)


def local_report(path: str) -> Path:
    """The folder of a report at a path or an address, on this machine."""
    if stores.is_remote(path):
        return stores.fetch_report(path, home() / "reports")
    return Path(path).resolve()


def published_for(output: str, dataset: str, as_of: datetime) -> Published | None:
    """The report that stands for an interval, whatever made it; None where there is none."""
    final = publishing.final_folder(Path(), dataset, "", as_of)
    if stores.is_remote(output):
        store = stores.open_store(output)
        place = stores.current(store, final.as_posix())
        if stores.read_manifest(store, place) is None:
            return None
        return _fetched(f"{output.rstrip('/')}/{place}")
    place = publishing.current(Path(output) / final)
    if not (place / publishing.MANIFEST).exists():
        return None
    found = reports.read_report(place)
    return Published(found.folder, found.manifest, False, str(found.folder))


def places(output: str, dataset: str) -> list[str]:
    """The folders' names of the intervals that have a report, in order of time."""
    if stores.is_remote(output):
        entries = stores.open_store(f"{output.rstrip('/')}/{dataset}").list()
        return timeline.places_of_intervals(entry.name.partition("/")[0] for entry in entries)
    return timeline.places_of_intervals(path.name for path in (Path(output) / dataset).glob("*as_of=*"))


def manifest_of(output: str, dataset: str, place: str) -> dict[str, Any] | None:
    """The manifest of the report that counts in a place; None where none is published."""
    if stores.is_remote(output):
        store = stores.open_store(f"{output.rstrip('/')}/{dataset}")
        return stores.read_manifest(store, stores.current(store, place))
    folder = publishing.current(Path(output) / dataset / place)
    return publishing.read_manifest(folder) if (folder / publishing.MANIFEST).exists() else None
