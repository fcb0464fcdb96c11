"""The reports of a dataset's folder in order of time: the one that counts for each interval."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from vae_core import publishing
from vae_core.errors import InputError

__all__ = ["Told", "of_intervals", "places_of_intervals", "told"]

Told = tuple[list[tuple[str, dict[str, Any]]], list[str]]  # in order of time; what is damaged, a line each

PLACE = re.compile(r"as_of=\d{8}T\d{6}(\.\d+)?Z")


def of_intervals(folder: str | Path) -> Told:
    """The report that counts for each interval of a dataset's folder: its folder's name and its manifest.

    Of an interval whose report was replaced it is the new one, which lies in a folder `run=...`. Manifests
    are checked, the files beside them are not.
    """
    where = Path(folder).resolve()

    def read(name: str) -> tuple[str, dict[str, Any]]:
        place = publishing.current(where / name)
        return place.name, publishing.read_manifest(place)

    return told(places_of_intervals(path.name for path in where.glob("*as_of=*")), read)


def told(places: Iterable[str], read: Callable[[str], tuple[str, dict[str, Any] | None]]) -> Told:
    """What `read` finds in each place, and what is wrong with those that cannot be read."""
    found, damaged = [], []
    for place in places:
        try:
            name, manifest = read(place)
        except InputError as problem:
            damaged.append(str(problem))
            continue
        if manifest is not None:
            found.append((name, manifest))
    return found, damaged


def places_of_intervals(names: Iterable[str]) -> list[str]:
    """The places of intervals that these folders and pointers stand for, in order of time; no copies of them.

    >>> places_of_intervals(["run=ab", "_current-as_of=20130201T000000Z.json", "as_of=20130101T000000Z"])
    ['as_of=20130101T000000Z', 'as_of=20130201T000000Z']
    """
    plain = {name.removeprefix("_current-").removesuffix(".json") for name in names}
    return sorted(name for name in plain if PLACE.fullmatch(name))
