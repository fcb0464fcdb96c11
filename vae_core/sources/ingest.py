"""Raw files -> a dataset folder, whole or not at all, once for each content and options."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta, timezone
from pathlib import Path

import pyarrow as pa

from vae_core.errors import InputError
from vae_core.sources import schema
from vae_core.sources.csv_reader import CsvReader
from vae_core.sources.dataset import FORMAT, MANIFEST, Dataset, is_dataset, manifest_text, open_dataset
from vae_core.sources.files import Source, content_digest, dataset_name, find
from vae_core.sources.parquet_reader import ParquetReader
from vae_core.sources.parts import Keys, PartWriter, QuarantineWriter, without
from vae_core.sources.records import Table, typed_records

DEFAULT_NULLS = ("", "NA", "N/A", "null", "NULL", "None", "nan", "NaN")
READERS: dict[str, Callable[..., schema.Reader]] = {"csv": CsvReader, "parquet": ParquetReader}
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
Moment = str | date | datetime | None


@dataclass(frozen=True)
class Options:
    """What ingest was asked for, beside the files. Part of the digest: the same options, the same dataset."""

    ids: tuple[str, ...]
    columns: dict[str, str] | None
    start: int | None
    until: int | None
    time: str | None
    nulls: tuple[str, ...]
    on_schema: str
    encoding: str
    delimiter: str | None


def ingest(
    path: str | Path,
    store: str | Path,
    *,
    name: str | None = None,
    ids: Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
    start: Moment = None,
    until: Moment = None,
    time: str | None = None,
    null_values: Sequence[str] = DEFAULT_NULLS,
    on_schema: str = "warn",
    encoding: str = "utf-8",
    delimiter: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Dataset:
    """Read a file, a folder tree or a glob of Parquet or CSV files into `<store>/<name>/<12 hex of the digest>/`.

    `ids` are the columns whose values make a record's key. `columns` (a model's) are enforced, without it types are
    inferred from all cells. `start` and `until` keep the half-open interval of the time column (`time`, or the only
    timestamp column); times without a zone are UTC. `on_schema="stop"` refuses columns that are new to `columns`.
    `progress` is called with the number of records read so far.

    The same content with the same options is there already: returned without work. Every record read is kept,
    quarantined or outside the interval; their counts add up. Raises InputError: one line with the file and the fix.
    """
    if is_dataset(path):
        raise InputError("is a dataset already", file=path, fix="Open it, or give the raw files")
    sources = find(path)
    options = Options(
        ids=tuple(dict.fromkeys(ids)),
        columns=None if columns is None else dict(columns),
        start=_ticks(start, "the interval's start"),
        until=_ticks(until, "the interval's end"),
        time=time,
        nulls=tuple(sorted({"", *map(str.strip, null_values)})),
        on_schema=_choice(on_schema),
        encoding=encoding,
        delimiter=delimiter,
    )
    if options.start is not None and options.until is not None and options.start >= options.until:
        raise InputError(
            f"the interval from {start} until {until} is empty", fix="Give a later end: it is not included"
        )
    folder = Path(store) / dataset_name(path, name)
    before = [os.stat(source.path) for source in sources]
    digests = [content_digest(source) for source in sources]
    digest = _digest(options, sources, digests, folder.name)
    with _claimed(folder / digest[:12]) as staging:
        if staging is None:
            return open_dataset(folder / digest[:12])
        made = _build(path, sources, digests, options, staging, progress)
        _check_unchanged(sources, before)
        _finish(replace(made, name=folder.name, digest=digest), staging)
    return open_dataset(folder / digest[:12])


def _build(
    path: str | Path,
    sources: list[Source],
    digests: list[str],
    options: Options,
    staging: Path,
    progress: Callable[[int], None] | None,
) -> Dataset:
    readers = [
        READERS[source.format](source, encoding=options.encoding, delimiter=options.delimiter)
        for source in sources
    ]
    table, warnings = _table(readers, options)
    writer = PartWriter(staging, table.columns)
    keys = Keys(staging / "keys") if table.ids else None
    counts: list[int] = []
    outside = 0
    try:
        with QuarantineWriter(staging) as quarantine:
            for reader in readers:
                before = sum(counts)
                count = 0
                for block in reader.blocks(list(table.columns)):
                    records = typed_records(block, reader.source.name, table)
                    writer.add(records.table)
                    quarantine.add(records.quarantine)
                    if keys is not None:
                        keys.add(records.table.column("_record_id"))
                    outside += records.outside
                    count += len(block.rows) + len(block.broken)
                    if progress is not None:
                        progress(before + count)
                counts.append(count)
            parts = writer.close()
            doomed = keys.later_copies(staging, writer.names) if keys is not None else None
            if doomed is not None and len(doomed):
                parts, entries = without(staging, table.columns, writer.names, doomed)
                quarantine.add(entries)
    finally:
        writer.abandon()
        if keys is not None:
            keys.close()
    rows = sum(part.rows for part in parts)
    _check_counts(path, counts, rows, quarantine, outside)
    warnings += [
        f"{source.name}: no rows" for source, count in zip(sources, counts, strict=True) if not count
    ]
    return Dataset(
        folder=staging,
        name="",
        columns=table.columns,
        ids=table.ids,
        time=table.time,
        rows=rows,
        quarantined=quarantine.count,
        outside=outside,
        digest="",
        warnings=tuple(warnings),
        parts=tuple(parts),
        rows_per_group=writer.rows_per_group,
        sources=tuple(
            {"name": source.name, "sha256": digest, "records": count}
            for source, digest, count in zip(sources, digests, counts, strict=True)
        ),
    )


def _table(readers: list[schema.Reader], options: Options) -> tuple[Table, list[str]]:
    """Which columns, of which types; and warnings about those left out."""
    needed = [*options.ids, *([options.time] if options.time else [])]
    wanted = options.columns or {}
    if options.columns is not None:
        names, warnings = schema.model_columns(readers, wanted, needed, options.on_schema)
    else:
        names, warnings = schema.same_columns(readers), []
        for name in needed:
            if name not in names:
                schema.model_columns(readers, {}, needed, "warn")  # raises, with the nearest name
    names, left_out = schema.usable(readers, names, [*needed, *wanted])
    schema.check_types(readers, wanted)
    nulls = pa.array(options.nulls)
    unknown = [name for name in names if name not in wanted]
    csv = [reader for reader in readers if isinstance(reader, CsvReader)]
    parquet = [reader for reader in readers if isinstance(reader, ParquetReader)]
    found = (
        (schema.inferred(csv, unknown, options.ids, nulls) if csv else schema.declared(parquet, unknown))
        if unknown
        else {}
    )
    if options.time and found.get(options.time) == "string" and parquet:
        found[options.time] = "timestamp"  # text in Parquet: each cell is parsed
    columns = {name: wanted.get(name) or found[name] for name in names}
    time = _time_column(columns, options, readers[0].source.path)
    return Table(columns, options.ids, time, options.start, options.until, nulls), warnings + left_out


def _time_column(columns: dict[str, str], options: Options, file: Path) -> str | None:
    times = [name for name, kind in columns.items() if kind == "timestamp"]
    if options.time is not None:
        if options.time not in times:
            raise InputError(
                f"is no time but {schema.SPOKEN[columns[options.time]]}",
                file=file,
                column=options.time,
                fix="Write times as ISO 8601, such as 2013-02-12T08:00:00Z",
            )
        return options.time
    if len(times) == 1:
        return times[0]
    if options.start is not None or options.until is not None:
        what = f"several time columns: {', '.join(times)}" if times else "no time column"
        raise InputError(
            f"an interval is asked for, and there are {what}", file=file, fix="Name one by --time"
        )
    return None


def _check_counts(
    path: str | Path, counts: list[int], rows: int, quarantine: QuarantineWriter, outside: int
) -> None:
    read = sum(counts)
    if read != rows + quarantine.count + outside:
        raise RuntimeError(f"{read} records read, but {rows} + {quarantine.count} + {outside} accounted for")
    if not read:
        raise InputError("there are no rows", file=path)
    if not rows and outside == read:
        raise InputError(
            f"none of the {read} rows lies in the interval", file=path, fix="Give other --from and --until"
        )
    if not rows:
        column, (_, reason) = max(quarantine.examples.items(), key=lambda item: item[1][0])
        raise InputError(
            f"no row is left: {quarantine.count} of {read} are in quarantine, most of them like this: {reason}",
            file=path,
            column=column,
            fix="Mend the file, or declare missing values by --null-values",
        )


def _digest(options: Options, sources: list[Source], digests: list[str], name: str) -> str:
    content = {
        "format": FORMAT,
        "name": name,
        "options": {
            **vars(options),
            "columns": list(options.columns.items()) if options.columns is not None else None,
        },
        "sources": [
            [source.name, source.format, digest] for source, digest in zip(sources, digests, strict=True)
        ],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@contextmanager
def _claimed(final: Path) -> Iterator[Path | None]:
    """A hidden folder to build in, held by a lock that dies with the process; None when the final one is there.

    A second process that wants the same dataset waits and then uses it; what a killed one left behind is cleared.
    """
    staging = final.parent / f".ingest-{final.name}"
    try:
        while not final.exists():
            staging.mkdir(parents=True, exist_ok=True)
            handle = os.open(staging, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                if not staging.exists() or os.stat(staging).st_ino != os.fstat(handle).st_ino:
                    continue  # another process published or cleared it while this one waited
                _clear(staging)
                try:
                    yield staging
                    os.rename(staging, final)
                    _sync(final.parent)
                    return
                except BaseException:
                    shutil.rmtree(staging, ignore_errors=True)
                    raise
            finally:
                os.close(handle)
        yield None
    except OSError as cause:
        if cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise InputError(
                "there is no space left", file=final.parent, fix="Free some, or choose another store"
            ) from cause
        raise InputError(
            f"cannot be written: {cause.strerror or cause}",
            file=final.parent,
            fix="Choose another store folder",
        ) from cause


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def _finish(dataset: Dataset, staging: Path) -> None:
    """Everything on disk, the description last."""
    (staging / MANIFEST).write_text(manifest_text(dataset), encoding="utf-8")
    for path in [*staging.iterdir(), staging]:
        _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _check_unchanged(sources: list[Source], before: list[os.stat_result]) -> None:
    for source, old in zip(sources, before, strict=True):
        new = os.stat(source.path)
        if (new.st_size, new.st_mtime_ns, new.st_ino) != (old.st_size, old.st_mtime_ns, old.st_ino):
            raise InputError(
                "was changed while it was read", file=source.path, fix="Run it again when it is complete"
            )


def _ticks(moment: Moment, what: str) -> int | None:
    """Microseconds since 1970 UTC of a date, a time, or ISO 8601 text; without a zone it is UTC."""
    if moment is None:
        return None
    try:
        found = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    except ValueError as cause:
        raise InputError(
            f'{what}, "{moment}", is not an ISO 8601 time', fix="Write 2013-03-01, or 2013-03-01T00:00:00Z"
        ) from cause
    if not isinstance(found, datetime):
        found = datetime.combine(found, time.min)
    found = found if found.tzinfo else found.replace(tzinfo=timezone.utc)
    return (found - EPOCH) // timedelta(microseconds=1)


def _choice(on_schema: str) -> str:
    if on_schema not in ("warn", "stop"):
        raise InputError(f'on_schema is "{on_schema}"', fix="Say warn or stop")
    return on_schema
