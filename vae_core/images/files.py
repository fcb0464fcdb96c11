"""Which images a path means: files in a folder tree, arrays in .npy, .npz or IDX, a column of Parquet."""

from __future__ import annotations

import gzip
import lzma
import math
import os
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vae_core.arrow import UNREADABLE
from vae_core.errors import InputError, columns_here, nearest, one_line
from vae_core.images.paths import Paths
from vae_core.images.pixels import ENDINGS, MOST_PIXELS, Unreadable
from vae_core.sources.files import OURS, is_glob

__all__ = ["Item", "Pictures", "are_images", "open_pictures"]

ARRAYS = (".npy", ".npz")
TABLES = (".csv", ".tsv", ".parquet", ".pq")
CHUNK_BYTES = 1 << 24  # of an array, read at a time
# What zipfile, gzip and numpy raise for broken, encrypted or foreign files.
BROKEN = (
    OSError, EOFError, ValueError, RuntimeError, struct.error, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip


@dataclass(frozen=True)
class Item:
    """One image still to be decoded: `data` is an encoded image, an array (h, w[, c]), or what is wrong."""

    source: str  # the file's name in reports
    row: int  # from 1; 1 for a file of its own
    data: bytes | np.ndarray | Unreadable
    key: str | None = None  # the record's id where the input has one
    alone: bool = False  # the file is this image


class Pictures:
    """The images that a path means: `files` are what is read, in order, `others` lie there and are not."""

    def __init__(
        self,
        root: Path,
        files: Paths,
        column: str | None,
        ids: tuple[str, ...],
        others: Sequence[Path] = (),
    ) -> None:
        self.root, self.files, self.column, self.ids, self.others = root, files, column, ids, others

    @property
    def not_read(self) -> list[str]:
        """A warning that counts the files beside the images by their endings; [] where there are none."""
        if not self.others:
            return []
        kinds = Counter(file.suffix.lower() or "without an ending" for file in self.others)
        shown = [f"{count:,} {one_line(kind)}" for kind, count in sorted(kinds.items())]
        more = [f"{len(shown) - 5} other endings"] if len(shown) > 5 else []
        some = "1 file here is" if len(self.others) == 1 else f"{len(self.others):,} files here are"
        return [f"{some} no image and not read: {', '.join(shown[:5] + more)}"]

    def name(self, file: Path) -> str:
        return (
            os.fsencode(os.path.relpath(file, self.root))
            .decode("utf-8", "backslashreplace")
            .replace(os.sep, "/")
        )

    def of_file(self, file: Path) -> Iterator[Item]:
        """The images of one file, in order."""
        kind, name = _kind(file), self.name(file)
        if kind == "image":
            try:
                yield Item(name, 1, file.read_bytes(), alone=True)
            except OSError as cause:
                yield Item(name, 1, Unreadable(f"it cannot be opened: {cause.strerror}"), alone=True)
        elif kind == "parquet":
            yield from _of_parquet(file, name, self.column, self.ids)
        else:
            for number, image in enumerate(_of_array(file, self.column), start=1):
                yield Item(name, number, image)


def are_images(path: str | Path, column: str | None = None) -> bool:
    """Whether a path means images, not a table: by the names of its files, and by a Parquet column of images.

    A folder of images may hold a table beside them (labels): the more numerous kind counts.

    >>> are_images("digits.npz"), are_images("table.csv")
    (True, False)
    """
    if column is not None:
        return True
    text = os.fspath(path)
    if not is_glob(text) and not Path(text).is_dir():
        kind = _kind(Path(text))
        if kind == "parquet" and Path(text).is_file():
            return _image_column(Path(text)) is not None
        return kind in ("image", "array")
    found = Paths(_files(text))
    kinds = [_kind(file) for file in found]
    pictures = sum(kind in ("image", "array") for kind in kinds)
    tables = [file for file, kind in zip(found, kinds, strict=True) if kind in ("parquet", "table")]
    if pictures or not tables:
        return pictures > len(tables)
    return _kind(tables[0]) == "parquet" and _image_column(tables[0]) is not None


def open_pictures(
    path: str | Path, *, column: str | None = None, ids: tuple[str, ...] = (), must_have_ids: bool = True
) -> Pictures:
    """The images at a path: a file, a folder with its sub-folders, or a glob. Raises InputError for none."""
    text = os.fspath(path)
    if not is_glob(text) and not Path(text).exists():
        raise InputError("there is no such file or folder", file=text)
    if Path(text).is_file():
        root, found = Path(text).parent, Paths([text])
    else:
        root, found = (_root(text), Paths(_files(text)))
    every = [_kind(file) for file in found]
    wanted = ("image", "array") if any(kind in ("image", "array") for kind in every) else ("parquet",)
    files = Paths(file for file, kind in zip(found, every, strict=True) if kind in wanted).in_order()
    if not files:
        raise InputError(
            "there is no image here", file=text, fix="Give PNG, JPEG, TIFF, BMP, WebP, .npz, .npy or IDX"
        )
    kinds = set(every).intersection(wanted)
    if len(kinds) > 1:
        raise InputError("both image files and arrays are here", file=text, fix="Choose by a glob")
    if ids and kinds != {"parquet"}:
        if must_have_ids:
            fix = "Leave out --id: the file's name is the key"
            raise InputError("image files have no columns", file=text, fix=fix)
        ids = ()
    others = Paths(file for file, kind in zip(found, every, strict=True) if kind not in wanted)
    return Pictures(root, files, column, ids, others)


def _kind(file: Path) -> str | None:
    name = file.name.lower()
    suffix = Path(name).suffix
    if suffix in ENDINGS:
        return "image"
    if suffix in ARRAYS or _is_idx(name):
        return "array"
    if suffix in (".parquet", ".pq"):
        return "parquet"
    return "table" if Path(name.removesuffix(".gz")).suffix in TABLES else None


def _is_idx(name: str) -> bool:
    return name.removesuffix(".gz").endswith((".idx", ".idx3", ".idx4", "idx3-ubyte", "idx4-ubyte"))


def _root(text: str) -> Path:
    if not is_glob(text):
        return Path(text)
    parts = Path(text).parts
    first = next((n for n, part in enumerate(parts) if any(c in part for c in "*?[")), len(parts))
    return Path(*parts[:first])


def _files(text: str) -> Iterator[Path]:
    """All files below a folder or of a glob that are not hidden, and not of a dataset or report."""
    if is_glob(text):
        root = _root(text)
        pattern = str(Path(text).relative_to(root))
        found = (file for file in root.glob(pattern) if file.is_file())
    else:
        root = Path(text)
        walked = os.walk(root, onerror=_cannot_list)
        found = (Path(at, name) for at, _, names in walked if OURS.isdisjoint(names) for name in names)
    return (f for f in found if not any(p.startswith((".", "_")) for p in f.relative_to(root).parts))


def _cannot_list(cause: OSError) -> None:
    raise InputError(f"cannot be listed: {cause.strerror}", file=cause.filename) from cause


# ------------------------------------------------------------------------------- Parquet


def _image_column(file: Path) -> str | None:
    """The column of encoded images: binary, or a struct with `bytes`, where it is called image or images."""
    try:
        schema = pq.read_schema(file)
    except UNREADABLE:
        return None
    names = [field.name for field in schema if field.name in ("image", "images") and _holds_bytes(field.type)]
    return names[0] if names else None


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _of_parquet(file: Path, name: str, column: str | None, ids: tuple[str, ...]) -> Iterator[Item]:
    chosen = column or _image_column(file)
    try:
        schema = pq.read_schema(file)
    except UNREADABLE as cause:
        raise InputError(
            "is not a complete Parquet file", file=file, fix="Copy or export it again"
        ) from cause
    if chosen is None or chosen not in schema.names:
        raise InputError(
            "there is no such column of images", file=file, column=chosen, fix="Say --image-column"
        )
    if not _holds_bytes(schema.field(chosen).type):
        raise InputError(
            f"holds {schema.field(chosen).type}, not the bytes of images", file=file, column=chosen
        )
    for key in ids:
        if key not in schema.names:
            problem = f"the column is missing{nearest(key, schema.names)}"
            raise InputError(problem, file=file, column=key, fix=columns_here(schema.names))
    number = 0
    try:
        with pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=False) as opened:
            for batch in opened.iter_batches(batch_size=64, columns=[chosen, *ids], use_threads=False):
                keys = batch.select(list(ids)).to_pylist() if ids else [{}] * batch.num_rows
                for value, key in zip(batch.column(chosen).to_pylist(), keys, strict=True):
                    number += 1
                    data = value.get("bytes") if isinstance(value, dict) else value
                    text = "|".join(str(v).replace("\\", "\\\\").replace("|", "\\|") for v in key.values())
                    missing = any(v is None for v in key.values())
                    found: Any = Unreadable("the image is missing") if data is None else data
                    yield Item(
                        name,
                        number,
                        Unreadable("the id is missing") if missing else found,
                        text if ids else None,
                    )
    except UNREADABLE as cause:
        raise InputError(
            f"cannot be read after row {number}", file=file, fix="Copy or export it again"
        ) from cause


