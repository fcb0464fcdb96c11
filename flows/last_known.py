"""The version that an address meant last: scoring goes on with it while the registry is away.

Each time the registry answers, what it said is noted beside the local copies of models. While it cannot be
reached, scoring takes the note and that copy, verified by its hash, and says so; a registry that answers, and
be it with a refusal, is obeyed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from flows import registry
from flows.registry import ModelVersion, RegistryUnavailable
from vae_core.errors import InputError, one_line

__all__ = ["resolve"]


def resolve(uri: str, ask: Callable[[str], ModelVersion] | None = None) -> tuple[ModelVersion, list[str]]:
    """The version that an address means, and a warning where that is what it meant last.

    `ask` is how the registry is asked: `registry.resolve`, or the same with retries.
    """
    try:
        version = (ask or registry.resolve)(uri)
    except RegistryUnavailable as problem:
        known = _noted(uri) if problem.away else None
        if known is None:
            raise
        version, when = known
        return version, [
            f"{problem} Scored by version {version.version}, which {one_line(uri)} meant on {when}."
        ]
    if uri.startswith("models:"):
        _note(uri, version)
    return version, []


def _place(uri: str) -> Path:
    return registry.home() / "models" / f"{quote(uri.removeprefix('models:/'), safe='@')}.json"


def _note(uri: str, version: ModelVersion) -> None:
    """A note that cannot be written is none: the run that could is not to fail for it."""
    content = {
        "name": version.name,
        "version": version.version,
        "folder": str(version.folder),
        "sha256": version.sha256,
        "noted": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    place = _place(uri)
    partial = place.with_suffix(".new")
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(content), encoding="utf-8")
        partial.replace(place)


def _noted(uri: str) -> tuple[ModelVersion, str] | None:
    """What was noted, if the copy is still what was registered."""
    from vae_core import storage

    try:
        found = json.loads(_place(uri).read_text(encoding="utf-8"))
        folder = Path(found["folder"])
        if storage.model_digest(folder) != found["sha256"]:
            return None
        return ModelVersion(found["name"], found["version"], folder, found["sha256"]), found["noted"]
    except (OSError, ValueError, KeyError, TypeError, InputError):
        return None  # the registry's own complaint says what to do
