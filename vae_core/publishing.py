"""Publishing: a report is there whole, or not at all, and once there it is never written to.

A run works in a hidden folder beside the place of its report, named after a hash of everything that decides
what the report will hold. Killed and started again, it finds what it had finished. At the end the files and a
manifest with their SHA-256 are flushed to disk, and one rename makes the folder visible:

    <output>/<dataset>/.staging-<hash>/          units and other intermediate files
    <output>/<dataset>/.staging-<hash>/outgoing/ what will be published
    <output>/<dataset>/as_of=20130101T000000Z/   or run=<12 hex>/: published
    <output>/<dataset>/_current-as_of=....json   only after a replacement: which folder counts
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vae_core.disk import sync
from vae_core.errors import InputError, Refused

try:
    import fcntl
except ImportError:  # Windows has no flock: nothing there keeps two runs of one job apart, and no ingest runs
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "MANIFEST", "OUTGOING", "check_place", "commit", "current", "final_folder",
    "lock", "nothing_left", "publish", "published", "read_manifest",
    "run_hash", "sha256_of", "staging_folder", "sweep", "tidy", "utc_text", "verify",
    "whole_file", "write_json", "writing",
]  # fmt: skip

MANIFEST = "_manifest.json"  # the underscore hides it from readers that take a folder for a Parquet table
OUTGOING = "outgoing"
PUBLISHING = ".publishing"  # held for the moment of the rename
ABANDONED = 7 * 24 * 3600  # seconds after which the staging folder of a dead run is swept away

_CANNOT_WRITE = {
    errno.ENOSPC: (
        "the disk is full",
        "Free some space; the same command then goes on",
    ),
    errno.EDQUOT: ("the disk quota is used up", "Free some space; the same command then goes on"),
    errno.EFBIG: ("a file grew past the allowed size", "Raise the limit (ulimit -f)"),
    errno.EACCES: ("may not be written", "Choose another --output, or change its permissions"),
    errno.EPERM: ("may not be written", "Choose another --output, or change its permissions"),
    errno.EROFS: ("lies on a read-only disk", "Choose another --output"),
    errno.ENOTDIR: ("lies under a file, not a folder", "Choose another --output"),
    errno.EEXIST: ("is a file, not a folder", "Choose another --output"),
    errno.ENAMETOOLONG: ("has too long a name", "Choose a shorter --output or dataset name"),
}


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turn what the user can mend about a disk (full, read-only, not permitted) into an InputError."""
    try:
        yield
    except OSError as problem:
        if problem.errno not in _CANNOT_WRITE:
            raise
        found, fix = _CANNOT_WRITE[problem.errno]
        raise InputError(found, file=place, fix=fix) from problem


# ------------------------------------------------------------------------------- names


