"""Inputs that share a name without being one: of which input the last report in a folder is.

A dataset is named by the last part of its path, and has its reports' folder and its feedback by that name. So
each published report is noted with the path of its input, among our own files: a report itself holds no path.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from flows.registry import home
from vae_core import publishing
from vae_core.errors import one_line

__all__ = ["note", "origin", "same", "taken_over", "warning"]

# 2024, 2024-01, 20240131, 2024-01-31, 20240131T06, ..., and a day or an hour alone between other signs.
DATE = re.compile(r"(?<![0-9A-Za-z])((19|20)\d\d([-_.]?\d\d){0,5}|\d\d)(T\d{2,6}Z?)?(?![0-9A-Za-z])")


def origin(path: str, dataset: str | None) -> str | None:
    """The input that a dataset is named by; None where somebody named it, or it was ingested before."""
    from vae_core import stores
    from vae_core.sources import files, is_dataset

    if dataset is not None or is_dataset(path):
        return None
    return path.rstrip("/") if stores.is_remote(path) else str(files.named_by(path))


def warning(origin: str | None, output: str, name: str) -> list[str]:
    """A warning where the last report here, which is still there, is of another input; else nothing."""
    if origin is None:
        return []
    try:
        noted = json.loads(_place(output, name).read_text(encoding="utf-8"))
        before, report = str(noted["origin"]), str(noted["report"])
    except (OSError, ValueError, KeyError, TypeError):
        return []
    if same(before, origin) or not _is_there(report):
        return []
    folder = f"{output.rstrip('/')}/{name}"
    return [
        f"The last report in {one_line(folder)} is of {one_line(before)}, this one of {one_line(origin)}: "
        "under one name they share a folder and feedback. Tell them apart by --dataset, or say --dataset "
        f"{name} if they belong together."
    ]


def note(origin: str | None, output: str, name: str, report: str) -> None:
    """Keep of which input the report is; a note that cannot be written is none, and no run fails for it."""
    if origin is None:
        return
    from vae_core import stores

    place = _place(output, name)
    there = report if stores.is_remote(report) else str(Path(report).absolute())
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        publishing.write_json(place, {"origin": origin, "report": there})


def taken_over(before: Mapping[str, Mapping[str, Any]], now: Mapping[str, str]) -> list[str]:
    """A warning where deployments that are there read another input than they will from now on.

    `before` are the parameters of those that are there, `now` what each will read, both by FLOW/NAME.
    """
    moved: dict[tuple[str, str], list[str]] = {}
    for name, path in now.items():
        old = str(before.get(name, {}).get("path", path))
        if not same(old, path):
            moved.setdefault((old, path), []).append(name)
    return [
        f"{' and '.join(names)} read {one_line(old)} until now and read {one_line(new)} from now on: nothing "
        "is scheduled for the former any more. If these are two datasets, give each a name of its own and "
        "deploy both."
        for (old, new), names in moved.items()
    ]


def _place(output: str, name: str) -> Path:
    from vae_core import stores

    where = output.rstrip("/") if stores.is_remote(output) else str(Path(output).resolve())
    return home() / "origins" / f"{name}-{hashlib.sha256(where.encode()).hexdigest()[:12]}.json"


def same(one: str, other: str) -> bool:
    """Whether two paths are one, by way of links too, or differ by a date only."""
    return _undated(one) == _undated(other) or os.path.realpath(one) == os.path.realpath(other)


def _undated(path: str) -> str:
    return DATE.sub("date", path)


def _is_there(report: str) -> bool:
    from vae_core import stores

    if stores.is_remote(report):
        return stores.open_store(report).read(publishing.MANIFEST) is not None
    return (Path(report) / publishing.MANIFEST).is_file()
