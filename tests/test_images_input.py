"""What becomes of image files: exact pixels, stated conversions, a reason for each that cannot be read."""

from __future__ import annotations

import base64
import gzip
import io
import struct
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vae_core import job, sources
from vae_core.detector import VAEDetector
from vae_core.errors import InputError
from vae_core.images import Shape, are_images, cells, ingest, model, pictures, training
from vae_core.images.encoding import REGIONS, ImageEncoding
from vae_core.images.ingest import DEFAULT_SIDE, SAMPLE
from vae_core.images.pixels import (
    FITS,
    LARGEST_SIDE,
    MOST_PIXELS,
    SMALLEST_SIDE,
    Unreadable,
    decode,
    fitted,
)

GREY = np.random.default_rng(0).integers(0, 256, (12, 10)).astype(np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (12, 10, 3)).astype(np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(dataset: sources.Dataset) -> np.ndarray:
    table = pa.Table.from_batches(sources.batches(dataset))
    assert dataset.image is not None
    return ImageEncoding(Shape.from_json(dataset.image)).pixels(table)


def reasons(dataset: sources.Dataset) -> dict[str, str]:
    return {row["file"]: row["reason"] for row in pq.read_table(dataset.quarantine).to_pylist()}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_lossless_formats_give_the_very_pixels(kind: str) -> None:
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(GREY), kind), ""), GREY)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(COLOUR), kind), ""), COLOUR)


def test_jpeg_and_webp_are_read() -> None:
    smooth = np.repeat(np.linspace(0, 255, 16).astype(np.uint8)[None], 16, axis=0)
    for kind in ("JPEG", "WEBP"):
        found = decode(encoded(Image.fromarray(smooth), kind, quality=95), "")
        grey = found if found.ndim == 2 else found.mean(2)
        assert np.abs(grey.astype(float) - smooth).max() < 8


def test_sixteen_bits_are_scaled_by_their_depth_and_never_saturate() -> None:
    deep = np.linspace(0, 65_535, 120).astype(np.uint16).reshape(12, 10)
    for kind in ("PNG", "TIFF"):
        found = decode(encoded(Image.fromarray(deep), kind), "")
        np.testing.assert_array_equal(found, deep)
    eight = fitted(deep, Shape(12, 10, 1, 8))[..., 0]
    np.testing.assert_array_equal(eight, np.rint(deep / 257).astype(np.uint8))
    np.testing.assert_array_equal(fitted(GREY, Shape(12, 10, 1, 16))[..., 0], GREY.astype(np.uint16) * 257)


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    found = decode(encoded(Image.fromarray(GREY), "PNG", exif=exif), "")
    np.testing.assert_array_equal(found, np.rot90(GREY, -1))


def test_alpha_is_laid_on_white_palettes_and_cmyk_become_colours() -> None:
    clear = np.dstack([GREY, np.zeros_like(GREY)])
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(clear, "LA")), ""), np.full(GREY.shape, 255))
    opaque = np.dstack([COLOUR, np.full(GREY.shape, 255, np.uint8)])
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(opaque)), ""), COLOUR)
    palette = Image.fromarray(COLOUR).quantize(16)
    np.testing.assert_array_equal(decode(encoded(palette), ""), np.asarray(palette.convert("RGB")))
    cmyk = Image.fromarray(COLOUR).convert("CMYK")
    np.testing.assert_array_equal(decode(encoded(cmyk, "TIFF"), ""), np.asarray(cmyk.convert("RGB")))
    bits = Image.fromarray(GREY > 127)
    np.testing.assert_array_equal(decode(encoded(bits), ""), np.where(GREY > 127, 255, 0))


def test_each_way_of_fitting_does_what_it_says() -> None:
    wide = np.zeros((10, 30), np.uint8)
    wide[:, 10:20] = 200  # a light middle third
    stretched = fitted(wide, Shape(10, 10, 1, fit="stretch"))[..., 0]
    cropped = fitted(wide, Shape(10, 10, 1, fit="crop"))[..., 0]
    padded = fitted(wide, Shape(12, 12, 1, fit="pad"))[..., 0]
    assert stretched[:, 0].max() == 0 and stretched[:, 5].min() > 150
    assert (cropped == 200).all()
    assert padded[0].max() == 0 and padded[-1].max() == 0 and padded[6, 6] > 150


