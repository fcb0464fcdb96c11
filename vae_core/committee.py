"""Which companions a VAE gets, and with what weights: the model whose bound is the weighted mean of theirs.

With weights that are fixed before a record is seen, the weighted mean of the members' bounds is the ELBO of
the model that first draws the member and then the record: a lower bound on the log of their mixture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from vae_core.encoding import Encoded
from vae_core.gate import evenly
from vae_core.members import Companion, Crowd, IndependentColumns, KernelDensity
from vae_core.records import joined, take
from vae_core.scoring import FittedModel

__all__ = ["with_companions"]

MOST_COMPARED = 2000  # training records whose bounds say how far a member's bounds spread
NO_SPREAD = 1e-6  # nats
# How often a balanced member counts. The VAE counts most: it alone knows how columns hang together beyond the
# training records, which is where planted errors of single cells show.
COUNTS = {"vae": 4.0, "columns": 1.0, "kernel": 2.0, "crowd": 2.0}


def with_companions(
    model: FittedModel,
    known: list[Encoded],
    weights: Mapping[str, float | None],
    random_state: int,
) -> FittedModel:
    """The VAE with companions fitted to the records it knows (fitted or selected on).

    `weights` names each companion's prior weight against the VAE's 1; 0 leaves it out. None balances: a
    weight is 1 over the interquartile range of the member's bounds on training records, so that a narrow
    density does not outvote the others by the size of its nats, times the member's COUNTS; a balanced kernel
    density brings its crowd along.
    """
    records = joined(known)
    features = model.encoding.features
    companions: dict[str, Companion] = {}
    if weights["columns"] != 0:
        companions["columns"] = IndependentColumns.fit(records.values, records.mask, features)
    if weights["kernel"] != 0 and KernelDensity.supports(features):
        kernel = KernelDensity.fit(records.values, records.mask, features, random_state=random_state)
        companions["kernel"] = kernel
        if weights["kernel"] is None:
            companions["crowd"] = Crowd.of(kernel)
    if not companions:
        return model
    sample = take(records, evenly(len(records.values), MOST_COMPARED))
    spread = {"vae": interquartile_range(model.evaluate(sample).scores.elbo)}
    shares = {"vae": 1.0}
    for name, companion in companions.items():
        given = weights.get(name)
        if given is None:
            bounds = companion.score(sample.values, sample.mask) + sample.fixed.sum(1)
            given = COUNTS[name] / COUNTS["vae"] * spread["vae"] / interquartile_range(bounds)
        shares[name] = float(given)
    total = sum(shares.values())
    return replace(
        model,
        companions=companions,
        weights={name: share / total for name, share in shares.items()},
        summary={**model.summary, "holds_training_records": "kernel" in companions},
    )


def interquartile_range(bounds: np.ndarray) -> float:
    low, high = np.quantile(bounds, [0.25, 0.75])
    return max(float(high - low), NO_SPREAD)