# ------------------------------------------------------------------------------- arrays


def _of_array(file: Path, column: str | None) -> Iterator[np.ndarray | Unreadable]:
    """The images of an array file one by one, read in chunks: memory stays flat. Never unpickles.

    What a broken file still holds is read; one Unreadable stands for the rest.
    """
    number = 0
    try:
        with _array_stream(file, column) as (stream, shape, dtype, held):
            _check(file, shape, dtype)
            height, width = shape[1:3]
            one = math.prod(shape[1:]) * dtype.itemsize  # Python's numbers: no claim overflows them
            if height * width > MOST_PIXELS:
                yield Unreadable(f"its images have {width}x{height} pixels, more than {MOST_PIXELS:,}")
                return
            if one < 1:
                yield Unreadable("its images have no pixels")
                return
            whole = shape[0] if held is None else min(shape[0], held // one)
            while number < whole:
                data = stream.read(min(max(1, CHUNK_BYTES // one), whole - number) * one)
                if len(data) < one:
                    break
                images = np.frombuffer(data[: len(data) // one * one], dtype).reshape(-1, *shape[1:])
                yield from map(_values, images)
                number += len(images)
            if number < shape[0]:
                yield Unreadable(f"the file is cut off: it promises {shape[0]:,} images and holds {number:,}")
    except InputError:
        raise
    except BROKEN as cause:
        yield Unreadable(f"the file is broken after image {number:,}: {one_line(str(cause))[:120]}")


def _values(image: np.ndarray) -> np.ndarray | Unreadable:
    """One image of an array as uint8 or uint16; fractions of white become 16 bits."""
    if image.dtype == bool:
        return image.astype(np.uint8) * np.uint8(255)
    if image.dtype.kind == "f":
        values = image.astype(np.float64)
        if not np.isfinite(values).all():
            return Unreadable("it has values that are no numbers")
        if values.min() < 0 or values.max() > 1:
            outside = values.min() if values.min() < 0 else values.max()
            return Unreadable(f"it has the value {outside:g}: fractions of white lie between 0 and 1")
        return np.rint(values * 65_535).astype(np.uint16)
    return image.astype(image.dtype.newbyteorder("="))


def _check(file: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    colour = len(shape) == 4 and shape[3] in (1, 3)
    if not (len(shape) == 3 or colour):
        found = "x".join(map(str, shape))
        raise InputError(
            f"holds an array {found}, not n x height x width [x 1 or 3]", file=file, fix="Reshape it"
        )
    if not (dtype == np.uint8 or dtype == np.uint16 or dtype.kind == "f" or dtype == np.bool_):
        fix = "Save uint8, uint16, or fractions of white from 0 to 1"
        raise InputError(f"holds {dtype} values, whose white is unknown", file=file, fix=fix)


@contextmanager
def _array_stream(
    file: Path, column: str | None
) -> Iterator[tuple[IO[bytes], tuple[int, ...], np.dtype[Any], int | None]]:
    """The bytes of an array, after its header; its shape and type; how many bytes follow, where it is known.

    A header may claim anything: what is there is asked for before memory is taken.
    """
    name = file.name.lower()
    if name.endswith(".npz"):
        with zipfile.ZipFile(file) as archive:
            member = _member(file, archive, column)
            with archive.open(member) as stream:
                header = _npy_header(file, stream)
                yield stream, *header, archive.getinfo(member).file_size - stream.tell()
    elif name.endswith(".gz"):
        with gzip.open(file, "rb") as opened:
            unpacked = cast(IO[bytes], opened)
            yield unpacked, *_idx_header(file, unpacked), None
    else:
        read = _npy_header if name.endswith(".npy") else _idx_header
        with file.open("rb") as stream:
            header = read(file, stream)
            yield stream, *header, file.stat().st_size - stream.tell()


def _member(file: Path, archive: zipfile.ZipFile, column: str | None) -> str:
    names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    if column is not None:
        if column not in names:
            raise InputError(f'there is no array "{column}": it has {", ".join(names)}', file=file)
        return f"{column}.npy"
    several: list[str] = []
    for name in names:
        with archive.open(f"{name}.npy") as stream:
            if len(_npy_header(file, stream)[0]) in (3, 4):
                several.append(name)
    if len(several) != 1:
        found = f"several arrays of images: {', '.join(several)}" if several else "no array of images"
        raise InputError(f"holds {found}", file=file, fix="Say which by --image-column")
    return f"{several[0]}.npy"


def _npy_header(file: Path, stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype.hasobject:
        raise InputError("holds Python objects, which are not read", file=file, fix="Save plain numbers")
    if fortran and len(shape) > 1:
        raise InputError("is stored column by column", file=file, fix="Save np.ascontiguousarray(x)")
    return shape, dtype


def _idx_header(file: Path, stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """MNIST's IDX format: two zero bytes, the type, the number of dimensions, then their sizes."""
    magic = stream.read(4)
    if len(magic) != 4 or magic[:2] != b"\0\0" or magic[2] != 8 or magic[3] not in (3, 4):
        raise InputError("is no IDX file of images in bytes", file=file)
    sizes = stream.read(4 * magic[3])
    return tuple(struct.unpack(f">{magic[3]}I", sizes)), np.dtype(np.uint8)
