"""New images, and the nearest normal one of a given image."""

from __future__ import annotations

import numpy as np
import torch

from vae_core.encoding import Encoded
from vae_core.images.maps import maps
from vae_core.images.model import ImageModel

__all__ = ["nearest_normal", "sample"]

CHUNK = 256


@torch.no_grad()
def sample(model: ImageModel, n: int, *, random_state: int = 0) -> np.ndarray:
    """n new images (n, height, width, channels) of the model's depth: z ~ N(0, I), the mean of P(x|z).

    The mean, since a draw of each pixel by itself is noise that the likelihood allows and no camera shows.
    Raises ValueError for n < 0.
    """
    if n < 0:
        raise ValueError(f"n must be 0 or more; got {n}")
    generator = torch.Generator().manual_seed(random_state)
    model = model if model.device.type == "cpu" else model.on("cpu")  # the same images on any machine
    a, group = model.vae.architecture, model.vae.groups[0]
    made = np.zeros((n, model.encoding.shape.pixels))
    member = torch.randint(a.members, (n,), generator=generator)
    for first in range(0, n, CHUNK):
        part = slice(first, min(first + CHUNK, n))
        z = torch.randn((part.stop - first, a.latent), generator=generator)
        parameters = model.vae.decode(z.expand(a.members, -1, -1), torch.zeros(1, len(z), 0))
        chosen = model.vae.parameters_of(group, parameters[member[part], torch.arange(len(z))]).double()
        made[part] = group.likelihood.moments(chosen, model.vae.scale)[0].numpy()
    return model.encoding.levels_of(made)


def nearest_normal(model: ImageModel, encoded: Encoded) -> np.ndarray:
    """What the model expects in the place of each image: (n, height, width, channels) of its depth."""
    expected = maps(model, encoded).expected
    return model.encoding.levels_of(expected.reshape(len(expected), -1))
