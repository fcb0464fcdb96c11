"""What a dataset file may say, but no run could use: refused when it is deployed, not at every interval.

Each check is the one that the run itself would make, as far as it can be made without data, model and server.
What makes it is imported when there is such a key: a file without settings does not wait for torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from flows import choices
from flows.dataset_file import DatasetFile
from vae_core.errors import InputError, one_line

__all__ = ["check"]

Check = Callable[[Any], object]
BANNED = "/%&<>"  # in the names of Prefect's pools


def check(file: DatasetFile) -> None:
    """Raises InputError with the first key whose value no run could use."""
    for key, value, usable in _said(file):
        if value is None:
            continue
        try:
            usable(value)
        except (InputError, ValueError) as error:
            raise InputError(f"{key}: {one_line(str(error))}") from error


def _said(file: DatasetFile) -> Iterator[tuple[str, Any, Check]]:
    """Key, value and check of all that is said."""
    yield from (
        ("source", file.source, _not_empty),
        ("output", file.output, _not_empty),
        ("model", file.model, _model),
        ("time", file.time, _not_empty),
        ("encoding", file.encoding, _encoding),
        ("delimiter", file.delimiter or None, _delimiter),
        ("deploy.pool", file.deploy.pool, _pool),
        ("deploy.image", file.deploy.image, _not_empty),
    )
    yield from (("ids", name, _not_empty) for name in file.ids)
    if file.train is not None:
        yield "train.settings", file.train.settings, _settings
        yield "train.kinds", file.train.kinds, _kinds
    if file.score is not None:
        yield "score.members", file.score.members, choices.member_names
    if file.generate is not None:
        yield "generate.output", file.generate.output, _generated
    if file.notify is not None:
        yield "notify.webhook", file.notify.webhook, _webhook


def _not_empty(text: str) -> None:
    if not text.strip():
        raise InputError("is empty")


def _model(address: str) -> None:
    from flows import registry

    _not_empty(address)
    if address.startswith("models:") and registry.ADDRESS.fullmatch(address) is None:
        raise InputError(
            f'"{address}" is not the address of a model',
            fix="Write models:/NAME@champion or models:/NAME/VERSION",
        )


def _encoding(name: str) -> None:
    from vae_core.sources.csv_reader import text_encoding

    text_encoding(name)


def _delimiter(text: str) -> None:
    from vae_core.sources.csv_reader import check_delimiter

    check_delimiter(text)


def _settings(options: dict[str, Any]) -> None:
    from flows.steps import check_settings

    check_settings(options)


def _kinds(kinds: dict[str, str]) -> None:
    from vae_core.columns import KINDS

    for column, kind in kinds.items():
        if kind not in KINDS:
            fix = f"Kinds are {', '.join(KINDS)}"
            raise InputError(f'"{kind}" is not a kind', column=column, fix=fix)


def _generated(output: str) -> None:
    """A table, an array of images or a folder of them: which of these, only the model says."""
    if Path(output).suffix.lower() not in (".parquet", ".csv", ".npz", ""):
        raise InputError(
            f"{output} is neither Parquet nor CSV by its name, nor a place for images",
            fix="End it in .parquet or .csv, for images in .npz or, as a folder, in nothing",
        )


def _webhook(address: str) -> None:
    from flows.notifications import check_address

    check_address(address)


def _pool(name: str) -> None:
    _not_empty(name)
    if set(name) & set(BANNED) or name.lower().startswith("prefect"):
        raise InputError(
            f'"{name}" cannot be the name of a work pool',
            fix=f"Prefect allows none of {' '.join(BANNED)} in it, and no name that begins with prefect",
        )
