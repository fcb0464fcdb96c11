"""A dataset folder: typed Parquet parts, the quarantine, `_dataset.json`; how it is cut into units and read.

A published folder is never written to, so any number of processes may read it at once. Every page carries a
checksum that is verified on reading: a flipped bit is an error, never another number.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vae_core.arrow import UNREADABLE, arrow_type
from vae_core.errors import InputError, nearest

FORMAT = 1
MANIFEST = "_dataset.json"
QUARANTINE = "quarantine.parquet"
LEADING = (("_record_id", pa.string()), ("_source", pa.string()), ("_row", pa.int64()))
LEADING_NAMES = tuple(name for name, _ in LEADING)


@dataclass(frozen=True)
class Unit:
    """Rows [first, last) of one part: what one worker reads and scores. Ids sort in the order of the rows."""

    id: str
    path: str
    first: int
    last: int


@dataclass(frozen=True)
class Part:
    """One Parquet file of a dataset: its name in the folder, its rows and its size in bytes."""

    name: str
    rows: int
    size: int


@dataclass(frozen=True)
class Dataset:
    """A dataset folder, opened. Records read = rows + quarantined + outside (of the interval asked for)."""

    folder: Path
    name: str
    columns: dict[str, str]
    ids: tuple[str, ...]
    time: str | None
    rows: int
    quarantined: int
    outside: int
    digest: str
    warnings: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()
    rows_per_group: int = 65_536
    sources: tuple[dict[str, object], ...] = field(default=(), repr=False)
    image: dict[str, Any] | None = None  # of images: height, width, channels, depth, fit
    left_out: tuple[str, ...] = ()  # record ids that `batches` and `shuffled` do not give: not trained on

    @property
    def cells(self) -> int:
        """Values of one record: of a table its columns, of an image its pixels' values."""
        if self.image is None:
            return max(1, len(self.columns))
        return int(self.image["height"] * self.image["width"] * self.image["channels"])

    @property
    def quarantine(self) -> Path:
        """The Parquet file with one line (file, row, column, reason, raw) for each quarantined record."""
        return self.folder / QUARANTINE


def arrow_schema(columns: dict[str, str]) -> pa.Schema:
    """The Arrow schema of a part: the three leading columns, then the user's."""
    stored = {"image": pa.binary()}
    return pa.schema(
        [*LEADING, *((name, stored.get(kind) or arrow_type(kind)) for name, kind in columns.items())]
    )


def is_dataset(path: str | Path) -> bool:
    """Whether the path is a dataset folder, or the folder `<store>/<name>` of a dataset with one version.

    >>> is_dataset("no/such/folder")
    False
    """
    return len(_versions(Path(path))) == 1


def open_dataset(folder: str | Path) -> Dataset:
    """Open a dataset folder, or `<store>/<name>` when it holds exactly one version.

    Raises InputError when there is none, several, or one whose files are missing or have another size.
    """
    folder = Path(folder)
    found = _versions(folder)
    if len(found) > 1:
        names = ", ".join(version.name for version in found)
        raise InputError(f"holds {len(found)} versions: {names}", file=folder, fix="Name one of them")
    if not found:
        raise InputError("is not a dataset folder", file=folder, fix="Run ingest on the raw files first")
    return _load(found[0])


def plan(dataset: Dataset, rows_per_unit: int = 65_536) -> list[Unit]:
    """Cut a dataset into units of at most `rows_per_unit` rows; none crosses a part.

    From one row group upwards units are whole row groups, so that reading a unit touches its own rows only.
    """
    if rows_per_unit < 1:
        raise InputError(
            f"a unit of {rows_per_unit} rows holds nothing", fix="Take at least 1 row for a unit"
        )
    step = rows_per_unit
    if step > dataset.rows_per_group:
        step -= step % dataset.rows_per_group
    return [
        Unit(f"{number:05d}-{first:010d}", part.name, first, min(first + step, part.rows))
        for number, part in enumerate(dataset.parts)
        for first in range(0, part.rows, step)
    ]


def read(dataset: Dataset, unit: Unit, columns: Iterable[str] | None = None) -> pa.Table:
    """The rows of one unit: `_record_id`, `_source`, `_row`, then the columns asked for (default: all).

    Decodes only the row groups that hold them. Raises InputError for an unknown column or a damaged part.
    """
    names = _names(dataset, columns)
    path = dataset.folder / unit.path
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            groups, offset = _groups(file.metadata, unit)
            table = file.read_row_groups(groups, columns=names, use_threads=False)
    except UNREADABLE as cause:
        raise _damaged(path, cause) from cause
    return table.select(names).slice(unit.first - offset, unit.last - unit.first)


def shuffled(dataset: Dataset, seed: int) -> Iterator[pa.RecordBatch]:
    """All rows as batches, a row group each, in an order that follows from the seed. Flat memory."""
    units = plan(dataset, dataset.rows_per_group)
    random.Random(seed).shuffle(units)
    for unit in units:
        for batch in read(dataset, unit).combine_chunks().to_batches():
            yield _kept(batch, dataset.left_out)


