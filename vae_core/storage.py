"""A fitted model as a folder: JSON, safetensors and the sha256 of each, checked before anything is parsed."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import numpy as safetensors_numpy

from vae_core import __version__
from vae_core.calibration import Calibration
from vae_core.disk import sync
from vae_core.encoding import TableEncoding
from vae_core.errors import InputError, one_line
from vae_core.images.encoding import ImageEncoding
from vae_core.images.model import ImageModel
from vae_core.members import COMPANIONS
from vae_core.model import VAE, Architecture
from vae_core.scoring import FittedModel
from vae_core.tilt import Tilt

__all__ = ["FORMAT_VERSION", "load", "model_digest", "save"]

FORMAT_VERSION = 2
READABLE = (1, 2)  # 1: without tilts
FILES = ("model.json", "encoding.json", "calibration.json", "profile.json", "weights.safetensors")
PROFILE = ("quantiles", "counts", "histogram", "outside")  # of a column: what drift is measured against


def save(model: FittedModel, folder: str | Path) -> dict[str, Any]:
    """Write the model into a new folder and return its manifest; the same model gives the same bytes.

    Written under a temporary name and renamed, so that the folder is whole or not there. Raises
    FileExistsError when the folder exists already.
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} exists already")
    folder.parent.mkdir(parents=True, exist_ok=True)
    contents = _contents(model)
    manifest = {
        "format_version": FORMAT_VERSION,
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()},
    }
    contents["manifest.json"] = _json(manifest)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        inner = Path(temporary) / folder.name
        inner.mkdir()
        for name, data in contents.items():
            with (inner / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        sync(inner)
        inner.rename(folder)
    sync(folder.parent)
    return manifest


def _contents(model: FittedModel) -> dict[str, bytes]:
    encoding = model.encoding.to_json()
    profile = {c["name"]: {key: c.pop(key) for key in PROFILE if key in c} for c in encoding["columns"]}
    arrays = {f"vae.{name}": tensor.cpu().numpy() for name, tensor in model.vae.state_dict().items()}
    if isinstance(model.encoding, TableEncoding):
        arrays |= {f"vectors.{name}": array for name, array in model.encoding.arrays().items()}
    arrays["noise"] = model.noise.cpu().numpy()
    arrays["trained_on"] = model.trained_on
    for name, companion in model.companions.items():
        arrays |= {f"member.{name}.{key}": array for key, array in companion.arrays().items()}
    document = {
        "format_version": FORMAT_VERSION,
        "code_version": __version__,
        "architecture": model.vae.architecture.to_json(),
        "weights": model.weights,
        "tilts": {name: asdict(tilt) for name, tilt in model.tilts.items()},
        "members": sorted(model.companions),
        "settings": model.settings,
        "summary": _finite(model.summary),
    }
    if isinstance(model, ImageModel):
        arrays |= model.arrays()
        document["images"] = model.document()
    return {
        "model.json": _json(document),
        "encoding.json": _json(encoding),
        "calibration.json": _json(
            {
                "whole": model.calibration.to_json(),
                "alone": {name: calibration.to_json() for name, calibration in model.alone.items()},
            }
        ),
        "profile.json": _json({"columns": profile}),
        "weights.safetensors": safetensors_numpy.save(
            {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        ),
    }


def load(folder: str | Path) -> FittedModel:
    """Read a model folder. Every file's sha256 is checked against the manifest before anything is parsed.

    Raises InputError when the folder is no model, is damaged, or was written by a newer format.
    """
    folder = Path(folder)
    contents = _verified(folder)
    try:
        return _restored(contents)
    except (InputError, MemoryError, OSError):
        raise  # the machine's trouble is not the model's
    except Exception as error:
        why = f"{type(error).__name__}, {one_line(str(error))[:150]}"
        raise InputError(
            f"is not a model that this elborank can read: {why}",
            file=folder,
            fix="Fetch the model again, or train again",
        ) from error


def _restored(contents: Mapping[str, bytes]) -> FittedModel:
    """The model from the files' contents."""
    document = json.loads(contents["model.json"])
    encoding_document = json.loads(contents["encoding.json"])
    profile = json.loads(contents["profile.json"])["columns"]
    for column in encoding_document["columns"]:
        column |= profile[column["name"]]
    of_images = encoding_document.get("type") == "images"
    arrays = safetensors_numpy.load(contents["weights.safetensors"])
    vectors = {k.removeprefix("vectors."): v for k, v in arrays.items() if k.startswith("vectors.")}
    encoding: Any = (
        ImageEncoding.from_json(encoding_document)
        if of_images
        else TableEncoding.from_json(encoding_document, vectors)
    )
    vae = VAE(Architecture.from_json(document["architecture"]))
    vae.load_state_dict({k[4:]: torch.from_numpy(v) for k, v in arrays.items() if k.startswith("vae.")})
    companions = {}
    for name in document["members"]:
        prefix = f"member.{name}."
        own = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
        companions[name] = COMPANIONS[name].from_arrays(own, encoding.features)
    calibrations = json.loads(contents["calibration.json"])
    common: dict[str, Any] = {
        "encoding": encoding,
        "vae": vae.eval(),
        "noise": torch.from_numpy(arrays["noise"]),
        "weights": document["weights"],
        "companions": companions,
        "tilts": {name: Tilt(**own) for name, own in document.get("tilts", {}).items()},
        "calibration": Calibration.from_json(calibrations["whole"]),
        "alone": {name: Calibration.from_json(own) for name, own in calibrations["alone"].items()},
        "settings": document["settings"],
        "summary": document["summary"],
        "trained_on": arrays["trained_on"],
    }
    return ImageModel.restore(document["images"], arrays, **common) if of_images else FittedModel(**common)


def model_digest(folder: str | Path) -> str:
    """The sha256 of a model folder's manifest, which holds that of every file: the model's identity."""
    return hashlib.sha256((Path(folder) / "manifest.json").read_bytes()).hexdigest()


def _verified(folder: Path) -> dict[str, bytes]:
    path = folder / "manifest.json"
    if not path.is_file():
        raise InputError("is not a model folder: it has no manifest.json", file=folder)
    damaged = InputError("the manifest is damaged", file=path, fix="Fetch the model again")
    try:
        manifest = json.loads(path.read_bytes())
        version, files = manifest["format_version"], dict(manifest["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise damaged from error
    if version not in READABLE:  # before the files' names, which another format may have changed
        raise InputError(
            f"the model has format {version}; this elborank {__version__} reads "
            f"formats {READABLE[0]} to {READABLE[-1]}",
            file=path,
            fix="Install the release that wrote it, or train again",
        )
    if not set(FILES) <= set(files):
        raise damaged
    contents = {}
    for name in FILES:
        if not (folder / name).is_file():
            raise InputError(
                "is missing from the model folder", file=folder / name, fix="Fetch the model again"
            )
        contents[name] = (folder / name).read_bytes()
        if hashlib.sha256(contents[name]).hexdigest() != files[name]:
            raise InputError(
                "does not match its sha256 in the manifest: the file is damaged",
                file=folder / name,
                fix="Fetch the model again",
            )
    return contents


def _json(document: dict[str, Any]) -> bytes:
    return (
        json.dumps(document, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
    ).encode()


def _finite(value: Any) -> Any:
    """JSON has no nan: null instead, at any depth."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
