"""Images <-> what the model sees: pixels in [0, 1]^m, and regions to name places by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from vae_core.encoding import Encoded
from vae_core.errors import InputError
from vae_core.images.pixels import Shape

__all__ = ["COLUMN", "ImageEncoding", "as_table"]

COLUMN = "image"  # the one column of an image table: raw pixels, row by row
REGIONS = 4  # bands of an image in each direction; reasons name their crossings


class ImageEncoding:
    """What an image table holds, and the maps to and from the model's values: a TableEncoding for pixels.

    A pixel k of L levels is k / (L - 1), in the order of rows, columns, channels. Nothing is fitted: limits
    are black and white, so that no value can lie outside.
    """

    time: str | None = None
    preset = "images"
    context_width = 0
    periods: tuple[str, ...] = ()
    log_jacobian = 0.0  # a mass, or a density in fractions of white

    def __init__(self, shape: Shape, *, ids: Sequence[str] = ()) -> None:
        self.shape = shape
        self.ids = tuple(ids)  # columns of the key, where images come from a Parquet file
        self.features = range(shape.pixels)
        self.region, self.regions = _regions(shape)

    @property
    def columns(self) -> dict[str, str]:
        """Name -> type of the one column: what a scoring run must bring."""
        return {COLUMN: "image"}

    @property
    def kinds(self) -> dict[str, str]:
        return {COLUMN: "image"}

    @property
    def left_out(self) -> dict[str, str]:
        return {}

    def encode(self, batch: pa.RecordBatch | pa.Table) -> Encoded:
        """A batch with a column of raw pixels -> values (n, m) float32 in [0, 1], a mask that is True."""
        images = self.pixels(batch)
        n = len(images)
        zeros = np.zeros(n, np.int32)
        return Encoded(
            values=(images.reshape(n, -1) / np.float32(self.shape.levels - 1)).astype(np.float32),
            mask=np.ones((n, self.shape.pixels), bool),
            context=np.zeros((n, 0), np.float32),
            fixed=np.zeros((n, 1)),
            n_missing=zeros,
            n_out_of_range=zeros.copy(),
            n_unseen=zeros.copy(),
        )

    def pixels(self, batch: pa.RecordBatch | pa.Table) -> np.ndarray:
        """The column of raw pixels -> (n, height, width, channels) of the shape's depth."""
        if COLUMN not in batch.schema.names:
            raise InputError("is missing", column=COLUMN, fix="The model was trained with images")
        raw = batch.column(COLUMN).to_pylist()
        size = self.shape.pixels * self.shape.dtype.itemsize
        for row, image in enumerate(raw):
            if image is None or len(image) != size:
                found = "no image" if image is None else f"{len(image)} bytes"
                raise InputError(f"holds {found}, not {size} bytes of pixels", column=COLUMN, row=row + 1)
        flat = np.frombuffer(b"".join(raw), self.shape.dtype)
        return flat.reshape(len(raw), self.shape.height, self.shape.width, self.shape.channels)

    def levels_of(self, values: np.ndarray) -> np.ndarray:
        """The way back from `encode`: values (n, m) in [0, 1] -> images (n, height, width, channels)."""
        s = self.shape
        levels = np.rint(np.asarray(values, np.float64).clip(0, 1) * (s.levels - 1)).astype(s.dtype)
        return levels.reshape(-1, s.height, s.width, s.channels)

    def decode(self, values: np.ndarray, mask: np.ndarray | None = None) -> pa.Table:
        """Model values (n, m) -> a table of raw pixels."""
        return as_table(self.levels_of(values))

    def to_json(self) -> dict[str, Any]:
        return {
            "type": "images",
            "columns": [{"name": COLUMN}],
            "shape": self.shape.to_json(),
            "ids": list(self.ids),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ImageEncoding:
        return cls(Shape.from_json(document["shape"]), ids=document["ids"])


def as_table(images: np.ndarray) -> pa.Table:
    """Images (n, height, width, channels) of a shape's size and depth as a table of raw pixels."""
    return pa.table({COLUMN: pa.array([image.tobytes() for image in images], pa.binary())})


def _regions(shape: Shape) -> tuple[np.ndarray, list[str]]:
    """For each value the number of its region, (m,), and the regions' names: rows and columns from 1.

    >>> _regions(Shape(8, 8, 1))[1][:2]
    ['rows 1-2, columns 1-2', 'rows 1-2, columns 3-4']
    """

    def bands(side: int) -> np.ndarray:
        return np.minimum(np.arange(side) * REGIONS // side, REGIONS - 1)

    rows, columns = bands(shape.height), bands(shape.width)
    grid = REGIONS * rows[:, None] + columns[None, :]
    region = np.repeat(grid[:, :, None], shape.channels, axis=2).reshape(-1)

    def span(band: np.ndarray, number: int) -> str:
        inside = np.flatnonzero(band == number) + 1
        return f"{inside[0]}-{inside[-1]}"

    names = [
        f"rows {span(rows, r)}, columns {span(columns, c)}" for r in range(REGIONS) for c in range(REGIONS)
    ]
    return region, names