def test_what_pillow_would_let_through_is_refused() -> None:
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    animated = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    with pytest.raises(Unreadable, match="2 pictures"):
        decode(animated, "")
    with pytest.raises(Unreadable, match="its name says JPEG, its content is PNG"):
        decode(encoded(Image.fromarray(GREY)), "photo.jpg")
    with pytest.raises(Unreadable, match="cannot be decoded"):
        decode(encoded(Image.fromarray(COLOUR))[:-40], "")
    with pytest.raises(Unreadable, match="the file is empty"):
        decode(b"", "")
    with pytest.raises(Unreadable, match="pixels, more than 50,000,000"):
        decode(encoded(Image.new("1", (9000, 9000))), "")
    with pytest.raises(Unreadable, match="it is no PNG"):
        decode(encoded(Image.fromarray(GREY), "GIF"), "")


def test_a_folder_tree_becomes_a_dataset_with_relative_names(tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    (folder / "sub").mkdir(parents=True)
    Image.fromarray(GREY).save(folder / "b.png")
    Image.fromarray(255 - GREY).save(folder / "sub" / "a.bmp")
    (folder / "broken.png").write_bytes(b"not an image")
    (folder / "labels.csv").write_text("file,label\n")
    (folder / ".hidden.png").write_bytes(b"")
    assert are_images(folder)
    dataset = ingest(folder, tmp_path / "store")
    table = pa.Table.from_batches(sources.batches(dataset))
    assert table["_record_id"].to_pylist() == ["b.png", "sub/a.bmp"]
    np.testing.assert_array_equal(pixels(dataset)[..., 0], np.stack([GREY, 255 - GREY]))
    assert (dataset.rows, dataset.quarantined) == (2, 1)
    assert reasons(dataset)["broken.png"].startswith("it is no PNG")
    assert ingest(folder, tmp_path / "store").folder == dataset.folder  # found again


def test_arrays_and_parquet_columns_hold_images_too(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 9, 8)).astype(np.uint8)
    np.save(tmp_path / "a.npy", images)
    np.savez_compressed(tmp_path / "b.npz", X=images, y=np.arange(7))
    header = bytes([0, 0, 8, 3]) + b"".join(int(n).to_bytes(4, "big") for n in images.shape)
    (tmp_path / "c-idx3-ubyte").write_bytes(header + images.tobytes())
    (tmp_path / "d-idx3-ubyte.gz").write_bytes(gzip.compress(header + images.tobytes()))
    files = [encoded(Image.fromarray(image)) for image in images]
    pq.write_table(pa.table({"key": list("abcdefg"), "image": files}), tmp_path / "e.parquet")
    for name in ("a.npy", "b.npz", "c-idx3-ubyte", "d-idx3-ubyte.gz", "e.parquet"):
        assert are_images(tmp_path / name), name
        dataset = ingest(tmp_path / name, tmp_path / "store")
        np.testing.assert_array_equal(pixels(dataset)[..., 0], images)
    keyed = ingest(tmp_path / "e.parquet", tmp_path / "store", ids=["key"])
    assert next(sources.batches(keyed))["_record_id"].to_pylist() == list("abcdefg")
    pq.write_table(pa.table({"key": list("aabaaba"), "image": files}), tmp_path / "f.parquet")
    (told,) = ingest(tmp_path / "f.parquet", tmp_path / "store", ids=["key"]).warnings
    assert told.startswith('column "key" repeats: 2 distinct values in 7 rows make no key')


def test_fractions_of_white_are_read_and_others_quarantined(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((4, 8, 8)).astype(np.float32)
    images[1, 0, 0], images[2, 0, 0] = 1.5, np.nan
    np.save(tmp_path / "x.npy", images)
    dataset = ingest(tmp_path / "x.npy", tmp_path / "store")
    assert (dataset.rows, dataset.quarantined) == (2, 2)
    np.testing.assert_allclose(pixels(dataset)[0, ..., 0] / 65_535, images[0], atol=1e-5)


def test_mixed_sizes_are_brought_to_one_and_the_policy_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    for number, size in enumerate([(100, 80), (120, 90), (140, 100)]):
        Image.new("L", size, 100).save(folder / f"{number}.png")
    dataset = ingest(folder, tmp_path / "store")
    assert dataset.image == {"height": 48, "width": 64, "channels": 1, "depth": 8, "fit": "stretch"}
    assert "brought to 64x48" in dataset.warnings[0]
    asked = ingest(folder, tmp_path / "store", size=(16, 24), colour="rgb", fit="pad")
    assert asked.image == {"height": 16, "width": 24, "channels": 3, "depth": 8, "fit": "pad"}


@pytest.mark.parametrize(
    ("size", "told"),
    [
        ((5, 6), "images of 6x5 pixels are brought to 8x8 (a side has at least 8); "),
        ((40, 640), "images of 640x40 pixels are brought to 64x8 (a side has at least 8); "),
        ((100, 200), "images of 200x100 pixels are brought to 64x32; "),
        ((8, 9), None),
    ],
)
def test_images_that_are_enlarged_or_shrunk_are_told_from_files_and_in_python(
    size: tuple[int, int], told: str | None, tmp_path: Path
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, *size), dtype=np.uint8)
    np.save(tmp_path / "x.npy", images)
    found = ingest(tmp_path / "x.npy", tmp_path / "store").warnings
    assert found == ((told + "--size and --fit decide otherwise",) if told else ())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        VAEDetector(steps=1, members=1).fit(images)
    here = [str(w.message) for w in caught if w.filename == __file__ and "brought to" in str(w.message)]
    assert here == ([told + "resize them for another size"] if told else [])


