"""Encoded images in a table's cells -> the raw pixels that a model takes."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from vae_core.errors import InputError
from vae_core.images.encoding import COLUMN, as_table
from vae_core.images.pixels import Shape, Unreadable, decode, fitted

__all__ = ["pixel_table", "to_text"]


def pixel_table(cells: Iterable[Any], shape: Shape) -> pa.Table:
    """Encoded images (bytes of a PNG, JPEG, ... or their base64 text) -> a table of raw pixels.

    Raises InputError naming the row, counted from 1, of the first that cannot be read: here is no quarantine.
    """
    images = []
    for row, cell in enumerate(cells, start=1):
        try:
            data = base64.b64decode(cell, validate=True) if isinstance(cell, str) else bytes(cell)
            images.append(fitted(decode(data, ""), shape))
        except (Unreadable, binascii.Error, TypeError) as why:
            raise InputError(f"is no image: {why}", column=COLUMN, row=row) from why
    return as_table(np.stack(images)) if images else as_table(np.zeros((0, 1, 1, 1), np.uint8))


def to_text(data: bytes) -> str:
    """An encoded image as JSON can hold it: base64."""
    return base64.b64encode(data).decode()
