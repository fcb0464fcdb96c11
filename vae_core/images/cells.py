"""Encoded images in a table's cells -> the raw pixels that a model takes."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from vae_core.errors import InputError
from vae_core.images.encoding import COLUMN, as_table
from vae_core.images.pixels import Shape, Unreadable, decode, fitted
from vae_core.sources.blocks import shown

__all__ = ["pixel_table", "to_text"]


def pixel_table(cells: Iterable[Any], shape: Shape) -> pa.Table:
    """Encoded images (bytes of a PNG, JPEG, ... or their base64 text) -> a table of raw pixels.

    Text is never taken for the name of a file: a served model opens none, whoever asks it. Raises InputError
    naming the row, counted from 1, of the first cell that cannot be read: here is no quarantine.
    """
    images = []
    for row, cell in enumerate(cells, start=1):
        try:
            images.append(fitted(decode(_content(cell), ""), shape))
        except Unreadable as why:
            raise InputError(f"is no image: {why}", column=COLUMN, row=row) from why
    return as_table(np.stack(images)) if images else as_table(np.zeros((0, 1, 1, 1), np.uint8))


def _content(cell: Any) -> bytes:
    if isinstance(cell, bytes | bytearray | memoryview):
        return bytes(cell)
    if not isinstance(cell, str):
        kind = type(cell).__name__
        raise Unreadable(f"it is of type {kind}; give the bytes of an image, or their base64 text")
    try:
        return base64.b64decode("".join(cell.split()), validate=True)  # often in lines of 76 characters
    except ValueError as why:  # binascii.Error, and text beyond ASCII
        raise Unreadable(
            f'the text "{shown(cell, 40)}" is not base64, and is never read as a file\'s name'
        ) from why


def to_text(data: bytes) -> str:
    """An encoded image as JSON can hold it: base64."""
    return base64.b64encode(data).decode()
