"""Raw input in a store: fetched into a local folder, only what has changed since the last time."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from pathlib import Path

from vae_core.errors import InputError
from vae_core.stores.objects import Entry, open_store

__all__ = ["fetch"]

ENDINGS = re.compile(r"\.(parquet|pq|csv|tsv)(\.gz)?$|\.(npz|png|jpe?g|tiff?|bmp|gif|webp)$", re.IGNORECASE)
RACY = 3_000_000_000  # nanoseconds: an object written so shortly before may be written again unnoticed
KEPT = 24 * 3600  # seconds that an older copy stays, for a run that still reads it
NOTE = "_fetched.json"


def fetch(address: str, cache: Path) -> Path:
    """A local copy of the data files at `s3://bucket/folder`, `.../file.csv` or `.../*.parquet`.

    Each state of the objects gets a folder of its own that is never changed; unchanged files are linked from
    the last one. Raises InputError where there is none.
    """
    root, name, entries = _wanted(address)
    home = Path(cache) / hashlib.sha256(address.encode()).hexdigest()[:16]
    home.mkdir(parents=True, exist_ok=True)
    state = json.dumps([[e.name, e.size, e.changed] for e in entries])
    final = home / hashlib.sha256(state.encode()).hexdigest()[:16] / name
    if not final.exists():
        began = time.time_ns()
        before = _last(home)
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=home) as temporary:
            staging = Path(temporary) / "state"
            (staging / name).mkdir(parents=True)
            note = {}
            for entry in entries:
                target = staging / name / entry.name
                target.parent.mkdir(parents=True, exist_ok=True)
                if not _linked(before, name, entry, target):
                    store = open_store(root)
                    store.get(entry.name, target)
                    if target.stat().st_size != entry.size:
                        raise InputError(
                            "was changed while it was read",
                            file=store.address(entry.name),
                            fix="Run again when it is complete",
                        )
                if began - entry.changed > RACY:
                    note[entry.name] = [entry.size, entry.changed]
            (staging / NOTE).write_text(json.dumps(note), encoding="utf-8")
            if len(note) < len(entries):  # may not be trusted again: a name of its own
                final = home / f"{final.parent.name}-{began}" / name
            try:
                staging.rename(final.parent)
            except OSError:  # another process was first
                if not final.exists():
                    raise
        _sweep(home, final.parent)
    return final / entries[0].name if _is_file(address, entries) else final


def _wanted(address: str) -> tuple[str, str, list[Entry]]:
    """The folder's address, its name, and the data objects in it, by names relative to it."""
    pattern = None
    root = address.rstrip("/")
    if any(c in root for c in "*?["):
        parts = root.split("/")
        first = next(i for i, part in enumerate(parts) if any(c in part for c in "*?["))
        root, pattern = "/".join(parts[:first]), "/".join(parts[first:])
    store = open_store(root)
    entries = store.list()
    if not entries and pattern is None:  # one object?
        above, _, own = root.rpartition("/")
        store = open_store(above)
        entries = [entry for entry in store.list() if entry.name == own]
        root = above
    if pattern is not None:
        entries = [entry for entry in entries if fnmatch.fnmatchcase(entry.name, pattern)]
    chosen = [entry for entry in entries if _is_data(entry)]
    if not chosen:
        raise InputError("there is no data file here", file=address, fix="Give .parquet or .csv objects")
    return root, root.rpartition("/")[2], chosen


def _is_file(address: str, entries: list[Entry]) -> bool:
    return len(entries) == 1 and address.rstrip("/").endswith(f"/{entries[0].name}")


def _is_data(entry: Entry) -> bool:
    """A data file, not hidden, and not out of the folder."""
    parts = entry.name.split("/")
    plain = not any(part in ("", ".", "..") or part.startswith((".", "_")) for part in parts)
    return plain and ENDINGS.search(entry.name) is not None


def _last(home: Path) -> Path | None:
    states = [path for path in home.iterdir() if (path / NOTE).exists()]
    return max(states, key=lambda path: path.stat().st_mtime_ns, default=None)


def _linked(before: Path | None, name: str, entry: Entry, target: Path) -> bool:
    """Take an unchanged file over from the last state."""
    if before is None:
        return False
    try:
        known = json.loads((before / NOTE).read_text(encoding="utf-8")).get(entry.name)
        if known != [entry.size, entry.changed]:
            return False
        os.link(before / name / entry.name, target)
    except (OSError, ValueError):
        return False
    return True


def _sweep(home: Path, newest: Path) -> None:
    for path in home.iterdir():
        if path != newest and time.time() - path.stat().st_mtime > KEPT:
            shutil.rmtree(path, ignore_errors=True)
