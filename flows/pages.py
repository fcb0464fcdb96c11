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
    name = f"{found.manifest['dataset']['name']}-{found.folder.name}.html"
    target = Path(output or name.replace("=", "-"))
    if target.resolve().is_relative_to(found.folder.resolve()):
        fix = "Give --output another place"
        raise InputError("is published, and never written to", file=found.folder, fix=fix)
    text = page.build(found.folder, found.manifest, hide_values=hide_values)
    with publishing.writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    return {**descriptions.of_report(found.folder, found.manifest), "page": str(target)}
