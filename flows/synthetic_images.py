"""Generated images: PNG files or an array file, a contact sheet, the nearest normal image of a given one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from flows import outputs
from flows.registry import ModelVersion
from vae_core import publishing, sources
from vae_core.errors import InputError
from vae_core.images import arrays, generation, pictures
from vae_core.images.model import ImageModel
from vae_core.ppca import ProbabilisticPCA
from vae_core.realism import told_apart

__all__ = ["realism", "write_nearest", "write_sample"]

SHEET = "contact_sheet.png"
COLUMNS, MOST_SHOWN = 10, 100  # of the contact sheet
MOST_COMPARED = 1000


def write_sample(
    version: ModelVersion, model: ImageModel, n: int, output: str, *, seed: int, data: Any, replace: bool
) -> dict[str, Any]:
    """Draw n images into `output`: an .npz file (array X), or a folder of PNG files; and a contact sheet."""
    target = Path(output)
    if target.suffix.lower() not in (".npz", ""):
        fix = "End it in .npz, or give a folder without an ending"
        raise InputError("is neither an .npz file nor a folder by its name", file=output, fix=fix)
    as_file = target.suffix != ""
    beside = f"{target.stem}-{SHEET}"
    sheet = outputs.with_name(output, beside) if as_file else f"{output.rstrip('/')}/{SHEET}"
    for place in (output, sheet):
        outputs.check(place, replace=replace)
    made = generation.sample(model, n, random_state=seed)
    shown = pictures.enlarged(pictures.eight_bits(made[:MOST_SHOWN]), 56)
    rows = [shown[first : first + COLUMNS] for first in range(0, len(shown), COLUMNS)]
    with outputs.written(output, replace=replace) as place:
        if as_file:
            _write_whole(place, lambda path: np.savez_compressed(path, X=made))
        else:
            place.mkdir(parents=True, exist_ok=True)
            for number, image in enumerate(made, start=1):
                (place / f"{number:06d}.png").write_bytes(pictures.png(image))
        _write_whole(
            place.with_name(beside) if as_file else place / SHEET,
            lambda path: path.write_bytes(pictures.png(pictures.contact_sheet(rows))),
        )
    return {
        "model": version.name,
        "model_version": version.version,
        "n": n,
        "output": output,
        "contact_sheet": sheet,
        "compared_with": str(data.folder) if data is not None else None,
        "distances": [],
        "realism": realism(model, data, made, seed=seed) if data is not None else None,
    }


def write_nearest(
    version: ModelVersion, model: ImageModel, image: str, output: str, *, replace: bool
) -> dict[str, Any]:
    """The image that the model expects in the place of a given one, as a PNG file."""
    target = Path(output)
    if target.suffix.lower() != ".png":
        raise InputError("is no PNG file by its name", file=output, fix="End it in .png")
    if "://" in image:
        raise InputError("--like takes a file of this machine, no address", file=image, fix="Copy it here")
    outputs.check(output, replace=replace)
    table, _ = arrays.pixel_table([image], model.encoding.shape)
    nearest = generation.nearest_normal(model, model.encoding.encode(table))[0]
    with outputs.written(output, replace=replace) as place:
        _write_whole(place, lambda path: path.write_bytes(pictures.png(nearest)))
    told = {"model": version.name, "model_version": version.version, "n": 1, "output": output}
    return told | {"like": image, "compared_with": None, "distances": [], "realism": None}


def _write_whole(target: Path, write: Any) -> None:
    """The file under its name when it is complete."""
    with publishing.whole_file(target) as temporary:
        write(temporary)


def realism(model: ImageModel, data: sources.Dataset, made: np.ndarray, *, seed: int) -> dict[str, float]:
    """How well a classifier tells the made images from the data's, and as many drawn from pPCA."""
    batch = next(sources.batches(data, rows=MOST_COMPARED))
    real = model.encoding.encode(batch).values.astype(np.float64)
    white = np.iinfo(made.dtype).max
    vae = told_apart(real, made.reshape(len(made), -1) / white, random_state=seed)
    latent = max(1, min(model.vae.architecture.latent, real.shape[1] - 1, len(real) - 1))
    linear = ProbabilisticPCA(latent).fit(real).sample(len(made), random_state=seed).clip(0, 1)
    return {"vae": vae, "ppca": told_apart(real, linear, random_state=seed)}