def run_hash(inputs: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of all that decides what a report holds: runs with the same one agree in every byte.

    >>> run_hash({"draws": 16, "model": "ab"}) == run_hash({"model": "ab", "draws": 16})
    True
    """
    return hashlib.sha256(_canonical(inputs)).hexdigest()


def final_folder(output: Path, dataset: str, run: str, as_of: datetime | None = None) -> Path:
    """Where a report belongs: `as_of=<start of its interval, UTC>`, or `run=<12 hex>` for one without.

    >>> final_folder(Path("reports"), "weather", "ab" * 32, datetime(2013, 1, 1, tzinfo=UTC)).as_posix()
    'reports/weather/as_of=20130101T000000Z'
    """
    if dataset in ("", ".", "..") or dataset.startswith(".") or any(c in dataset for c in "/\\\0"):
        raise InputError(f'"{dataset}" cannot name a folder', fix="Give the dataset another name")
    if as_of is None:
        return Path(output) / dataset / f"run={run[:12]}"
    return Path(output) / dataset / f"as_of={utc_text(as_of).replace('-', '').replace(':', '')}"


def utc_text(moment: datetime) -> str:
    """A moment in UTC, as text.

    >>> utc_text(datetime(2013, 1, 1, tzinfo=UTC))
    '2013-01-01T00:00:00Z'
    """
    if moment.tzinfo is None:
        raise InputError(f"{moment} has no time zone", fix="Give it in UTC, as 2013-01-01T00:00:00Z")
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def staging_folder(final: Path, run: str) -> Path:
    """The hidden folder in which the run prepares its report."""
    return final.parent / f".staging-{run[:16]}"


# ------------------------------------------------------------------------------- files


def sha256_of(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def commit(temporary: Path, final: Path, *, flushed: bool = True) -> None:
    """Flush a finished file to disk, then give it its name: whoever sees the name sees the whole file.

    Not `flushed`, the system chooses when the disk has it: then a power cut, and it alone, may leave a part.
    """
    if flushed:
        sync(temporary)
    temporary.replace(final)


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """A hidden path to write to; the file gets its name when the block ends well, and only then.

    What a killed run left there is written over; two runs for one file follow each other.
    """
    if target.is_dir():
        raise InputError("is a folder, not a file", file=target, fix="Name a file in it")
    hidden = target.absolute().with_name(f".{target.stem}-unfinished{target.suffix}")
    with lock(hidden), writing(target.parent):
        try:
            yield hidden
            commit(hidden, target)
        finally:
            hidden.unlink(missing_ok=True)


def write_json(path: Path, data: Mapping[str, Any], *, flushed: bool = True) -> None:
    """Sorted keys, so that equal data give equal bytes; whole or not at all, `flushed` as in `commit`."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    text = json.dumps(data, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    temporary.write_text(text + "\n", encoding="utf-8")
    commit(temporary, path, flushed=flushed)


def _canonical(data: Mapping[str, Any]) -> bytes:
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


# ------------------------------------------------------------------------------- locks


@contextmanager
def lock(staging: Path, *, wait: bool = True, on_wait: Callable[[], None] | None = None) -> Iterator[bool]:
    """Keep a second run of the same job out until this one ends, killed or not (the kernel drops the lock).

    Yields True; with `wait=False`, False where another holds it. `on_wait` is called before waiting.
    """
    if fcntl is None:
        yield True
        return
    path = _lock_file(staging)
    handle = _acquire(path, wait=wait, on_wait=on_wait)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            try:
                path.unlink(missing_ok=True)  # while holding it; who waits on this file sees that it is gone
            finally:
                os.close(handle)


def _lock_file(staging: Path) -> Path:
    return staging.with_name(f"{staging.name}.lock")


def _acquire(path: Path, *, wait: bool, on_wait: Callable[[], None] | None) -> int | None:
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with writing(path.parent):
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        mine = False
        try:
            if not _locked(handle, wait=wait, on_wait=on_wait):
                return None
            mine = _is_still(path, handle)
        finally:
            if not mine:  # taken, or in trouble; or its last holder removed it: lock the one that others see
                os.close(handle)
        if mine:
            return handle


def _locked(handle: int, *, wait: bool, on_wait: Callable[[], None] | None) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if not wait:
            return False
        if on_wait is not None:
            on_wait()
        fcntl.flock(handle, fcntl.LOCK_EX)
    return True


def _is_still(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


# ------------------------------------------------------------------------------- publishing


def publish(staging: Path, final: Path, manifest: Mapping[str, Any], *, replace: bool = False) -> Path:
    """Make the files in `staging`/outgoing the report `final`, by one rename. Returns the folder.

    `manifest["run"]` is the run's hash. Already there with the same hash: left as it is. Another report in
    the same place: Refused; with `replace` the new one gets the folder `run=<12 hex>`, and the file
    `_current-<name>.json` is moved over to it. What was published stays, unchanged.
    """
    outgoing = staging / OUTGOING
    with writing(final.parent):
        _seal(outgoing, manifest)
        with lock(final.parent / PUBLISHING):
            place = check_place(final, str(manifest["run"]), replace=replace)
            if not place.exists():
                outgoing.rename(place)
                sync(place.parent)
            if place != current(final):
                write_json(_pointer(final), {"folder": place.name})
                sync(place.parent)
    shutil.rmtree(staging, ignore_errors=True)  # what stays is hidden, and for `tidy`
    return place


def tidy(staging: Path) -> None:
    """Remove what a run left behind that was killed when it had published, unless another is at work."""
    for place in (staging, staging.with_name(PUBLISHING)):
        if place.exists() or _lock_file(place).exists():
            with lock(place, wait=False) as mine:
                if mine:
                    shutil.rmtree(place, ignore_errors=True)


@contextmanager
def nothing_left(staging: Path) -> Iterator[None]:
    """Around the work of the run that holds the lock: an error before any file was there leaves no folder.

    What is finished stays, whatever stopped the run: the same job takes it up.
    """
    try:
        yield
    except BaseException:
        if not any(path.is_file() for path in staging.rglob("*")):
            shutil.rmtree(staging, ignore_errors=True)
        raise


def _seal(outgoing: Path, manifest: Mapping[str, Any]) -> None:
    """The manifest, written last, with size and SHA-256 of every file and one of itself."""
    files = {}
    for path in sorted(outgoing.rglob("*")):
        if path.name != MANIFEST:
            sync(path)
        if path.is_file() and path.name != MANIFEST:
            name = path.relative_to(outgoing).as_posix()
            files[name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    sealed = {**manifest, "files": files}
    write_json(outgoing / MANIFEST, {**sealed, "sha256": run_hash(sealed)})
    sync(outgoing)


def check_place(final: Path, run: str, *, replace: bool) -> Path:
    """The folder in which this run's report is, or is to be. Raises Refused when another one is there."""
    here = current(final)
    if _holds(here, run):
        return here
    if not here.exists() and not final.exists():
        return final
    beside = final.with_name(f"run={run[:12]}")
    if not replace or (beside.exists() and not _holds(beside, run)):
        raise Refused(
            f"{final} holds another report: other input, model or settings. "
            "It stays as it is; --replace publishes the new one in its place."
        )
    return final if _holds(final, run) else beside


def _holds(folder: Path, run: str) -> bool:
    """Is this very report there?"""
    if not folder.exists():
        return False
    if not (folder / MANIFEST).exists():
        raise InputError("is in the way: no report is in it", file=folder, fix="Move it away, or delete it")
    return bool(read_manifest(folder)["run"] == run)


def published(final: Path, run: str) -> Path | None:
    """The folder of this very report if it is published, verified and current; else None."""
    folder = current(final)
    if not _holds(folder, run):
        return None
    verify(folder)
    return folder


def current(folder: Path) -> Path:
    """The folder that counts in this place: the one that its pointer names, if a report was replaced."""
    pointer = _pointer(folder)
    if not pointer.exists():
        return folder
    try:
        name = json.loads(pointer.read_text())["folder"]
        if not isinstance(name, str) or Path(name).name != name:
            raise ValueError(name)
    except (ValueError, KeyError, TypeError) as problem:
        fix = 'Let it say {"folder": "run=..."}, or publish again with --replace'
        raise InputError("does not name a report folder", file=pointer, fix=fix) from problem
    return folder.with_name(name)


def _pointer(folder: Path) -> Path:
    return folder.with_name(f"_current-{folder.name}.json")


# ------------------------------------------------------------------------------- reading


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a published folder, its own SHA-256 checked."""
    path = folder / MANIFEST
    try:
        sealed = json.loads(path.read_text(encoding="utf-8"))
        digest = sealed.pop("sha256")
        if digest != run_hash(sealed):
            raise ValueError("other digest")
    except (FileNotFoundError, NotADirectoryError) as problem:
        raise InputError("is not a published report", file=folder, fix=_what_there_is(folder)) from problem
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise InputError("was changed or damaged after publishing", file=path, fix=_AGAIN) from problem
    return {**sealed, "sha256": digest}


_AGAIN = "Delete its folder and run the same command again, or restore it from a backup"


def _what_there_is(folder: Path) -> str:
    names = sorted(path.parent.name for path in folder.glob(f"*/{MANIFEST}")) if folder.is_dir() else []
    if names:
        return f"Name one of the reports in it: {', '.join(names[-5:])}"
    return "Give the folder that `elborank score` printed"


def verify(folder: Path) -> dict[str, Any]:
    """Check every file of a report against its manifest, and return the manifest."""
    manifest = read_manifest(folder)
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise InputError("is missing", file=path, fix=_AGAIN)
        if path.stat().st_size != expected["bytes"] or sha256_of(path) != expected["sha256"]:
            raise InputError("was changed or damaged after publishing", file=path, fix=_AGAIN)
    return manifest


def sweep(parent: Path, *, older_than: float = ABANDONED) -> list[Path]:
    """Remove staging folders that no run holds and nobody has written to for `older_than` seconds."""
    swept = []
    for staging in sorted(parent.glob(".staging-*")):
        if not staging.is_dir() or time.time() - _last_change(staging) < older_than:
            continue
        with lock(staging, wait=False) as mine:
            if mine and staging.exists():
                shutil.rmtree(staging)
                swept.append(staging)
    return swept


def _last_change(staging: Path) -> float:
    return max(path.stat().st_mtime for path in (staging, *(p for p in staging.iterdir() if p.is_dir())))
