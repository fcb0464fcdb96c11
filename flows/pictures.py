"""Images in the verbs: which paths mean them, how they are read and trained, what the registry shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows import registry
from vae_core.errors import InputError

TABLE_FIX = "Give a table, or a model that was trained on images"


def are_meant(path: str, options: Mapping[str, Any] | None, *, is_table: bool) -> bool:
    """Whether a path is read as images: what a model asks for, else by the names of its files."""
    from vae_core import images

    options = options or {}
    if "shape" in options:
        return True
    found = images.are_images(path, options.get("column"))
    if found and is_table:
        raise InputError("holds images, and the model takes a table", file=path, fix=TABLE_FIX)
    if not found and options:
        raise InputError("holds no images", file=path, fix="Leave out --size, --fit and --colour")
    return found


def ingest(
    path: str, store: str | None, options: Mapping[str, Any] | None, *, timed: bool, **rest: Any
) -> Any:
    """Images -> a dataset folder; `timed` says that an interval of time was asked for."""
    from vae_core import images

    if timed:
        raise InputError("images have no time", file=path, fix="Leave out --from and --until")
    place = Path(store) if store else registry.home() / "datasets"
    return images.ingest(path, place, **images.options_of(options or {}), **rest)


def fit(data: Any, folder: Path, *, settings: Any, progress: Any, checkpoint: Path) -> Path:
    """Train on a dataset of images; the model and pictures of its training lie side by side in `folder`."""
    from vae_core import images, sources, storage
    from vae_core.images import training

    model = training.fit(
        lambda: sources.batches(data),
        images.Shape.from_json(data.image),
        ids=data.ids,
        settings=settings,
        progress=progress or (lambda state: None),
        checkpoint=checkpoint,
    )
    place = folder / registry.MODEL_FOLDER
    storage.save(model, place)
    shown = folder / "pictures"
    shown.mkdir()
    for step, picture in model.pictures:
        (shown / f"step-{step:06d}.png").write_bytes(picture)
    return place


def example(data: Any, batch: Any) -> Any:
    """A few images as JSON can hold them: PNG in base64."""
    import pandas as pd

    from vae_core import images
    from vae_core.images import cells, pictures
    from vae_core.images.encoding import ImageEncoding

    encoding = ImageEncoding(images.Shape.from_json(data.image))
    return pd.DataFrame({"image": [cells.to_text(pictures.png(image)) for image in encoding.pixels(batch)]})
