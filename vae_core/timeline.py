"""The reports of a dataset's folder in order of time: the one that counts for each interval."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from vae_core import publishing
from vae_core.report import Report

__all__ = ["of_intervals", "places_of_intervals"]

PLACE = re.compile(r"as_of=\d{8}T\d{6}(\.\d+)?Z")


def of_intervals(folder: str | Path) -> list[Report]:
    """The report that counts for each interval of a dataset's folder, in order of time.

    Of an interval whose report was replaced it is the new one, which lies in a folder `run=...`. Manifests
    are checked, the files beside them are not. Raises InputError where one is missing.
    """
    names = places_of_intervals(path.name for path in Path(folder).glob("*as_of=*"))
    places = [publishing.current(Path(folder).resolve() / name) for name in names]
    return [Report(place, publishing.read_manifest(place)) for place in places]


def places_of_intervals(names: Iterable[str]) -> list[str]:
    """The places of intervals that these folders and pointers stand for, in order of time; no copies of them.

    >>> places_of_intervals(["run=ab", "_current-as_of=20130201T000000Z.json", "as_of=20130101T000000Z"])
    ['as_of=20130101T000000Z', 'as_of=20130201T000000Z']
    """
    plain = {name.removeprefix("_current-").removesuffix(".json") for name in names}
    return sorted(name for name in plain if PLACE.fullmatch(name))
