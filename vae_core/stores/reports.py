"""Reports in a store: files first, the manifest last and only if there is none; read only with a manifest."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from vae_core import publishing
from vae_core.errors import InputError, Refused
from vae_core.publishing import MANIFEST
from vae_core.stores.lease import Lease, lease, sweep
from vae_core.stores.objects import Store, open_store
from vae_core.timeline import Told, places_of_intervals, told

__all__ = ["current", "fetch_report", "of_intervals", "publish", "published", "read_manifest"]

TRIES = 3  # at an object that somebody else's dead run keeps bringing back


def read_manifest(store: Store, folder: str) -> dict[str, Any] | None:
    """The manifest of a published folder, its own SHA-256 checked; None where nothing is published."""
    content = store.read(f"{folder}/{MANIFEST}")
    if content is None:
        return None
    with tempfile.TemporaryDirectory() as temporary:
        (Path(temporary) / MANIFEST).write_bytes(content)
        try:
            return publishing.read_manifest(Path(temporary))
        except InputError as error:
            raise InputError(
                "was changed or damaged after publishing", file=store.address(f"{folder}/{MANIFEST}")
            ) from error


def current(store: Store, folder: str) -> str:
    """The folder that counts in this place: the one that its pointer names, if a report was replaced."""
    content = store.read(_pointer(folder))
    if content is None:
        return folder
    try:
        name = json.loads(content)["folder"]
        if not isinstance(name, str) or not name or "/" in name or name.startswith("."):
            raise ValueError(name)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError("does not name a report folder", file=store.address(_pointer(folder))) from error
    return _beside(folder, name)


def of_intervals(store: Store) -> Told:
    """Folder and manifest of the report that counts for each interval here; see `timeline.of_intervals`."""

    def read(name: str) -> tuple[str, dict[str, Any] | None]:
        place = current(store, name)
        return place, read_manifest(store, place)

    return told(places_of_intervals(entry.name.partition("/")[0] for entry in store.list()), read)


def published(store: Store, folder: str, run: str) -> str | None:
    """The folder of this very report if it is published here; Refused where another one is."""
    here = current(store, folder)
    manifest = read_manifest(store, here)
    if manifest is None:
        return None
    if manifest["run"] == run:
        return here
    raise Refused(
        f"{store.address(folder)} holds another report: other input, model or settings. "
        "It stays as it is; --replace publishes the new one in its place."
    )


def publish(local: Path, store: Store, folder: str, *, replace: bool = False) -> str:
    """Make the published local report `local` the one in `folder` of the store; the folder that it got.

    Its files are written first, each only where there is none, the manifest last and only where there is
    none: before it the folder counts for nothing. Already there with the same run's hash: left as it is.
    Another report: Refused; with `replace` the new one lies beside it as `run=<12 hex>`, and the pointer
    moves. Killed and called again, it goes on with the files that are missing.
    """
    manifest = publishing.verify(local)
    run = str(manifest["run"])
    lock = _beside(folder, f".publishing-{folder.rpartition('/')[2]}")
    try:
        with lease(store, lock) as held:
            place = _place(store, folder, run, replace=replace)
            if read_manifest(store, place) is None:
                _send(local, store, place, manifest, held)
            if place != current(store, folder):
                held.check()
                store.put(_pointer(folder), json.dumps({"folder": place.rpartition("/")[2]}).encode())
        return place
    finally:
        if store.read(f"{folder}/{MANIFEST}") is not None:  # for ever: two holders could do no harm now
            sweep(store, lock)


def _place(store: Store, folder: str, run: str, *, replace: bool) -> str:
    """Where this run's report is, or is to be."""
    try:
        return published(store, folder, run) or folder
    except Refused:
        if not replace:
            raise
    first = read_manifest(store, folder)
    return folder if first is not None and first["run"] == run else _beside(folder, f"run={run[:12]}")


def _send(local: Path, store: Store, place: str, manifest: dict[str, Any], held: Lease) -> None:
    files = manifest["files"]
    for entry in store.list(place):
        if entry.name.removeprefix(f"{place}/") not in files:
            store.delete(entry.name)  # of a run that died before its manifest: nothing that counts
    for name, about in files.items():
        _send_one(local / name, store, f"{place}/{name}", about)
    held.check()
    if not store.put_if_absent(f"{place}/{MANIFEST}", local / MANIFEST):
        found = read_manifest(store, place)
        if found is None or found["run"] != manifest["run"]:
            raise Refused(
                f"{store.address(place)} was published by another run meanwhile; it stays as it is."
            )


def _send_one(path: Path, store: Store, name: str, about: dict[str, Any]) -> None:
    for _ in range(TRIES):
        if store.holds(name, about["sha256"], about["bytes"]):
            return
        if store.put_if_absent(name, path):
            return
        if not store.holds(name, about["sha256"], about["bytes"]):
            store.delete(name)  # left by a dead run of other content, under the same lock
    raise InputError("somebody else keeps writing it", file=store.address(name), fix="Run the same again")


def fetch_report(address: str, cache: Path) -> Path:
    """A local copy of the report that counts at this address, every file checked; fetched once."""
    store = open_store(address.rstrip("/").removesuffix("/report.parquet"))
    parent, _, name = store.root.rpartition("/")
    above = Store(store.bucket, parent, store._files, store._client)
    place = current(above, name)
    manifest = read_manifest(above, place)
    if manifest is None:
        raise InputError("is not a published report", file=address, fix=_what_there_is(store))
    final = Path(cache) / str(manifest["sha256"])[:16]
    if not final.exists():
        final.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=final.parent) as temporary:
            staging = Path(temporary) / place
            staging.mkdir()
            for file in [*manifest["files"], MANIFEST]:
                if Path(file).name != file and not _plain(file):
                    raise InputError("names a file elsewhere", file=above.address(f"{place}/{MANIFEST}"))
                (staging / file).parent.mkdir(parents=True, exist_ok=True)
                above.get(f"{place}/{file}", staging / file)
            publishing.verify(staging)
            try:
                staging.rename(final)
            except OSError:  # another process was first
                if not final.exists():
                    raise
    try:
        publishing.verify(final)
    except InputError:
        shutil.rmtree(final, ignore_errors=True)  # the copy was damaged here: the next call fetches it again
        raise
    return final


def _plain(name: str) -> bool:
    return not any(part in ("", ".", "..") for part in name.split("/")) and "\\" not in name


def _what_there_is(store: Store) -> str:
    ends = f"/{MANIFEST}"
    names = [e.name.removesuffix(ends) for e in store.list() if e.name.endswith(ends)]
    if names:
        return f"Name one of the reports in it: {', '.join(names[-5:])}"
    return "Give the folder that `elborank score` printed"


def _pointer(folder: str) -> str:
    parent, _, name = folder.rpartition("/")
    return f"{parent}/_current-{name}.json" if parent else f"_current-{name}.json"


def _beside(folder: str, name: str) -> str:
    parent, _, _ = folder.rpartition("/")
    return f"{parent}/{name}" if parent else name
