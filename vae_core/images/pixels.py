"""One image file -> an array of one size, colour and depth; or the reason why it cannot be read.

Pillow decodes; what it would let through silently is refused here: animations (it gives frame 1), files whose
name says another format, and images beyond the pixel cap (it only warns). 16-bit grey is scaled by its depth;
`convert("L")` would saturate it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from vae_core.errors import InputError, one_line

__all__ = [
    "ENDINGS",
    "FITS",
    "LARGEST_SIDE",
    "SMALLEST_SIDE",
    "Shape",
    "Unreadable",
    "decode",
    "fitted",
    "measure",
]

ENDINGS: dict[str, str] = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".tif": "TIFF",
    ".tiff": "TIFF", ".bmp": "BMP", ".dib": "BMP", ".webp": "WEBP",
}  # fmt: skip
FORMATS = tuple(dict.fromkeys(ENDINGS.values()))
MOST_PIXELS = (
    50_000_000  # of one file: beyond it, a small file that unpacks to gigabytes is the likelier reading
)
SMALLEST_SIDE, LARGEST_SIDE = 8, 256
FITS = ("stretch", "crop", "pad")
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow's own conversion to grey
BITS_PER_SAMPLE = 258  # a tag of TIFF
GREY_16 = ("I;16", "I;16B", "I;16L", "I;16N")


class Unreadable(ValueError):
    """An image that goes to quarantine, for the reason that the message gives."""


@dataclass(frozen=True)
class Shape:
    """What every image of a dataset is brought to, and how: part of the dataset and of the model.

    `fit` says what happens to another size: "stretch" (the default: nothing is lost), "crop" (scaled until it
    covers, the middle kept) or "pad" (scaled until it fits, black around it).
    """

    height: int
    width: int
    channels: int  # 1: grey, 3: colour
    depth: int = 8  # bits of a value: 8 or 16
    fit: str = "stretch"

    def __post_init__(self) -> None:
        for side in (self.height, self.width):
            if not SMALLEST_SIDE <= side <= LARGEST_SIDE:
                raise InputError(
                    f"images of {self.width}x{self.height} pixels cannot be modelled",
                    fix=f"Give sides of {SMALLEST_SIDE} to {LARGEST_SIDE}, such as --size 64x64",
                )
        if self.fit not in FITS:
            raise InputError(
                f'"{one_line(self.fit)}" is no way to fit an image', fix=f"Say {', '.join(FITS)}"
            )
        if self.channels not in (1, 3) or self.depth not in (8, 16):
            raise InputError(f"{self.channels} channels of {self.depth} bits are neither grey nor colour")

    @property
    def pixels(self) -> int:
        """Values of one image: height x width x channels."""
        return self.height * self.width * self.channels

    @property
    def levels(self) -> int:
        return 1 << self.depth

    @property
    def dtype(self) -> np.dtype[Any]:
        """Little-endian, whatever the machine: what a dataset stores."""
        return np.dtype("u1" if self.depth == 8 else "<u2")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Shape:
        return cls(**document)


def measure(data: bytes, name: str) -> tuple[int, int, int, int]:
    """Height, width, channels and depth of an encoded image, mostly from its header. Raises Unreadable."""
    with _opened(data, name) as image:
        width, height = image.size
        try:
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)  # orientations on their side
            grey = image.mode in ("1", "L", "LA", "La", "F", "I", *GREY_16) or _grey_palette(image)
        except Exception as cause:  # as in `decode`
            raise Unreadable(_reason(cause)) from cause
        if turned:
            width, height = height, width
        deep = image.mode in ("F", "I", *GREY_16)
        return height, width, 1 if grey else 3, 16 if deep else 8


def decode(data: bytes, name: str) -> np.ndarray:
    """An encoded image -> (h, w) or (h, w, 3), uint8 or uint16, upright, without alpha (laid on white).

    `name` is the file's, whose ending must be that of the format. Raises Unreadable.
    """
    with _opened(data, name) as image:
        try:
            image.load()
            key = _colour_key(image, data)
            bits = _bits(image)
            image = ImageOps.exif_transpose(image)
            return _array(image, bits) if key is None else _keyed(_array(image, bits), key)
        except Unreadable:
            raise
        # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error, MemoryError, and
        # more with every release: whatever a broken file makes them raise, it is that file that is broken.
        except Exception as cause:
            raise Unreadable(_reason(cause)) from cause


def _opened(data: bytes, name: str) -> Image.Image:
    if not data:
        raise Unreadable("the file is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as cause:
        raise Unreadable(f"it has more than {MOST_PIXELS:,} pixels") from cause
    except Image.UnidentifiedImageError as cause:
        raise Unreadable(
            f"it is no {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image, or its header is broken"
        ) from cause
    except Exception as cause:  # as in `decode`
        raise Unreadable(_reason(cause)) from cause
    found = "JPEG" if image.format == "MPO" else image.format
    said = ENDINGS.get(PurePath(name).suffix.lower())
    if said is not None and said != found:
        raise Unreadable(f"its name says {said}, its content is {found}")
    if image.width * image.height > MOST_PIXELS:
        raise Unreadable(f"it has {image.width}x{image.height} pixels, more than {MOST_PIXELS:,}")
    if image.width * image.height == 0:
        raise Unreadable("it has no pixels")
    frames = _frames(image)
    if frames != 1:
        raise Unreadable(f"it holds {frames} pictures (an animation or several pages), not one")
    return image


def _frames(image: Image.Image) -> int:
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception as cause:  # as in `decode`: counting reads the file
        raise Unreadable(_reason(cause)) from cause


def _reason(cause: BaseException) -> str:
    """The decoder's own words, in one line and without this process's addresses."""
    text = one_line(str(cause).splitlines()[0] if str(cause) else type(cause).__name__)
    return f"it cannot be decoded: {text[:160]}"


def _bits(image: Image.Image) -> int:
    """Of whole numbers that Pillow reads as 32 bits: how many the file has. TIFF says, others have 16."""
    tags = getattr(image, "tag_v2", None)
    return 16 if tags is None else int(tags.get(BITS_PER_SAMPLE, (1,))[0])


def _array(image: Image.Image, bits: int) -> np.ndarray:
    """Upright pixels -> grey or colour; one conversion for each of Pillow's modes, the rest refused."""
    mode = image.mode
    if mode in GREY_16:
        return np.asarray(image).astype(np.uint16)
    if mode == "I":  # whole numbers of 32 bits, or of 16 bits with a sign
        values = np.asarray(image)
        if bits > 16 or values.min() < 0 or values.max() > 65_535:
            raise Unreadable("it has whole numbers of 32 bits: save it with 8 or 16")
        return values.astype(np.uint16)
    if mode == "F":
        values = np.asarray(image)
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise Unreadable("it has fractions outside 0 to 1: save it with 8 or 16 bits")
        return np.rint(values.astype(np.float64) * 65_535).astype(np.uint16)
    if mode in ("1", "L"):
        return np.asarray(image.convert("L"))
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or (mode == "P" and "transparency" in image.info):
        return _on_white(image)
    if mode in ("P", "RGB", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"):
        colour = np.asarray(image.convert("RGB"))
        return _grey_if_grey(colour) if mode == "P" else colour
    raise Unreadable(f"it has the pixel mode {mode}, which is not read")


def _grey_palette(image: Image.Image) -> bool:
    """Whether an image has a palette, and all its entries are grey."""
    if image.mode != "P":
        return False
    colours = np.array(image.getpalette("RGB")).reshape(-1, 3)
    return bool((colours == colours[:, :1]).all())


def _colour_key(image: Image.Image, data: bytes) -> np.ndarray | None:
    """The one colour that a PNG without alpha calls transparent (its tRNS chunk), as `_array` gives it."""
    key = image.info.get("transparency")
    if image.format != "PNG" or image.mode in ("P", "LA", "RGBA") or key is None:
        return None
    depth = data[24]  # of the header: the key is in levels of the file's own depth
    if depth < 8:
        return np.array([key * (255 // ((1 << depth) - 1))])
    return np.array(key, ndmin=1) >> (8 if depth == 16 and image.mode == "RGB" else 0)  # Pillow keeps 8 bits


def _keyed(pixels: np.ndarray, key: np.ndarray) -> np.ndarray:
    """White where the pixels have the transparent colour: (h, w) or (h, w, 3)."""
    clear = (pixels.reshape(*pixels.shape[:2], -1) == key).all(2)
    result = pixels.copy()
    result[clear] = np.iinfo(pixels.dtype).max
    return result


def _on_white(image: Image.Image) -> np.ndarray:
    straight = image.convert("RGBA")
    white = Image.new("RGBA", straight.size, (255, 255, 255, 255))
    laid = np.asarray(Image.alpha_composite(white, straight).convert("RGB"))
    return _grey_if_grey(laid) if image.mode in ("LA", "La", "P", "PA") else laid


def _grey_if_grey(colour: np.ndarray) -> np.ndarray:
    grey = bool((colour[..., 0] == colour[..., 1]).all() and (colour[..., 1] == colour[..., 2]).all())
    return colour[..., 0] if grey else colour


def fitted(image: np.ndarray, shape: Shape) -> np.ndarray:
    """An image (h, w), (h, w, 1) or (h, w, 3), uint8 or uint16 -> one of the shape's size, colour and depth.

    Exact where size, colour and depth are the shape's own; else by way of fractions of white, averaged where
    it shrinks and rounded to the shape's levels.
    """
    image = image[..., None] if image.ndim == 2 else image
    depth = 8 * image.dtype.itemsize
    same_size = image.shape[:2] == (shape.height, shape.width)
    if same_size and image.shape[2] == shape.channels and depth == shape.depth:
        return image.astype(shape.dtype)
    values = image.astype(np.float64) / ((1 << depth) - 1)
    if values.shape[2] == 3 and shape.channels == 1:
        values = (values @ LUMA)[..., None]
    elif values.shape[2] == 1 and shape.channels == 3:
        values = values.repeat(3, axis=2)
    if not same_size:
        values = np.stack([_resized(values[..., c], shape) for c in range(shape.channels)], axis=2)
    return np.rint(values.clip(0, 1) * (shape.levels - 1)).astype(shape.dtype)


def _resized(plane: np.ndarray, shape: Shape) -> np.ndarray:
    """One channel (h, w), in fractions of white, by the shape's way of fitting."""
    height, width = plane.shape
    picture = Image.fromarray(plane.astype(np.float32), mode=None)
    if shape.fit == "stretch":
        return np.asarray(picture.resize((shape.width, shape.height), Image.Resampling.BILINEAR))
    ratios = shape.height / height, shape.width / width
    ratio = max(ratios) if shape.fit == "crop" else min(ratios)
    size = max(1, round(width * ratio)), max(1, round(height * ratio))
    scaled = np.asarray(picture.resize(size, Image.Resampling.BILINEAR))
    if shape.fit == "crop":
        top, left = (scaled.shape[0] - shape.height) // 2, (scaled.shape[1] - shape.width) // 2
        return scaled[top : top + shape.height, left : left + shape.width]
    result = np.zeros((shape.height, shape.width), np.float32)
    top, left = (shape.height - scaled.shape[0]) // 2, (shape.width - scaled.shape[1]) // 2
    result[top : top + scaled.shape[0], left : left + scaled.shape[1]] = scaled
    return result
