"""Raw files -> a dataset folder, whole or not at all, once for each content and options."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from vae_core.arrow import vector_width
from vae_core.errors import InputError
from vae_core.sources import schema
from vae_core.sources.claim import claimed
from vae_core.sources.csv_reader import CsvReader
from vae_core.sources.dataset import FORMAT, MANIFEST, Dataset, is_dataset, manifest_text, open_dataset
from vae_core.sources.files import Source, content_digest, dataset_name, find
from vae_core.sources.inference import is_with_comma
from vae_core.sources.parquet_reader import ParquetReader
from vae_core.sources.parts import Keys, PartWriter, QuarantineWriter, no_key, without
from vae_core.sources.records import Table, typed_records

DEFAULT_NULLS = ("", "NA", "N/A", "null", "NULL", "None", "nan", "NaN")
READERS: dict[str, Callable[..., schema.Reader]] = {"csv": CsvReader, "parquet": ParquetReader}
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
Moment = str | datetime.date | datetime.datetime | None


@dataclass(frozen=True)
class Options:
    """What ingest was asked for, beside the files. Part of the digest: the same options, the same dataset."""

    ids: tuple[str, ...]
    columns: dict[str, str] | None
    only_keys: tuple[str, ...]
    types: dict[str, str]
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
    only_keys: Sequence[str] = (),
    types: Mapping[str, str] | None = None,
    start: Moment = None,
    until: Moment = None,
    time: str | None = None,
    null_values: Sequence[str] = DEFAULT_NULLS,
    on_schema: str = "warn",
    encoding: str = "utf-8",
    delimiter: str | None = None,
    allow_empty: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Dataset:
    """Read a file, a folder or a glob of Parquet or CSV files into `<store>/<name>/<12 hex of the digest>/`.

    `ids` are the columns whose values make a record's key. `columns` (a model's) are enforced, but for those
    of `ids` that are `only_keys`, no features of the model: their keys stay as they stand. Without `columns`
    types are inferred from all cells, but for those that `types` tells. `start` and `until` keep the
    half-open interval of the time column (`time`, or the only one); without a zone they are UTC.
    `on_schema="stop"` refuses columns that are new to `columns`; `allow_empty` takes an interval without
    records. `progress` is called with the number of records read so far.

    When the same content with the same options is there already, it is returned without work. Every record
    read is kept, quarantined or outside the interval; the counts add up. Raises InputError: one line that
    names the file and the fix.
    """
    if is_dataset(path):
        raise InputError("is a dataset already", file=path, fix="Open it, or give the raw files")
    options = Options(
        ids=tuple(dict.fromkeys(ids)),
        columns=None if columns is None else dict(columns),
        only_keys=tuple(name for name in only_keys if name in ids and name in (columns or {})),
        types=dict(types or {}),
        start=_ticks(start, "start"),
        until=_ticks(until, "end"),
        time=time,
        nulls=tuple(sorted({"", *map(str.strip, null_values)})),
        on_schema=on_schema,
        encoding=encoding,
        delimiter=delimiter,
    )
    _check_options(options)
    sources = find(path)
    folder = Path(store) / dataset_name(path, name)
    before = [source.path.stat() for source in sources]
    digests = [content_digest(source) for source in sources]
    digest = _digest(options, sources, digests, folder.name)
    with claimed(folder / digest[:12]) as staging:
        if staging is not None:
            dataset = _build(path, sources, options, staging, progress, allow_empty)
            _check_unchanged(sources, before)
            described = tuple(
                {**source, "sha256": sha} for source, sha in zip(dataset.sources, digests, strict=True)
            )
            dataset = replace(dataset, name=folder.name, digest=digest, sources=described)
            (staging / MANIFEST).write_text(manifest_text(dataset), encoding="utf-8")
    return open_dataset(folder / digest[:12])


def _build(
    path: str | Path,
    sources: list[Source],
    options: Options,
    staging: Path,
    progress: Callable[[int], None] | None,
    allow_empty: bool,
) -> Dataset:
    """Write the parts and the quarantine into the staging folder; the dataset, still without its digest."""
    named = {"encoding": options.encoding, "delimiter": options.delimiter}
    readers = [READERS[source.format](source, **named) for source in sources]
    table, warnings = _table(readers, options)
    writer, keys = PartWriter(staging, table.columns), Keys(staging / "keys")
    try:
        with QuarantineWriter(staging) as quarantine:
            counts, outside = _write(readers, table, writer, quarantine, keys, progress)
            parts = writer.close()
            doomed = keys.later_copies(staging, writer.names)
            if len(doomed):
                parts, entries = without(staging, table.columns, writer.names, doomed)
                quarantine.add(entries)
    finally:
        writer.abandon()
        keys.close()
    rows = sum(part.rows for part in parts)
    _check_counts(path, sum(counts), rows, quarantine, outside, allow_empty=allow_empty)
    empty = [source.name for source, count in zip(sources, counts, strict=True) if not count]
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
        warnings=(
            *warnings,
            *no_key(table.ids, rows + len(doomed), len(doomed)),
            *(f"{name} has no rows" for name in empty),
        ),
        parts=tuple(parts),
        rows_per_group=writer.rows_per_group,
        sources=tuple(
            {"name": source.name, "records": count} for source, count in zip(sources, counts, strict=True)
        ),
    )


def _write(
    readers: list[schema.Reader],
    table: Table,
    writer: PartWriter,
    quarantine: QuarantineWriter,
    keys: Keys,
    progress: Callable[[int], None] | None,
) -> tuple[list[int], int]:
    """Stream all records through; how many each file holds, and how many lie outside the interval."""
    counts: list[int] = []
    outside = 0
    for reader in readers:
        counts.append(0)
        for block in reader.blocks(list(table.columns)):
            records = typed_records(block, reader.source.name, table)
            writer.add(records.table)
            quarantine.add(records.quarantine)
            if table.ids:
                keys.add(records.table.column("_record_id"))
            outside += records.outside
            counts[-1] += len(block.rows) + len(block.broken)
            if progress is not None:
                progress(sum(counts))
    return counts, outside


def _table(readers: list[schema.Reader], options: Options) -> tuple[Table, list[str]]:
    """Which columns, of which types; and warnings about those left out."""
    needed = [*options.ids, *([options.time] if options.time else [])]
    wanted = {**(options.columns or {}), **options.types}
    if options.columns is not None:
        names, warnings = schema.model_columns(readers, wanted, needed, options.on_schema)
    else:
        named = [*needed, *options.types]
        schema.check_there(readers, named)
        names, warnings = schema.same_columns(readers), []
    names, left_out = schema.usable(readers, names, [*needed, *wanted])
    trained = {name: wanted.pop(name) for name in options.only_keys}
    schema.check_types(readers, wanted)
    nulls = pa.array(options.nulls)
    unknown = [name for name in names if name not in wanted and name not in trained]
    found = schema.found_types(readers, unknown, options.ids, nulls) | schema.key_types(readers, trained)
    if options.time and found.get(options.time) == "string" and readers[0].source.format == "parquet":
        found[options.time] = "timestamp"  # text that was declared a time: each cell is parsed
    columns = {name: wanted.get(name) or found[name] for name in names}
    for name in options.ids:
        if vector_width(columns[name]):
            raise InputError("holds vectors, which are no keys", file=readers[0].source.path, column=name)
    time = _time_column(columns, options, readers[0].source.path)
    return Table(columns, options.ids, time, options.start, options.until, nulls), warnings + left_out


def _time_column(columns: dict[str, str], options: Options, file: Path) -> str | None:
    times = [name for name, kind in columns.items() if kind == "timestamp"]
    if options.time is not None:
        if options.time not in times:
            problem = f"is no time but {schema.spoken(columns[options.time])}"
            fix = "Write times as ISO 8601, such as 2013-02-12T08:00:00Z"
            raise InputError(problem, file=file, column=options.time, fix=fix)
        return options.time
    if len(times) == 1:
        return times[0]
    if options.start is not None or options.until is not None:
        what = f"several time columns ({', '.join(times)})" if times else "no time column"
        fix = "Say which by --time" if times else "Leave out --from and --until"
        raise InputError(f"an interval is asked for, and there are {what}", file=file, fix=fix)
    return None


def _check_options(options: Options) -> None:
    if options.start is not None and options.until is not None and options.start >= options.until:
        raise InputError("the interval is empty", fix="Give a later --until: it is not included itself")
    if options.on_schema not in ("warn", "stop"):
        raise InputError(f'on_schema is "{options.on_schema}"', fix="Say warn or stop")


def _check_counts(
    path: str | Path,
    read: int,
    rows: int,
    quarantine: QuarantineWriter,
    outside: int,
    *,
    allow_empty: bool,
) -> None:
    if read != rows + quarantine.count + outside:
        raise RuntimeError(f"{read} records read, but {rows} + {quarantine.count} + {outside} accounted for")
    if not read:
        raise InputError("there are no rows", file=path)
    if allow_empty and not rows and outside:
        return
    if not rows and outside:
        problem = f"none of the {read} rows lies in the interval"
        raise InputError(problem, file=path, fix="Give another --from and --until")
    if not rows:
        column, (_, reason) = max(quarantine.examples.items(), key=lambda item: item[1][0])
        problem = f"no row is left: all {read} are in quarantine, most of them like this one: {reason}"
        fix = "Mend the file, or declare missing values by --null-values"
        if is_with_comma(reason.removesuffix(" is not a number").strip('"')):
            fix = "Write a decimal point and no other separator"
        raise InputError(problem, file=path, column=column, fix=fix)


def _check_unchanged(sources: list[Source], before: list[os.stat_result]) -> None:
    for source, old in zip(sources, before, strict=True):
        new = source.path.stat() if source.path.exists() else None
        if new is None or (new.st_size, new.st_mtime_ns, new.st_ino) != (
            old.st_size,
            old.st_mtime_ns,
            old.st_ino,
        ):
            raise InputError(
                "was changed while it was read", file=source.path, fix="Run again when it is complete"
            )


def _digest(options: Options, sources: list[Source], digests: list[str], name: str) -> str:
    """The sha256 of all that decides what the dataset holds: names and contents of the files, and options."""
    columns = None if options.columns is None else list(options.columns.items())
    later = ("types", "only_keys")  # without them a dataset has the digest that it had before there were any
    given = {name: value for name, value in vars(options).items() if name not in later or value}
    content = {
        "format": FORMAT,
        "name": name,
        "options": {**given, "columns": columns},
        "sources": [[source.name, source.format, sha] for source, sha in zip(sources, digests, strict=True)],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _ticks(moment: Moment, what: str) -> int | None:
    """Microseconds since 1970 UTC of a date, a time, or ISO 8601 text; without a zone it is UTC."""
    if moment is None:
        return None
    try:
        found = datetime.datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    except ValueError as cause:
        fix = "Write 2013-03-01 or 2013-03-01T00:00:00Z"
        raise InputError(f'the interval\'s {what}, "{moment}", is no ISO 8601 time', fix=fix) from cause
    if not isinstance(found, datetime.datetime):
        found = datetime.datetime.combine(found, datetime.time.min)
    found = found if found.tzinfo else found.replace(tzinfo=datetime.UTC)
    return (found - EPOCH) // datetime.timedelta(microseconds=1)
