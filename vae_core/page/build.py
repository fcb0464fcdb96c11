"""A report's folder -> one HTML file. The same folder gives the same bytes."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from vae_core.errors import one_line
from vae_core.page import contents, sentences, wording
from vae_core.report import Report

__all__ = ["PAGE", "build", "model_page"]

PAGE = "report.html"
TEMPLATES = Path(__file__).with_name("templates")
NOTHING_SAID: Mapping[str, Mapping[str, Any]] = {}
MOST_BYTES = 2_900_000  # a page that is larger opens slowly on a phone


def build(
    folder: Path,
    manifest: Mapping[str, Any],
    *,
    hide_values: bool = False,
    earlier: Report | None = None,
    known: Mapping[str, Mapping[str, Any]] = NOTHING_SAID,
) -> str:
    """The page of the report in `folder`, whose manifest this is.

    `hide_values`: no cell of any record, no category and no distribution of a column is told, only names of
    columns, keys of records, scores and nats. `earlier`: an older report, for the section that says what is
    new since; `known`: the judgement that counts for a record id (`vae_core.feedback`). A published page is
    drawn without them, so that it depends on its own folder alone. Of a report with very wide records fewer
    of them are listed, so that the page stays under 3 MB.
    """
    listed, detailed = contents.LISTED, contents.DETAILED
    given: dict[str, Any] = {"hide_values": hide_values, "earlier": earlier}
    said = {key: {**line, "note": ""} for key, line in known.items()} if hide_values else known
    while True:
        told = contents.gather(folder, manifest, listed=listed, detailed=detailed, **given)
        page = render(told | {"known": said})
        fitting = MOST_BYTES / len(page.encode())
        if fitting >= 1 or listed <= 10:
            return page
        listed, detailed = max(10, int(0.8 * fitting * listed)), int(0.8 * fitting * detailed)


def model_page(card: Mapping[str, Any], *, name: str, sha256: str) -> str:
    """The model card as a page of its own, as the registry keeps it beside the model."""
    model = {"name": name, "version": "", "sha256": sha256}
    return render({"card": card, "model": model, **contents.of_card(card)}, "model.html")


def render(told: Mapping[str, Any], template: str = "page.html") -> str:
    """The template filled in; every text in it is escaped, and its control characters made visible."""
    style, script = (_asset(name) for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    assets = {"style": Markup(style), "script": Markup(script), "policy": policy}
    return _environment().get_template(template).render(**told, **assets)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("chance", "count", "figure", "nats", "short"):
        environment.filters[name] = getattr(wording, name)
    environment.filters |= {"middle": sentences.middle, "sentence": sentences.sentence}
    return environment


def _shown(value: object) -> object:
    """What an expression prints: markup of ours as it is, else one line of text (escaped afterwards)."""
    return value if isinstance(value, Markup) else one_line(str(value))


@cache
def _asset(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
