"""Why an image is strange: the parts of its score in words, and the regions that cost the most nats."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pyarrow as pa

from vae_core.explanation import COMBINATION, REASON
from vae_core.images.model import ImageModel, ImageScores

__all__ = ["explain"]

SENTENCES = {
    "excess": "its pixels lie far from what images like it look like",
    "elbo": "its probability is low",
    "complexity": "its probability is low for an image as simple as it is",
    "levels": "its brightness is unlike that of the training images",
}
SHOWN = 2  # regions in the sentence


def explain(model: ImageModel, table: pa.Table, *, top: int = 5) -> pa.Table:
    """Reasons for each image: why, reasons (at most `top`, largest surprise first), rest_nats, tilt_nats.

    A reason is one of 4 x 4 regions of the image; its nats are its share of the elbo, `typical` their median
    on held-out images; value and expected are mean brightness in fractions of white, low to high the smallest
    and the largest that is expected of a pixel there. The nats of the reasons + rest_nats = the bound,
    which no tilt lowers.
    """
    encoded = model.encoding.encode(table)
    parts = model.evaluate(encoded)
    scores = cast(ImageScores, parts.scores)
    expected, _ = model.moments(encoded)
    names = [*model.encoding.regions, COMBINATION]
    typical = model.calibration.typical
    usual = np.array([typical.get(name, 0.0) for name in [*model.encoding.regions, "kl"]])
    nats = np.c_[parts.nats, parts.kl_nats]
    deficit = usual - nats
    order = np.argsort(-deficit, axis=1, kind="stable")[:, :top]
    inside = [model.encoding.region == r for r in range(len(model.encoding.regions))]
    reasons, why, rest = [], [], []
    for row, chosen in enumerate(order):
        entries: list[dict[str, Any]] = []
        for j in (j for k, j in enumerate(chosen) if k == 0 or deficit[row, j] > 0):
            entry: dict[str, Any] = dict.fromkeys(REASON.names)
            entry |= {"feature": names[j], "nats": float(nats[row, j]), "typical": float(usual[j])}
            if j < len(inside):
                own, usually = encoded.values[row, inside[j]], expected[row, inside[j]]
                entry |= {"value": f"{own.mean():.2f}", "value_number": float(own.mean())}
                entry |= {"expected": f"{usually.mean():.2f}"}
                entry |= {"low": f"{usually.min():.2f}", "high": f"{usually.max():.2f}"}
            entries.append(entry)
        reasons.append(entries)
        why.append(sentence(str(scores.part[row]), entries))
        rest.append(float(scores.bound[row] - sum(entry["nats"] for entry in entries)))
    return pa.table(
        {
            "why": pa.array(why, pa.string()),
            "reasons": pa.array(reasons, pa.list_(REASON)),
            "rest_nats": pa.array(rest, pa.float64()),
            "tilt_nats": pa.array(np.zeros(len(rest)), pa.float64()),
        }
    )


def sentence(part: str, reasons: list[dict[str, Any]]) -> str:
    """One line for a person: what the score's largest part says, and where the image costs the most."""
    clauses = []
    for entry in reasons[:SHOWN]:
        deficit = entry["typical"] - entry["nats"]
        if deficit <= 0:
            break
        place = "an unusual combination" if entry["feature"] == COMBINATION else entry["feature"]
        clauses.append(f"{place}: {-deficit:+,.0f} nats")
    return "; ".join([SENTENCES[part], *clauses])
