"""Malformed image files and arrays: each in quarantine with its reason, none crashes, hangs or vanishes."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vae_core import sources
from vae_core.errors import InputError
from vae_core.images import ingest
from vae_core.images.cells import pixel_table
from vae_core.images.pixels import Shape, decode, measure

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (12, 10)).astype(np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_header(width: int, height: int) -> bytes:
    """A PNG whose header promises this size, with the data of a few pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def cut(kind: str) -> Callable[[int], bytes]:
    def made(number: int) -> bytes:
        whole = encoded(Image.fromarray(RANDOM.integers(0, 256, (40, 40)).astype(np.uint8)), kind)
        return whole[: len(whole) * (number + 1) // 14]

    return made


def pictures(kind: str) -> Callable[[int], bytes]:
    def made(number: int) -> bytes:
        frames = [Image.fromarray(np.roll(GREY, k)) for k in range(number + 2)]
        return encoded(frames[0], kind, save_all=True, append_images=frames[1:])

    return made


def flipped(number: int) -> bytes:
    data = bytearray(encoded(Image.fromarray(RANDOM.integers(0, 256, (40, 40)).astype(np.uint8))))
    data[60 + 37 * number] ^= 0xFF  # inside the compressed pixels
    return bytes(data)


def full(value: float, dtype: type) -> bytes:
    return encoded(Image.fromarray(np.full((9, 9), value, dtype)), "TIFF")


# Ending -> what the tenth of these files hold: 20 kinds.
KINDS: dict[str, tuple[str, Callable[[int], bytes]]] = {
    "empty": ("png", lambda _: b""),
    "text": ("jpg", lambda n: f"no image {n}\n".encode()),
    "random": ("png", lambda n: RANDOM.bytes(20 + 50 * n)),
    "signature": ("png", lambda n: b"\x89PNG\r\n\x1a\n"[: n + 1]),
    "cut png": ("png", cut("PNG")),
    "cut jpeg": ("jpg", cut("JPEG")),
    "cut tiff": ("tif", cut("TIFF")),
    "cut bmp": ("bmp", cut("BMP")),
    "cut webp": ("webp", cut("WEBP")),
    "flipped": ("png", flipped),
    "png as jpeg": ("jpg", lambda _: encoded(Image.fromarray(GREY))),
    "jpeg as png": ("png", lambda _: encoded(Image.fromarray(GREY), "JPEG")),
    "gif as png": ("png", lambda _: encoded(Image.fromarray(GREY), "GIF")),
    "animated png": ("png", pictures("PNG")),
    "animated webp": ("webp", pictures("WEBP")),
    "pages": ("tif", pictures("TIFF")),
    "bomb": ("png", lambda n: png_header(7_000 + n, 7_200 * (n + 1))),
    "no pixels": ("png", lambda n: png_header(0, n)),
    "wild fractions": ("tif", lambda n: full(n + 1.5, np.float32)),
    "32 bits": ("tif", lambda n: full(70_000 * (n % 2) + n, np.int32)),
}  # fmt: skip


def test_two_hundred_malformed_images_of_twenty_kinds_are_all_in_quarantine(tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    for kind, (ending, made) in KINDS.items():
        for number in range(10):
            (folder / f"{kind}-{number}.{ending}").write_bytes(made(number))
    Image.fromarray(GREY).save(folder / "good.png")
    dataset = ingest(folder, tmp_path / "store")
    told = pq.read_table(dataset.quarantine).to_pylist()
    assert (len(KINDS), dataset.rows, dataset.quarantined) == (20, 1, 200)
    assert {row["file"] for row in told} == {path.name for path in folder.iterdir()} - {"good.png"}
    assert all(row["reason"].startswith(("it ", "its ", "the file ")) for row in told), told


def npy_header(shape: str) -> bytes:
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text + b"\n"


IMAGES = RANDOM.integers(0, 256, (7, 9, 8)).astype(np.uint8)
IDX = bytes([0, 0, 8, 3]) + b"".join(int(n).to_bytes(4, "big") for n in IMAGES.shape) + IMAGES.tobytes()


def encrypted(data: bytes) -> bytes:
    """A zip file whose one member is marked as encrypted."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x.npy", data)
    whole = bytearray(buffer.getvalue())
    whole[6] |= 1  # general purpose flag of the local header
    whole[whole.index(b"PK\x01\x02") + 8] |= 1  # and of the directory
    return bytes(whole)


@pytest.mark.parametrize(
    ("name", "data", "good", "reason"),
    [
        ("bomb.npy", npy_header("(3, 3000000000, 3000000000)") + bytes(90), 0, "3000000000x300000000"),
        ("many.npy", npy_header("(99999999999, 9, 8)") + IMAGES.tobytes(), 7, "999 images and holds 7"),
        ("cut.npy", npy_header("(7, 9, 8)") + IMAGES.tobytes()[:-1], 6, "promises 7 images and holds 6"),
        ("header.npy", npy_header("(7, 9, 8)")[:30], 0, "broken after image 0"),
        ("bomb-idx3-ubyte", bytes([0, 0, 8, 3]) + b"\xff" * 12, 0, "4294967295x4294967295 pixels"),
        ("cut-idx3-ubyte.gz", gzip.compress(IDX)[:-40], None, "broken after image"),
        ("bad-idx3-ubyte.gz", gzip.compress(IDX)[:40] + b"\xff" * 300, None, "broken after image"),
        ("encrypted.npz", encrypted(npy_header("(7, 9, 8)") + IMAGES.tobytes()), 0, "encrypted"),
        ("no.npz", b"PK no archive", 0, "not a zip file"),
    ],
)  # fmt: skip
def test_a_broken_array_gives_what_it_holds_and_one_reason_for_the_rest(
    tmp_path: Path, name: str, data: bytes, good: int | None, reason: str
) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    np.save(folder / "a.npy", IMAGES)
    (folder / name).write_bytes(data)
    dataset = ingest(folder, tmp_path / "store")
    told = pq.read_table(dataset.quarantine).to_pylist()
    assert [row["file"] for row in told] == [name]
    assert reason in told[0]["reason"]
    if good is not None:
        assert dataset.rows == len(IMAGES) + good


def test_a_broken_array_alone_is_one_line_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "cut.npy").write_bytes(npy_header("(7, 9, 8)")[:30])
    with pytest.raises(InputError, match=r"no image can be read: the file is broken after image 0"):
        ingest(tmp_path / "cut.npy", tmp_path / "store")


def test_files_beside_the_images_are_counted_in_a_warning(tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    Image.fromarray(GREY).save(folder / "a.png")
    first = ingest(folder, tmp_path / "store")
    assert not any("not read" in warning for warning in first.warnings)
    for name in ("film.mp4", "one.txt", "two.TXT", "README", "labels.csv"):
        (folder / name).write_text("x")
    second = ingest(folder, tmp_path / "store")
    told = "5 files here are no image and not read: 1 .csv, 1 .mp4, 2 .txt, 1 without an ending"
    assert second.warnings[-1] == told
    assert second.folder == first.folder  # the images are the same
    assert sources.open_dataset(first.folder).warnings == first.warnings


def test_a_colour_key_is_laid_on_white_and_a_grey_palette_is_grey() -> None:
    picture = Image.fromarray(GREY)
    found = decode(encoded(picture, transparency=int(GREY[3, 3])), "")
    np.testing.assert_array_equal(found, np.where(GREY[3, 3] == GREY, 255, GREY))
    colours = RANDOM.integers(0, 256, (9, 9, 3)).astype(np.uint8)
    keyed = decode(encoded(Image.fromarray(colours), transparency=tuple(map(int, colours[2, 2]))), "")
    expected = colours.copy()
    expected[(colours == colours[2, 2]).all(2)] = 255
    np.testing.assert_array_equal(keyed, expected)
    deep = GREY.astype(np.uint16) * 250
    found = decode(encoded(Image.fromarray(deep), transparency=int(deep[3, 3])), "")
    np.testing.assert_array_equal(found, np.where(deep == deep[3, 3], 65_535, deep))
    bits = decode(encoded(Image.fromarray(GREY > 127), transparency=0), "")
    assert (bits == 255).all()

    grey_palette = Image.fromarray(GREY // 64, mode=None)
    palette = Image.new("P", grey_palette.size)
    palette.putdata([int(v) for v in (GREY // 64).ravel()])
    palette.putpalette([level for grey in (0, 90, 180, 255) for level in (grey,) * 3])
    data = encoded(palette)
    assert measure(data, "")[2] == 1
    np.testing.assert_array_equal(decode(data, ""), np.array([0, 90, 180, 255], np.uint8)[GREY // 64])
    palette.putpalette([0, 0, 0, 200, 10, 10, 0, 200, 0, 255, 255, 255])
    assert measure(encoded(palette), "")[2] == 3


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ("/etc/hostname", 'row 2: is no image: the text "/etc/hostname" is not base64, and is never read'),
        (5, "row 2: is no image: it is of type int"),
        (None, "row 2: is no image: it is of type NoneType"),
        (b"abc", "row 2: is no image: it is no PNG"),
        ("déjà", "is not base64"),
    ],
)
def test_a_cell_of_a_served_model_is_bytes_or_base64_and_never_a_path(cell: object, told: str) -> None:
    good = encoded(Image.fromarray(GREY))
    with pytest.raises(InputError, match=told):
        pixel_table([good, cell], Shape(12, 10, 1))
    assert pixel_table([good, bytearray(good), memoryview(good)], Shape(12, 10, 1)).num_rows == 3
