"""Files that a command writes where the user says: never over another one unasked, never into a report.

An output is a path or an address in a store. What goes to a store is made in a folder of our own, and sent
when it is complete.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vae_core.errors import InputError, Refused, one_line

if TYPE_CHECKING:
    from vae_core.stores import Store

__all__ = ["check", "check_address", "check_outside_reports", "exists", "with_name", "written"]


def check(output: str, *, replace: bool) -> None:
    """Raises Refused where there is such a file or folder already and it is not to be replaced."""
    check_outside_reports(output)
    if exists(output) and not replace:
        raise _there_already(output)


def check_outside_reports(output: str) -> None:
    """Raises InputError where the file would lie in a published report: its hashes would no longer hold."""
    from vae_core import publishing, stores

    report: object = None
    if stores.is_remote(output):
        bucket, key = _object(output)
        parts = key.split("/")
        folders = ["/".join(parts[:n]) for n in range(len(parts), 0, -1)]
        inside = next((f for f in folders if bucket.exists(f"{f}/{publishing.MANIFEST}")), None)
        report = inside and bucket.address(inside)
    else:
        place = Path(output).resolve()
        report = next((f for f in (place, *place.parents) if (f / publishing.MANIFEST).is_file()), None)
    if report:
        raise InputError("is published, and never written to", file=report, fix="Give --output another place")


def check_address(output: str) -> None:
    """Raises InputError for an address that no file can have; a path is left alone."""
    if "://" not in output:
        return
    from vae_core import stores

    if not stores.parted(output)[1]:
        raise InputError("is a bucket, not a file in one", file=output, fix="Write s3://BUCKET/NAME")


def exists(output: str) -> bool:
    """Whether there is such a file or folder. Raises InputError where a store has no such bucket."""
    from vae_core import stores

    if not stores.is_remote(output):
        return Path(output).exists()
    bucket, key = _object(output)
    return bucket.exists(key) or bool(bucket.list(key))


def with_name(output: str, name: str) -> str:
    """The place of another name beside an output.

    >>> with_name("s3://bucket/new/x.parquet", "y.parquet"), with_name("new/x.parquet", "y.parquet")
    ('s3://bucket/new/y.parquet', 'new/y.parquet')
    """
    from vae_core import stores

    if stores.is_remote(output):
        return f"{output.rstrip('/').rpartition('/')[0]}/{name}"
    return str(Path(output).with_name(name))


@contextmanager
def written(output: str, *, replace: bool) -> Iterator[Path]:
    """Where to write an output and what belongs beside it; sent to the store when the block ends well."""
    from flows.scratch import scratch
    from vae_core import stores

    if not stores.is_remote(output):
        yield Path(output)
        return

    bucket, key = _object(output)
    above, _, name = key.rpartition("/")
    with scratch() as folder:
        yield folder / name
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            place = f"{above}/{file.relative_to(folder).as_posix()}".lstrip("/")
            if replace:
                bucket.put(place, file)
            elif not bucket.put_if_absent(place, file):
                raise _there_already(bucket.address(place))


def _object(output: str) -> tuple[Store, str]:
    """The bucket of an address, and the name in it."""
    from vae_core import stores

    check_address(output)
    store = stores.open_store(output)
    return dataclasses.replace(store, root=""), store.root


def _there_already(place: str) -> Refused:
    return Refused(f"{one_line(place)} exists already. Add --replace to overwrite it.")
