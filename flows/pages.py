"""A report's page, drawn anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows import descriptions, remote
from vae_core.errors import InputError


def draw(path: str, *, output: str | None = None, hide_values: bool = False) -> dict[str, Any]:
    """The page of a published report in a file of its own; what is published stays as it is."""
    from vae_core import page, publishing
    from vae_core import report as reports

    found = reports.read_report(remote.local_report(path))
    name = f"{Path(found.manifest['dataset']['name']).name}-{found.folder.name}.html"  # it may come from afar
    target = Path(output or name.replace("=", "-"))
    if any((folder / publishing.MANIFEST).is_file() for folder in target.resolve().parents):
        fix = "Give --output another place"
        raise InputError("is published, and never written to", file=found.folder, fix=fix)
    text = page.build(found.folder, found.manifest, hide_values=hide_values)
    target.parent.mkdir(parents=True, exist_ok=True)
    with publishing.whole_file(target) as hidden:
        hidden.write_text(text, encoding="utf-8")
    return {**descriptions.of_report(found.folder, found.manifest), "page": str(target)}
