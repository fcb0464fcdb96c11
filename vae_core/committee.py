"""Which companions a VAE gets, and with what weights: the model whose bound is the weighted mean of theirs.

With weights that are fixed before a record is seen, the weighted mean of the members' bounds is the ELBO of
the model that first draws the member and then the record: a lower bound on the log of their mixture. Balanced
members are tilted besides (`tilt`), which lowers their bounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from vae_core import sums
from vae_core.encoding import Encoded
from vae_core.gate import evenly
from vae_core.members import Companion, Crowd, IndependentColumns, KernelDensity, scores_of
from vae_core.records import joined, take
from vae_core.scoring import FittedModel
from vae_core.tilt import Tilt

__all__ = ["with_companions"]

MOST_COMPARED = 2000  # training records whose bounds say how far a member's bounds spread
# How often a balanced member counts; learnt on half of two suites of tables (docs/quality.md). The crowd and
# independent columns do not take the word of anomalies for each other; the VAE knows how columns hang
# together beyond the training records, which is where planted errors of single cells show.
COUNTS = {"vae": 6.0, "columns": 8.0, "kernel": 4.0, "crowd": 8.0}
FEW = 200  # training records with which a kernel density counts half as often: of few it learns little


def with_companions(
    model: FittedModel,
    known: list[Encoded],
    weights: Mapping[str, float | None],
    random_state: int,
) -> FittedModel:
    """The VAE with companions fitted to the records it knows (fitted or selected on).

    `weights` names each companion's prior weight against the VAE's 1; 0 leaves it out. None balances: a
    weight is 1 over the interquartile range of the member's bounds on training records, so that a narrow
    density does not outvote the others by the size of its nats, times the member's COUNTS, for a kernel
    density times n / (n + FEW) of n records; a balanced kernel density brings its crowd along. Where all are
    balanced or left out, their bounds are tilted (`Tilt`).
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
    tilts = {"vae": Tilt.of(model.evaluate(sample, reasons=False).scores.elbo)}
    # With their own kernels heard: a kernel density's usual bound is that of a record which it knows. By the
    # bounds that the others give them it would spread wider and weigh less: .02 of precision on clean data.
    for name, bounds in scores_of(companions, sample.values, sample.mask, own=True).items():
        tilts[name] = Tilt.of(bounds + sums.of_records(sample.fixed))
    counts = {**COUNTS, "kernel": COUNTS["kernel"] * len(records.values) / (len(records.values) + FEW)}
    shares = {"vae": 1.0}
    for name in companions:
        given, spread = weights.get(name), tilts["vae"].spread / tilts[name].spread
        shares[name] = counts[name] / counts["vae"] * spread if given is None else float(given)
    total = sum(shares.values())
    return replace(
        model,
        companions=companions,
        weights={name: share / total for name, share in shares.items()},
        tilts={} if any(weights.values()) else tilts,
        summary={**model.summary, "holds_training_records": "kernel" in companions},
    )
