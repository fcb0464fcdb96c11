"""A dataset's name, and a dataset given in place of raw files: taken if it is what is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vae_core.errors import InputError


def open_as_asked(
    path: str,
    ids: Sequence[str],
    start: Any,
    until: Any,
    types: Mapping[str, str] | None,
    images: Mapping[str, Any] | None,
) -> Any:
    """A dataset folder, if it is what the options and the model ask for. Raises InputError."""
    from vae_core import sources

    data = sources.open_dataset(path)
    wanted = (images or {}).get("shape")
    if (wanted and data.image != wanted) or (types and data.image):
        found = (
            "a table" if data.image is None else "of images, {width}x{height}x{channels}".format(**data.image)
        )
        raise InputError(
            f"is {found}, which is not what the model takes", file=path, fix="Give the raw files"
        )
    if data.image is not None:
        return data
    if start or until:
        raise InputError("is a dataset already", file=path, fix="Give --from and --until when ingesting")
    if ids and tuple(ids) != tuple(data.ids):
        raise InputError(
            f"has the key {', '.join(data.ids) or 'file#row'}", file=path, fix="Give --id to ingest"
        )
    for name, kind in (types or {}).items():
        if data.columns.get(name) != kind:
            found = data.columns.get(name, "not there")
            raise InputError(f"is {found}, not {kind}", file=path, column=name, fix="Give the raw files")
    return data


def dataset_name(path: str) -> str:
    """The dataset's name where none is given: the file's or folder's, with hyphens.

    >>> dataset_name("data/nyc_weather/")
    'nyc-weather'
    """
    from vae_core.sources import files

    return files.dataset_name(path, None).replace("_", "-")
