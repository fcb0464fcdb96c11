"""A folder that appears whole or not at all: built hidden, under a lock that dies with its process."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vae_core.disk import sync
from vae_core.errors import InputError

try:
    import fcntl
except ImportError:  # Windows: the Python API, which stores no dataset, does without
    fcntl = None  # type: ignore[assignment]

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def claimed(final: Path) -> Iterator[Path | None]:
    """A hidden folder to build in, renamed to `final` at the end; None when `final` is there already.

    A second process that wants the same folder waits and then finds it. What a killed one left is cleared.
    Raises InputError when the place cannot be written or is full, and where the system has no file locks.
    """
    if fcntl is None:
        fix = "Use Linux, macOS or WSL; the Python API (VAEDetector) works here"
        raise InputError("ingest needs file locks, which this system lacks", file=final.parent, fix=fix)
    staging = final.parent / f".ingest-{final.name}"
    try:
        while not final.exists():
            staging.mkdir(parents=True, exist_ok=True)
            handle = os.open(staging, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                if not _still(staging, handle):
                    continue  # another process published or cleared it while this one waited
                yield from _filled(staging, final)
                return
            finally:
                os.close(handle)
        yield None
    except OSError as cause:
        if cause.errno in FULL:
            fix = "Free some, or choose another store folder"
            raise InputError("there is no space left", file=final.parent, fix=fix) from cause
        problem = f"cannot be written: {cause.strerror or cause}"
        raise InputError(problem, file=final.parent, fix="Choose another store folder") from cause


def _filled(staging: Path, final: Path) -> Iterator[Path]:
    try:
        for left in staging.iterdir():
            left.unlink()
        yield staging
        for path in [*staging.iterdir(), staging]:
            sync(path)
        staging.rename(final)
        sync(final.parent)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _still(folder: Path, handle: int) -> bool:
    """Whether the folder is still the one that the handle was opened on."""
    try:
        return folder.stat().st_ino == os.fstat(handle).st_ino
    except FileNotFoundError:
        return False
