"""The model card: what a report says of its model, as plain values that lie beside the report.

With it the report's page can be drawn from the report's folder alone, long after the model is gone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vae_core import __version__

__all__ = ["CARD", "FORMAT", "card", "finite", "nothing_flagged", "read_card", "without_flags"]

CARD = "_card.json"  # in the report's folder; the underscore hides it from readers of Parquet folders
FORMAT = 1
LEVELS = 41  # points of a column's distribution, and of the scores'
MOST_CATEGORIES = 20
MOST_COLUMNS = 400  # whose distributions are told
OF_SUMMARY = (
    "rows", "features", "steps", "likelihoods", "heldout_elbo", "heldout_is", "linear_start_elbo",
    "gain_over_linear_start", "better_than_linear_start", "ppca", "bits_per_value", "holds_training_records",
    "network", "image", "history",
)  # fmt: skip


def card(model: Any) -> dict[str, Any]:
    """What there is to know of a fitted model (of a table or of images) without its weights.

    Summary and settings of training, the members' weights, the held-out scores' distribution with the
    p-values that go with it, and of each column the distribution in training. Scores and elbo in nats.
    """
    summary = {name: model.summary[name] for name in OF_SUMMARY if name in model.summary}
    return {
        "format_version": FORMAT,
        "code_version": __version__,
        "summary": summary,
        "settings": dict(model.settings),
        "members": dict(model.weights),
        "tilts": _tilts(model),
        "draws": int(model.noise.shape[0] * model.noise.shape[1]),
        "left_out": dict(getattr(model.encoding, "left_out", {})),
        "time": getattr(model.encoding, "time", None),
        "scores": _scores(model.calibration),
        "columns": [_column(column) for column in getattr(model.encoding, "described", [])[:MOST_COLUMNS]],
    }


def read_card(folder: Path) -> dict[str, Any] | None:
    """The card in a report's folder; None where there is none, or one of another elborank's format."""
    path = folder / CARD
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    return found if isinstance(found, dict) and found.get("format_version") == FORMAT else None


def _tilts(model: Any) -> dict[str, dict[str, float | None]]:
    """Of each member whose bounds are tilted: its usual bound and its spread, in nats."""
    if not model.tilted:
        return {}
    heard = {name: model.tilts[name] for name in model.weights}
    return {name: {"usual": _short(own.usual), "spread": _short(own.spread)} for name, own in heard.items()}


def _scores(calibration: Any) -> dict[str, Any] | None:
    """Of the held-out anomaly scores: quantiles, and (score, share at least as anomalous, p-value)."""
    scores = np.sort(np.asarray(calibration.scores, dtype=np.float64))
    n = len(scores)
    if n == 0:
        return None
    ranks = np.unique(np.rint(np.geomspace(1, n, LEVELS)).astype(int))  # from the most anomalous one down
    at = scores[n - ranks]
    p = np.asarray(calibration.p_values(at), dtype=np.float64)
    curve = [[_short(s), _short(k / n), _short(v)] for s, k, v in zip(at, ranks, p, strict=True)]
    quantiles = np.quantile(scores, np.linspace(0, 1, 101))
    threshold = float(getattr(calibration, "threshold", math.nan))
    return {
        "records": n,
        "quantiles": [_short(q) for q in quantiles],
        "curve": curve,
        "tail_from": _short(threshold),  # the score where the fitted tail takes over; null: no tail
    }


def _column(column: Any) -> dict[str, Any]:
    """One column's distribution in training, in the user's units; of a category the most frequent ones."""
    told: dict[str, Any] = {
        name: getattr(column, name) for name in ("name", "type", "kind", "rows", "missing")
    }
    if len(column.quantiles) > 1 and column.kind != "category":
        levels = np.linspace(0, len(column.quantiles) - 1, LEVELS)
        values = np.interp(levels, np.arange(len(column.quantiles)), column.quantiles)
        told["quantiles"] = [_short(value) for value in values]
    if column.categories and len(column.counts) == len(column.categories):
        pairs = sorted(zip(column.categories, column.counts, strict=True), key=lambda pair: -pair[1])
        told["categories"] = [[name, int(count)] for name, count in pairs[:MOST_CATEGORIES]]
    return told


def _short(value: float) -> float | None:
    """Six digits, and null for what JSON cannot hold."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def finite(value: Any) -> Any:
    """JSON has no nan: null instead, at any depth."""
    if isinstance(value, Mapping):
        return {str(name): finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def nothing_flagged(
    reach: tuple[int, bool], decision: Mapping[str, Any], settings: Mapping[str, Any]
) -> list[str]:
    """A warning where no record at all can be flagged by this decision: too few were held out for it.

    >>> nothing_flagged((10, False), {"alpha": 0.05}, {"calibration_fraction": 0.1})
    ['10 records were held out, so no p-value is below 0.091: nothing can be flagged by --alpha 0.05. Use
    --top-k, or train on 190 records or more.']
    >>> nothing_flagged((0, False), {"top_k": 5}, {}), nothing_flagged((19, False), {"fdr": 0.05}, {})
    ([], [])
    """
    from vae_core.records import FEWEST_TO_SPLIT  # imports what draws no page

    (held_out, tail), level = reach, decision.get("alpha", decision.get("fdr"))
    if not level or tail or (held_out and level * (1 + held_out) >= 1):
        return []
    told = settings.get("calibration_fraction")
    fraction = told if isinstance(told, float) and 1e-6 < told < 1 else 0.1
    needed = max(FEWEST_TO_SPLIT, math.ceil((math.ceil(1 / level) - 1) / fraction))
    by = "".join(f"--{name} {value:g}" for name, value in decision.items())
    were = "record was" if held_out == 1 else "records were"
    why = (
        f"{held_out} {were} held out, so no p-value is below {1 / (1 + held_out):.2g}"
        if held_out
        else f"the model has no p-values (of fewer than {FEWEST_TO_SPLIT} records none is held out)"
    )
    fix = f"Use --top-k, or train on {needed:,} records or more."
    return [f"{why}: nothing can be flagged by {by}. {fix}"]


def without_flags(card: Mapping[str, Any] | None, manifest: Mapping[str, Any]) -> list[str]:
    """Why no record of a published report, or some of them, can be flagged, by the model card beside it."""
    counts, decision = manifest["counts"], manifest["decision"]
    if card is None or not counts["ranked"] or "top_k" in decision:
        return []
    scores = card.get("scores") or {}
    reach = int(scores.get("records") or 0), scores.get("tail_from") is not None
    by = "".join(f"--{name} {value:g}" for name, value in decision.items())
    members = (manifest.get("settings") or {}).get("members") or []
    if not scores and len(members) > 1:
        told = (
            f"the members {' and '.join(members)} have no p-values together: nothing can be flagged by {by}"
        )
        return [f"{told}. Use --top-k, or name one member."]
    none = nothing_flagged(reach, decision, card.get("settings") or {})
    known = counts["ranked"] - counts.get("with_p_value", counts["ranked"])
    if none or not scores or not known:
        return none
    have, them = ("has", "it") if known == 1 else ("have", "them")
    told = (
        f"{known:,} of {counts['ranked']:,} records {have} no p-value, since the model was trained on {them}"
    )
    return [f"{told}: ranked like others, but never flagged by {by}."]
