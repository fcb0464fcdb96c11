"""Pictures of images: rows of them side by side, as PNG."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

from vae_core.images.encoding import ImageEncoding
from vae_core.model import VAE

__all__ = ["contact_sheet", "enlarged", "png", "training_picture"]

SHOWN_SIDE = 96  # pixels: small images are enlarged to about this, each pixel a square
GAP = 4


def eight_bits(images: np.ndarray) -> np.ndarray:
    """Images (n, h, w, c) of 8 or 16 bits as uint8."""
    return images if images.dtype == np.uint8 else (images >> 8).astype(np.uint8)


def enlarged(images: np.ndarray, side: int = SHOWN_SIDE) -> np.ndarray:
    """Images (n, h, w, c) with each pixel as a square, so that the longer side is about `side`."""
    times = max(1, side // max(images.shape[1:3]))
    return images.repeat(times, axis=1).repeat(times, axis=2)


def contact_sheet(rows: list[np.ndarray]) -> np.ndarray:
    """Rows of images, each (n, h, w, c) uint8, as one picture (height, width, 3) on white."""
    cells = [np.broadcast_to(row, (*row.shape[:3], 3)) if row.shape[3] == 1 else row for row in rows]
    height, width = cells[0].shape[1:3]
    columns = max(len(row) for row in cells)
    sheet = np.full((len(rows) * (height + GAP) + GAP, columns * (width + GAP) + GAP, 3), 255, np.uint8)
    for y, row in enumerate(cells):
        for x, cell in enumerate(row):
            top, left = GAP + y * (height + GAP), GAP + x * (width + GAP)
            sheet[top : top + height, left : left + width] = cell
    return sheet


def png(picture: np.ndarray) -> bytes:
    """A picture (h, w), (h, w, 1) or (h, w, 3), 8 or 16 bits, as a PNG file; colour in 8, as Pillow can."""
    picture = picture[..., 0] if picture.ndim == 3 and picture.shape[2] == 1 else picture
    if picture.ndim == 3:
        picture = eight_bits(picture)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, "PNG")
    return buffer.getvalue()


@torch.no_grad()
def training_picture(vae: VAE, encoding: ImageEncoding, values: np.ndarray, random_state: int) -> bytes:
    """A PNG of three rows: some images (n, m), their reconstructions, and as many samples from the prior."""
    device = vae.input_mean.device
    x = torch.from_numpy(values).to(device)
    context = torch.zeros(len(x), 0, device=device)
    generator = torch.Generator().manual_seed(random_state)
    noise = torch.randn((vae.architecture.members, len(x), vae.architecture.latent), generator=generator)
    codes = torch.cat([vae.encode(vae.inputs(x, x), context)[0], noise.to(device)], 1)
    group = vae.groups[0]
    parameters = vae.parameters_of(group, vae.decode(codes, context.new_zeros(2 * len(x), 0))).double()
    means = group.likelihood.moments(parameters, vae.scale)[0].mean(0).cpu().numpy()
    rows = [encoding.levels_of(part) for part in (values, means[: len(x)], means[len(x) :])]
    return png(contact_sheet([enlarged(eight_bits(row), 56) for row in rows]))