def test_nothing_to_read_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"x")
    with pytest.raises(InputError, match="no image can be read"):
        ingest(tmp_path / "bad.png", tmp_path / "store")
    np.save(tmp_path / "table.npy", np.zeros((5, 3)))
    with pytest.raises(InputError, match="holds an array 5x3"):
        ingest(tmp_path / "table.npy", tmp_path / "store")
    np.savez(tmp_path / "two.npz", a=np.zeros((2, 8, 8)), b=np.zeros((2, 8, 8)))
    with pytest.raises(InputError, match="several arrays of images: a, b"):
        ingest(tmp_path / "two.npz", tmp_path / "store")
    np.savez(tmp_path / "halves.npz", x_train=np.zeros((9, 8, 8)), x_test=np.zeros((3, 8, 8)), y=np.zeros(9))
    with pytest.raises(InputError, match="several arrays of images: x_train, x_test"):
        ingest(tmp_path / "halves.npz", tmp_path / "store")


def test_pictures_of_sixteen_bits_are_written_with_what_png_holds() -> None:
    deep = np.random.default_rng(0).integers(0, 65_536, (9, 8, 3)).astype(np.uint16)
    np.testing.assert_array_equal(decode(pictures.png(deep), ""), (deep >> 8).astype(np.uint8))
    np.testing.assert_array_equal(decode(pictures.png(deep[..., :1]), ""), deep[..., 0])


@pytest.mark.parametrize(("kind", "fits"), [(np.int16, True), (np.int32, False)])
def test_a_tiff_says_how_many_bits_its_whole_numbers_have(kind: type, fits: bool) -> None:
    levels = np.arange(120, dtype=kind).reshape(12, 10)
    fields = [(256, 10), (257, 12), (258, 8 * levels.itemsize), (259, 1), (262, 1), (273, 8), (277, 1)]
    fields += [(278, 12), (279, levels.nbytes), (339, 2)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields)
    header = struct.pack("<2sHI", b"II", 42, 8 + levels.nbytes)
    file = (
        header
        + levels.astype(f"<i{levels.itemsize}").tobytes()
        + struct.pack("<H", len(fields))
        + entries
        + bytes(4)
    )
    if fits:
        np.testing.assert_array_equal(decode(file, "x.tif"), levels)
    else:
        with pytest.raises(Unreadable, match="32 bits"):
            decode(file, "x.tif")


def test_base64_in_lines_is_an_image_too() -> None:
    data = encoded(Image.fromarray(COLOUR))
    lines, one = base64.encodebytes(data).decode(), base64.b64encode(data).decode()
    shape = Shape(12, 10, 3)
    assert cells.pixel_table([lines], shape).equals(cells.pixel_table([one], shape))


def test_the_images_page_states_the_constants_of_the_code() -> None:
    page = (Path(__file__).parents[1] / "docs" / "images.md").read_text()
    rows, text = page.splitlines(), " ".join(page.split())
    for name, weight in model.PARTS.items():
        own = [line.split("|")[-2].strip() for line in rows if line.startswith(f"| `{name}` |")]
        assert f"{weight:g}" in own, name
    for name in training.IMAGE_LIKELIHOODS:
        assert any(line.startswith(f"| `{name}`") for line in rows), name
    for claim, holds in {
        "more than 50,000,000 pixels": MOST_PIXELS == 50_000_000,
        "from 8 to 256 a side": (SMALLEST_SIDE, LARGEST_SIDE) == (8, 256),
        "up to 500 images": SAMPLE == 500,
        "the longer one is 64": DEFAULT_SIDE == 64,
        "`stretch` (the default": Shape(8, 8, 1).fit == FITS[0] == "stretch",
        "256 and 128 hidden units": training.HIDDEN == (256, 128),
        "16 latents; 20 epochs of 64": (training.LATENTS, training.EPOCHS, training.BATCH) == (16, 20, 64),
        "at least 1,000 steps": training.FEWEST_STEPS == 1000,
        "4 x 4 regions": REGIONS == 4,
        "ranked first (20)": job.Job.__dataclass_fields__["pictured"].default == 20,
    }.items():
        assert claim in text, claim
        assert holds, claim
