"""How many bits an image takes as a PNG: its complexity, apart from any model."""

from __future__ import annotations

import zlib

import numpy as np

__all__ = ["png_bits"]


def png_bits(images: np.ndarray) -> np.ndarray:
    """Length in bits of the compressed data of a PNG of each image: (n, h, w, c) uint8 or uint16 -> (n,).

    PNG's five filters with the usual choice for each row (the least sum of absolute differences, W3C PNG,
    12.8), then deflate; header and chunk frames, the same for all images of a size, are not counted. The code
    length of a general coder stands for how simple an image is (Serra et al. 2020): a density model calls
    simple foreign images normal.

    >>> flat = np.zeros((1, 8, 8, 1), np.uint8)
    >>> noise = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 1), np.uint8)
    >>> bool(png_bits(flat)[0] < png_bits(noise)[0])
    True
    """
    return np.concatenate(
        [_bits(images[first : first + 256]) for first in range(0, len(images), 256)] or [np.zeros(0)]
    )


def _bits(images: np.ndarray) -> np.ndarray:
    n, height = images.shape[:2]
    step = images.shape[3] * images.dtype.itemsize  # bytes of a pixel
    rows = images.astype(images.dtype.newbyteorder(">")).reshape(n, height, -1).view(np.uint8)
    left, above, corner = np.zeros_like(rows), np.zeros_like(rows), np.zeros_like(rows)
    left[:, :, step:] = rows[:, :, :-step]
    above[:, 1:] = rows[:, :-1]
    corner[:, 1:, step:] = rows[:, :-1, :-step]
    average = (left & above) + ((left ^ above) >> 1)  # the floor of the mean, within a byte
    guesses = [left, above, average, _paeth(left, above, corner)]
    filtered = np.stack([rows, *(rows - guess for guess in guesses)])  # modulo 256
    cost = np.abs(filtered.view(np.int8)).view(np.uint8).sum(-1, dtype=np.uint32)
    best = cost.argmin(0)
    data = np.empty((n, height, 1 + rows.shape[2]), np.uint8)
    data[:, :, 0] = best
    data[:, :, 1:] = rows
    for number, candidate in enumerate(filtered[1:], 1):
        np.copyto(data[:, :, 1:], candidate, where=(best == number)[:, :, None])
    return np.array([8.0 * len(zlib.compress(image.tobytes(), 9)) for image in data])


def _paeth(left: np.ndarray, above: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """Of each pixel's three neighbours the one that is nearest to left + above - corner."""
    a, b, c = (neighbour.astype(np.int16) for neighbour in (left, above, corner))
    across, down = b - c, a - c
    to_left, to_above, to_corner = np.abs(across), np.abs(down), np.abs(across + down)
    nearest = np.where(to_above <= to_corner, above, corner)
    np.copyto(nearest, left, where=(to_left <= to_above) & (to_left <= to_corner))
    return nearest