def batches(
    dataset: Dataset, *, columns: Iterable[str] | None = None, rows: int = 65_536
) -> Iterator[pa.RecordBatch]:
    """All rows in order, as batches of at most `rows` rows, with the three leading columns. Flat memory."""
    names = _names(dataset, columns)
    if dataset.image is not None:
        rows = min(rows, dataset.rows_per_group)
    for part in dataset.parts:
        path = dataset.folder / part.name
        try:
            # Buffering ahead would hold the whole part while it is read.
            with pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
                for batch in file.iter_batches(batch_size=rows, columns=names, use_threads=False):
                    yield _kept(batch.select(names), dataset.left_out)
        except UNREADABLE as cause:
            raise _damaged(path, cause) from cause


def leaving_out(dataset: Dataset, ids: Iterable[str]) -> Dataset:
    """The dataset without the records that have one of these ids; the same where there are none of them."""
    wanted = pa.array(sorted(set(ids)), pa.string())
    count, found = 0, set[str]()
    for batch in batches(dataset, columns=[]) if len(wanted) else ():
        here = batch.filter(pc.is_in(batch["_record_id"], value_set=wanted))["_record_id"].to_pylist()
        count += len(here)
        found.update(here)
    return replace(dataset, left_out=tuple(sorted(found)), rows=dataset.rows - count) if found else dataset


def _kept(batch: pa.RecordBatch, left_out: tuple[str, ...]) -> pa.RecordBatch:
    if not left_out:
        return batch
    values = pa.array(left_out, pa.string())
    return batch.filter(pc.invert(pc.is_in(batch["_record_id"], value_set=values)))


def manifest_text(dataset: Dataset) -> str:
    """What `_dataset.json` holds: no clock and no absolute path, so the same input gives the same bytes."""
    content: dict[str, Any] = {
        "format": FORMAT,
        "name": dataset.name,
        "columns": dataset.columns,
        "ids": dataset.ids,
        "time": dataset.time,
        "rows": dataset.rows,
        "quarantined": dataset.quarantined,
        "outside": dataset.outside,
        "digest": dataset.digest,
        "warnings": dataset.warnings,
        "rows_per_group": dataset.rows_per_group,
        "parts": [vars(part) for part in dataset.parts],
        "sources": dataset.sources,
    }
    if dataset.image is not None:
        content["image"] = dataset.image
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def _versions(folder: Path) -> list[Path]:
    if (folder / MANIFEST).is_file():
        return [folder]
    if not folder.is_dir() or not os.access(folder, os.R_OK | os.X_OK):
        return []
    inside = [path for path in folder.iterdir() if not path.name.startswith(".")]
    if not all(re.fullmatch("[0-9a-f]{12}", path.name) and (path / MANIFEST).is_file() for path in inside):
        return []
    return sorted(inside)


def _load(folder: Path) -> Dataset:
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise InputError(
                f"has format {content['format']}, this version reads {FORMAT}",
                file=path,
                fix="Run ingest again",
            )
        dataset = Dataset(
            folder=folder,
            name=content["name"],
            columns=content["columns"],
            ids=tuple(content["ids"]),
            time=content["time"],
            rows=content["rows"],
            quarantined=content["quarantined"],
            outside=content["outside"],
            digest=content["digest"],
            warnings=tuple(content["warnings"]),
            parts=tuple(Part(**part) for part in content["parts"]),
            rows_per_group=content["rows_per_group"],
            sources=tuple(content["sources"]),
            image=content.get("image"),
        )
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as cause:
        raise InputError(
            "is not a readable dataset description", file=path, fix="Delete this dataset and ingest again"
        ) from cause
    for part in dataset.parts:
        file = folder / part.name
        if not file.is_file() or file.stat().st_size != part.size:
            raise InputError(
                "is missing or was changed after ingest",
                file=file,
                fix="Delete this dataset and ingest again",
            )
    return dataset


def _names(dataset: Dataset, columns: Iterable[str] | None) -> list[str]:
    chosen: Sequence[str] = list(dataset.columns) if columns is None else list(columns)
    for name in chosen:
        if name not in dataset.columns and name not in LEADING_NAMES:
            hint = nearest(name, dataset.columns)
            raise InputError(f"there is no such column{hint}", file=dataset.folder, column=name)
    return [*LEADING_NAMES, *(name for name in chosen if name not in LEADING_NAMES)]


def _groups(metadata: pq.FileMetaData, unit: Unit) -> tuple[list[int], int]:
    """The row groups that overlap a unit, and the first row of the first of them."""
    chosen: list[int] = []
    start = offset = 0
    for group in range(metadata.num_row_groups):
        end = start + metadata.row_group(group).num_rows
        if start < unit.last and end > unit.first:
            offset = offset if chosen else start
            chosen.append(group)
        start = end
    return chosen, offset


def _damaged(path: Path, cause: Exception) -> InputError:
    return InputError(
        f"cannot be read: {str(cause)[:200]}", file=path, fix="Delete this dataset and ingest again"
    )
