"""Texts that HTML, Markdown, rich, a terminal or a spreadsheet would obey, and a report of them."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pyarrow as pa

from tests.stand_in import StandIn, make_job
from vae_core import job, sources
from vae_core.card import CARD
from vae_core.publishing import read_manifest
from vae_core.work import REASONS

TEXTS = (
    "<script>alert(1)</script>",
    "</style><img src=x onerror=alert(2)>",
    '"\' onmouseover=alert(3) x="',
    "[click](javascript:alert(4)) **bold** `code` | cell |",
    "[red]red[/red] :smile: [link=https://example.org]x[/link]",
    "\x1b[2J\x1b]8;;https://example.org\x07link",
    "=cmd|' /C calc'!A0",
    "@SUM(1+1)",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;b&gt; &#60;",
    "\u202egnp.exe",
    "line\nbreak\ttab",
)


def explain(model: StandIn, table: pa.Table, *, top: int) -> pa.Table:
    """Reasons whose column, value and expected value are hostile."""
    bound = model.score(table).bound
    reasons, why = [], []
    for key, nats in zip(table["key"].to_pylist(), bound, strict=True):
        text = TEXTS[int(key.split("#")[0]) % len(TEXTS)]
        reasons.append(
            [{"feature": text, "value": f"secret {text}", "expected": text, "low": text, "high": text,
              "value_number": 9.0, "nats": float(nats) - 1.0, "typical": -0.5}]
        )  # fmt: skip
        why.append(f"{text} secret {text}, expected {text}: -1 nats")
    rest, tilt = [1.0] * table.num_rows, [0.0] * table.num_rows
    return pa.table({"why": why, "reasons": pa.array(reasons, REASONS), "rest_nats": rest, "tilt_nats": tilt})


def report(folder: Path, **settings: object) -> Path:
    """A published report in which ids, columns, values, sentences and the model card are hostile."""
    raw = folder / "raw"
    raw.mkdir(parents=True)
    keys = [f"{n}#{text}" for n, text in enumerate(TEXTS)]
    frame = pd.DataFrame({"key": keys, "x": [4.0 - n / 4 for n in range(len(TEXTS))]})
    frame.to_parquet(raw / "<b>part&.parquet", index=False)
    data = sources.ingest(raw, folder / "store", name="numbers", ids=["key"]).folder
    named = {"model_name": TEXTS[0], "model_version": TEXTS[1]}
    return job.run(make_job(data, folder / "reports", explain=explain, **(named | settings))).folder


def with_card(folder: Path) -> dict[str, object]:
    """Give a report a hostile model card; its manifest."""
    column = {"name": TEXTS[0], "type": "double", "kind": "real", "rows": 9, "missing": 1}
    kind = {"name": TEXTS[1], "type": "string", "kind": "category", "rows": 9, "missing": 1}
    card = {
        "format_version": 1,
        "code_version": TEXTS[2],
        "summary": {"likelihoods": dict.fromkeys(TEXTS, "gaussian"), "history": []},
        "settings": dict.fromkeys(TEXTS, TEXTS[0]),
        "members": {"vae": 1.0},
        "draws": 1,
        "left_out": dict(zip(TEXTS, TEXTS, strict=True)),
        "time": TEXTS[3],
        "scores": {
            "records": 3,
            "quantiles": [0.0, 0.5, 1.0],
            "curve": [[1.0, 0.3, 0.4], [0.5, 0.6, 0.7], [0.0, 1.0, 1.0]],
            "tail_from": None,
        },
        "columns": [
            {**column, "quantiles": [0.0, 1.0, 2.0]},
            {**kind, "categories": [[TEXTS[1], 5], [TEXTS[2], 3]]},
        ],
    }
    (folder / CARD).write_text(json.dumps(card))
    return read_manifest(folder)
