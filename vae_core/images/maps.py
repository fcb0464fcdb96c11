"""Where an image differs from what was expected: pixel maps, the nearest normal image, pictures of both."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter

from vae_core.encoding import Encoded
from vae_core.images.model import ImageModel, per_image
from vae_core.images.pictures import contact_sheet, eight_bits, enlarged, png

__all__ = ["Maps", "maps", "side_by_side"]

SMOOTHING = 1 / 40  # of the longer side: the standard deviation of the smoothing Gaussian
FULL = 0.5  # a smoothed residual of half of white is drawn in the strongest colour
# From black over red to yellow: darker is nearer to what was expected, also for those who see no colours.
COLOURS = np.array([[0, 0, 0], [74, 12, 107], [187, 55, 84], [249, 142, 9], [252, 255, 164]], np.float64)


@dataclass(frozen=True)
class Maps:
    """Of n images: the image, the nearest normal one, and how far each pixel lies from it; in [0, 1]."""

    image: np.ndarray  # (n, h, w, c)
    expected: np.ndarray  # (n, h, w, c)
    surprise: np.ndarray  # (n, h, w): smoothed absolute residual, mean over the channels; high = anomalous


def maps(model: ImageModel, encoded: Encoded) -> Maps:
    """Pixel maps of encoded images: the smoothed distance to the image that the model expects in their place.

    What is expected is the mean of P(x|z) of the lecture's VAE, whose reconstructions follow a defect less
    than those of the sharper likelihoods (measured: pixel AUROC .952 against .939 on planted defects).
    """
    chosen = model if model.lecture is None else replace(model, vae=model.lecture)
    expected, _ = chosen.moments(encoded)
    surprise = _smoothed(np.abs(encoded.values - expected), model)
    return Maps(per_image(encoded.values, model.encoding), per_image(expected, model.encoding), surprise)


def _smoothed(residual: np.ndarray, model: ImageModel) -> np.ndarray:
    """Residuals (n, m) -> (n, h, w): the mean over the channels, smoothed."""
    shape = model.encoding.shape
    width = SMOOTHING * max(shape.height, shape.width)
    planes = per_image(residual, model.encoding).mean(3)
    return np.stack([gaussian_filter(plane, width) for plane in planes]) if len(planes) else planes


def side_by_side(found: Maps, row: int) -> bytes:
    """A PNG of one image: the image, what was expected, and the map, from left to right."""
    parts = found.image[row : row + 1], found.expected[row : row + 1]
    both = [np.rint(255 * part.clip(0, 1)).astype(np.uint8) for part in parts]
    level = (found.surprise[row : row + 1] / FULL).clip(0, 1) * (len(COLOURS) - 1)
    low = np.minimum(level.astype(int), len(COLOURS) - 2)
    colour = COLOURS[low] + (level - low)[..., None] * (COLOURS[low + 1] - COLOURS[low])
    cells = [np.broadcast_to(part, (*part.shape[:3], 3)) for part in both] + [
        np.rint(colour).astype(np.uint8)
    ]
    return png(contact_sheet([enlarged(eight_bits(np.concatenate(cells)), 168)]))
