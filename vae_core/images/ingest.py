"""Images -> a dataset folder: every image decoded once, brought to one shape, or quarantined with its reason.

The dataset holds the pixels themselves, losslessly, so that what is scored is what was checked, whatever
becomes of the files. Files are decoded by a few threads (Pillow works outside the interpreter's lock) in a
bounded window: memory stays flat however many there are.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from vae_core.errors import InputError, one_line
from vae_core.images.encoding import COLUMN
from vae_core.images.files import Item, Pictures, open_pictures
from vae_core.images.paths import Sums, sum_of
from vae_core.images.pixels import LARGEST_SIDE, SMALLEST_SIDE, Shape, Unreadable, decode, fitted, measure
from vae_core.sources.blocks import Entry, shown
from vae_core.sources.claim import claimed
from vae_core.sources.dataset import (
    FORMAT,
    MANIFEST,
    Dataset,
    arrow_schema,
    is_dataset,
    manifest_text,
    open_dataset,
)
from vae_core.sources.files import dataset_name
from vae_core.sources.parts import Keys, PartWriter, QuarantineWriter, no_key, without

__all__ = ["ingest", "parse_size", "shape_of"]

SAMPLE = 500  # images whose headers decide the shape where nobody says it
DEFAULT_SIDE = 64  # larger images are brought to this longer side unless a size is asked for
WINDOW = 64  # images decoded ahead
AT_ONCE = 256  # images written together
COLUMNS = {COLUMN: "image"}


def ingest(
    path: str | Path,
    store: str | Path,
    *,
    name: str | None = None,
    ids: Iterable[str] = (),
    column: str | None = None,
    shape: Shape | None = None,
    size: tuple[int, int] | None = None,
    colour: str | None = None,
    fit: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Dataset:
    """Read images (see `files`) into `<store>/<name>/<12 hex of the digest>/`.

    `shape` (a model's) is enforced; without it `size` (height, width), `colour` ("grey" or "rgb") and `fit`
    are taken where given, and the rest is found from up to 500 images spread over all: their own size if it
    is one and at most 64 a side, else the longer side becomes 64; colour if any has colour; 16 bits if any
    has. `column` names the Parquet column or npz array, `ids` the Parquet columns that make the key (those of
    a model do not count where the images are files). Raises InputError when there is nothing to read.
    """
    if is_dataset(path):
        raise InputError("is a dataset already", file=path, fix="Open it, or give the images")
    pictures = open_pictures(path, column=column, ids=tuple(ids), must_have_ids=shape is None)
    folder = Path(store) / dataset_name(path, name)
    sums = Sums(pictures.files)
    with warnings.catch_warnings():
        # Pillow only warns of large images; the cap in `pixels` refuses them.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        found, notes = (shape, []) if shape else _shape(path, pictures, size, colour, fit)
        digest = _digest(pictures, sums, found, folder.name)
        with claimed(folder / digest[:12]) as staging:
            if staging is not None:
                dataset = _build(path, pictures, sums, found, staging, progress)
                source = {"name": one_line(Path(path).name), "records": dataset.rows, "sha256": sums.total()}
                dataset = replace(
                    dataset,
                    name=folder.name,
                    digest=digest,
                    sources=(source,),
                    warnings=(*notes, *dataset.warnings),
                )
                (staging / MANIFEST).write_text(manifest_text(dataset), encoding="utf-8")
    found_here = open_dataset(folder / digest[:12])
    # Told anew each time: what lies beside the images is no part of the dataset.
    return replace(found_here, warnings=(*found_here.warnings, *pictures.not_read))


def parse_size(text: str) -> tuple[int, int]:
    """`WIDTHxHEIGHT`, or one number for both sides, as (height, width).

    >>> parse_size("64x32"), parse_size("28")
    ((32, 64), (28, 28))
    """
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isascii() and side.isdigit() for side in sides):
        raise InputError(
            f'"{one_line(text)}" is no size of an image', fix="Write 64, or 64x32 for width and height"
        )
    width, height = int(sides[0]), int(sides[-1])
    return height, width


def _shape(
    path: str | Path, pictures: Pictures, size: tuple[int, int] | None, colour: str | None, fit: str | None
) -> tuple[Shape, list[str]]:
    """The shape where no model prescribes it, and what was decided on the way."""
    if colour not in (None, "grey", "rgb"):
        raise InputError(f'there is no colour "{one_line(colour)}"', fix="Say grey or rgb")
    problems: list[str] = []
    measured = list(_measured(pictures, problems))
    if not measured:
        first = f": {problems[0]}" if problems else ""
        fix = "Look at one of the files: is it an image?"
        raise InputError(f"no image can be read{first}", file=path, fix=fix)
    found, notes = shape_of(measured, size=size, colour=colour, fit=fit)
    return found, [f"{note}; --size and --fit decide otherwise" for note in notes]


def shape_of(
    measured: Sequence[tuple[int, int, int, int]],
    *,
    size: tuple[int, int] | None = None,
    colour: str | None = None,
    fit: str | None = None,
) -> tuple[Shape, list[str]]:
    """The shape for images of these heights, widths, channels and depths, and what was decided on the way."""
    sizes = Counter((height, width) for height, width, _, _ in measured)
    height, width = max(sizes, key=lambda s: (sizes[s], s))
    notes = []
    if size is None:
        if len(sizes) > 1:
            height, width = (int(np.median([m[axis] for m in measured])) for axis in (0, 1))
        own = (height, width)
        scale = DEFAULT_SIDE / max(own)
        if scale < 1:
            height, width = (round(side * scale) for side in own)
        least = f" (a side has at least {SMALLEST_SIDE})" if min(height, width) < SMALLEST_SIDE else ""
        height, width = (min(LARGEST_SIDE, max(SMALLEST_SIDE, side)) for side in (height, width))
        if len(sizes) > 1 or (height, width) != own:
            of = "of several sizes" if len(sizes) > 1 else f"of {own[1]}x{own[0]} pixels"
            notes.append(f"images {of} are brought to {width}x{height}{least}")
    else:
        height, width = size
    channels = {"grey": 1, "rgb": 3}.get(colour or "", max(m[2] for m in measured))
    return Shape(height, width, channels, max(m[3] for m in measured), fit or "stretch"), notes


def _measured(pictures: Pictures, problems: list[str]) -> Iterator[tuple[int, int, int, int]]:
    """Height, width, channels and depth of up to SAMPLE images, spread evenly over the files."""
    step = -(-len(pictures.files) // SAMPLE)
    seen = 0
    for file in pictures.files[::step]:
        for item in pictures.of_file(file):
            try:
                yield _measure(item)
                seen += 1
            except Unreadable as why:
                problems.append(str(why))
            if seen >= SAMPLE:
                return


def _measure(item: Item) -> tuple[int, int, int, int]:
    if isinstance(item.data, Unreadable):
        raise item.data
    if isinstance(item.data, bytes):
        return measure(item.data, item.source)
    image = item.data
    return image.shape[0], image.shape[1], image.shape[2] if image.ndim == 3 else 1, 8 * image.dtype.itemsize


def _digest(pictures: Pictures, sums: Sums, shape: Shape, name: str) -> str:
    """The SHA-256 of one JSON text, made piece by piece: its sources are many and come last."""
    content = {
        "format": FORMAT,
        "name": name,
        "shape": shape.to_json(),
        "column": pictures.column,
        "ids": pictures.ids,
        "sources": [],
    }
    begun, ended = json.dumps(content, sort_keys=True).rsplit("]}", 1)
    text = hashlib.sha256(begun.encode())
    for number, (file, sha) in enumerate(zip(pictures.files, sums, strict=True)):
        text.update((", " * (number > 0) + json.dumps([pictures.name(file), sha])).encode())
    text.update(("]}" + ended).encode())
    return text.hexdigest()


def _build(
    path: str | Path,
    pictures: Pictures,
    sums: Sums,
    shape: Shape,
    staging: Path,
    progress: Callable[[int], None] | None,
) -> Dataset:
    """Write parts and quarantine; what is read must be what was hashed."""
    writer = PartWriter(staging, COLUMNS, cells=shape.pixels)
    keys, read = Keys(staging / "keys"), 0
    try:
        with QuarantineWriter(staging) as quarantine:
            for done in _chunks(_decoded(_unchanged(pictures, sums), shape), AT_ONCE):
                good = [(item, image) for item, image in done if isinstance(image, np.ndarray)]
                table = _table(good)
                writer.add(table)
                if pictures.ids:
                    keys.add(table.column("_record_id"))
                quarantine.add([_entry(item, why) for item, why in done if isinstance(why, Unreadable)])
                read += len(done)
                if progress is not None:
                    progress(read)
            parts = writer.close()
            doomed = keys.later_copies(staging, writer.names)
            if len(doomed):
                parts, entries = without(staging, COLUMNS, writer.names, doomed, cells=shape.pixels)
                quarantine.add(entries)
    finally:
        writer.abandon()
        keys.close()
    rows = sum(part.rows for part in parts)
    if read != rows + quarantine.count:
        raise RuntimeError(f"{read} images read, but {rows} + {quarantine.count} accounted for")
    if not rows:
        example = max(quarantine.examples.values(), default=(0, "there is none"))[1]
        raise InputError(
            f"no image is left: all {read} are in quarantine, the first because {example}", file=path
        )
    return Dataset(
        folder=staging,
        name="",
        columns=COLUMNS,
        ids=pictures.ids,
        time=None,
        rows=rows,
        quarantined=quarantine.count,
        outside=0,
        digest="",
        warnings=no_key(pictures.ids, rows + len(doomed), len(doomed)),
        parts=tuple(parts),
        rows_per_group=writer.rows_per_group,
        image=shape.to_json(),
    )


def _unchanged(pictures: Pictures, sums: Sums) -> Iterator[Item]:
    """The images in order. Raises InputError where a file is no longer what was hashed."""
    for file, before in zip(pictures.files, sums, strict=True):
        after = ""
        for item in pictures.of_file(file):
            if item.alone and isinstance(item.data, bytes):
                after = hashlib.sha256(item.data).hexdigest()
            yield item
        if (after or sum_of(file)) != before:
            raise InputError("was changed while it was read", file=file, fix="Run again when it is complete")


def _decoded(items: Iterable[Item], shape: Shape) -> Iterator[tuple[Item, np.ndarray | Unreadable]]:
    """Images decoded and fitted by a few threads, in the order of the items, at most WINDOW ahead."""
    workers = max(1, min(4, os.cpu_count() or 1))
    waiting: deque[tuple[Item, Future[np.ndarray | Unreadable]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for item in items:
            waiting.append((item, pool.submit(_image, item, shape)))
            if len(waiting) >= WINDOW:
                first, result = waiting.popleft()
                yield first, result.result()
        while waiting:
            first, result = waiting.popleft()
            yield first, result.result()


def _image(item: Item, shape: Shape) -> np.ndarray | Unreadable:
    if isinstance(item.data, Unreadable):
        return item.data
    try:
        name = item.source if item.alone else ""
        return fitted(decode(item.data, name) if isinstance(item.data, bytes) else item.data, shape)
    except Unreadable as why:
        return why


def _chunks(pairs: Iterator[Any], size: int) -> Iterator[list[Any]]:
    chunk: list[Any] = []
    for pair in pairs:
        chunk.append(pair)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _table(good: list[tuple[Item, np.ndarray]]) -> pa.Table:
    own = [item.key or (item.source if item.alone else f"{item.source}#{item.row}") for item, _ in good]
    columns = {
        "_record_id": pa.array(own, pa.string()),
        "_source": pa.array([item.source for item, _ in good], pa.string()),
        "_row": pa.array([item.row for item, _ in good], pa.int64()),
        COLUMN: pa.array([image.tobytes() for _, image in good], pa.binary()),
    }
    return pa.table(columns, schema=arrow_schema(COLUMNS))


def _entry(item: Item, why: Unreadable) -> Entry:
    raw = item.data[:16].hex(" ") if isinstance(item.data, bytes) else ""
    return Entry(item.source, item.row, COLUMN, str(why), shown(raw))


def options_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The command line's words for images -> the arguments of `ingest`.

    >>> options_of({"size": "28", "fit": "pad"})
    {'size': (28, 28), 'fit': 'pad'}
    """
    chosen = {key: value for key, value in options.items() if value is not None}
    if isinstance(chosen.get("size"), str):
        chosen["size"] = parse_size(chosen["size"])
    if "shape" in chosen:
        chosen["shape"] = Shape.from_json(chosen["shape"])
    return chosen
