"""Images: files and arrays into datasets, a VAE of their pixels, a score that holds for simple images, maps.

`ingest` reads, `training.fit` learns, `model.ImageModel` scores; from there on images go the same way as
tables.
"""

from vae_core.images.files import are_images
from vae_core.images.ingest import ingest, options_of
from vae_core.images.pixels import Shape

__all__ = ["Shape", "are_images", "ingest", "options_of"]
