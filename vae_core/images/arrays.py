"""Images as Python holds them, arrays or lists of paths, as the raw pixels that a model takes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from vae_core.errors import InputError
from vae_core.images.encoding import as_table
from vae_core.images.ingest import shape_of
from vae_core.images.pixels import Shape, Unreadable, decode, fitted

__all__ = ["are_images", "pixel_table"]


def are_images(X: Any) -> bool:
    """Whether X is an array (n, h, w) or (n, h, w, c), or a list, tuple or Series of paths.

    >>> are_images(np.zeros((5, 8, 8))), are_images(["a.png"]), are_images(np.zeros((5, 8)))
    (True, True, False)
    """
    if isinstance(X, np.ndarray):
        return X.ndim in (3, 4) and X.dtype != object
    if isinstance(X, pd.Series):
        X = X.tolist()
    return isinstance(X, list | tuple) and bool(X) and all(isinstance(x, str | os.PathLike) for x in X)


def pixel_table(X: Any, shape: Shape | None) -> tuple[pa.Table, Shape]:
    """X as a table of raw pixels of the given shape, or of one that is found; and that shape.

    A found one that is not the images' own is told by a warning. uint8 and uint16 are levels of grey, floats
    fractions of white from 0 to 1 (kept as 16 bits). Raises ValueError (InputError) for values outside, and
    for the first file that cannot be read: here is no quarantine.
    """
    images = list(_of_array(X) if isinstance(X, np.ndarray) else _of_paths(X))
    if not images:
        raise InputError("there are no images")
    if shape is None:
        sizes = [(*i.shape[:2], i.shape[2] if i.ndim == 3 else 1, 8 * i.dtype.itemsize) for i in images]
        shape, notes = shape_of(sizes)
        for note in notes:
            warnings.warn(f"{note}; resize them for another size", stacklevel=4)  # of the caller of `fit`
    return as_table(np.stack([fitted(image, shape) for image in images])), shape


def _of_array(X: np.ndarray) -> Iterable[np.ndarray]:
    if X.ndim == 4 and X.shape[3] not in (1, 3):
        raise InputError(f"images have 1 or 3 channels, not {X.shape[3]}: give (n, height, width, channels)")
    if isinstance(X, np.ma.MaskedArray):
        raise InputError("images with masked pixels cannot be used", fix="Fill them: X.filled(0)")
    if X.dtype == bool:
        return X.astype(np.uint8) * np.uint8(255)
    if X.dtype in (np.uint8, np.uint16):
        return X
    if X.dtype.kind != "f":
        raise InputError(f"pixels of type {X.dtype}: give uint8, uint16, or fractions of white from 0 to 1")
    if not np.isfinite(X).all() or X.min(initial=0) < 0 or X.max(initial=0) > 1:
        raise InputError("pixels are NaN, infinite, or outside 0 to 1", fix="Divide by the value of white")
    return np.rint(X.astype(np.float64) * 65_535).astype(np.uint16)


def _of_paths(X: Iterable[Any]) -> Iterable[np.ndarray]:
    for path in map(Path, X):
        try:
            yield decode(path.read_bytes(), path.name)
        except (Unreadable, OSError) as why:
            raise InputError(f"{why}", file=path) from why
