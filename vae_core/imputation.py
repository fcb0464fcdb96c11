"""What a cell would be, given the record's other cells."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from vae_core.encoding import Encoded
from vae_core.records import take
from vae_core.scoring import FittedModel

__all__ = ["DRAWS", "NORMAL_90", "expected_given_others", "imputed", "range_factors"]

ROUNDS = 4  # of imputation: each moves the hidden cell to what the others imply
DRAWS = 4
NORMAL_90 = 1.2815515655446004  # the standard normal's 90 % point: low to high holds 80 %
COVERED = 0.8
# Cells that are hidden to learn how wide the ranges must be; of wide tables fewer, since each costs a record.
MOST_HIDDEN, MOST_OUTPUTS, AT_ONCE = 20_000, 4_000_000, 2048
OF_ALL = 10  # cells of all columns that each column's own are joined with


def expected_given_others(
    model: FittedModel, encoded: Encoded, column: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance under P(x|z) of one column of each record, with that column's own value hidden.

    Without this the strange value would speak for itself: it moves z, and with it what seems to be expected.
    The cell starts as missing and is replaced by the decoder's mean, round by round (pseudo-Gibbs imputation,
    Rezende, Mohamed & Wierstra 2014, appendix F). `column` (n,) holds an index into the encoding's columns
    for each record. Returns two arrays (n, features) in model values, of which the hidden column's features
    count.
    """
    owner = np.array([feature.column for feature in model.encoding.features])
    return imputed(model, encoded, owner[None, :] == column[:, None])


def imputed(model: FittedModel, encoded: Encoded, hidden: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance under P(x|z) of these cells (n, features), hidden: two arrays of the same shape, in
    which what is not hidden may be 0."""
    few = model.with_draws(DRAWS)
    current = replace(encoded, values=np.where(hidden, 0, encoded.values), mask=encoded.mask & ~hidden)
    wanted = np.asarray(hidden.any(0))
    mean, variance = few.moments(current, wanted=wanted)
    for _ in range(ROUNDS):
        filled = np.where(hidden, mean, encoded.values)
        refilled = replace(encoded, values=filled, mask=encoded.mask | hidden)
        mean, variance = few.moments(refilled, wanted=wanted)
    return mean, variance


def range_factors(model: FittedModel, encoded: Encoded, *, random_state: int = 0) -> dict[str, float]:
    """How much wider than P(x|z) says a number's range must be to hold 80 % of held-out values, by column.

    P(x|z) takes the code for known; with the cell hidden it is not, and the spread comes out too small. So
    cells of held-out records are hidden in turn, and the factor is the quantile of their distances from what
    is expected (split conformal prediction, Papadopoulos et al. 2002). Columns with few cells lean on the
    others.
    """
    first = {f.column: j for j, f in reversed(list(enumerate(model.encoding.features)))}
    described = model.encoding.described
    columns = [c for c in first if described[c].modelled and described[c].kind in ("real", "whole")]
    if not columns or not len(encoded.values):
        return {}
    most = min(MOST_HIDDEN, MOST_OUTPUTS // encoded.values.shape[1])
    each = min(len(encoded.values), max(1, most // len(columns)))
    generator = np.random.default_rng([random_state, 80])
    rows = np.concatenate([generator.choice(len(encoded.values), each, replace=False) for _ in columns])
    column = np.repeat(np.array(columns), each)
    feature = np.array([first[c] for c in column])
    seen = encoded.mask[rows, feature]
    rows, column, feature = rows[seen], column[seen], feature[seen]
    distance = np.empty(len(rows))
    for start in range(0, len(rows), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        some = take(encoded, rows[part])
        mean, variance = expected_given_others(model, some, column[part])
        at = np.arange(len(rows[part])), feature[part]
        distance[part] = np.abs(some.values[at] - mean[at]) / np.sqrt(np.maximum(variance[at], 1e-300))
    if not len(distance):
        return {}
    together, factors = _covering(distance), {}
    for c in columns:
        own = distance[column == c]
        share = len(own) / (len(own) + OF_ALL)
        factor = float(_covering(own) ** share * together ** (1 - share) / NORMAL_90)
        factors[described[c].name] = max(1.0, factor)  # nearly always the same value is no reason to be surer
    return factors


def _covering(distance: np.ndarray) -> float:
    """The distance that holds another value, drawn like these, with a probability of at least 80 %."""
    if not len(distance):
        return 1.0
    place = min(len(distance), math.ceil(COVERED * (len(distance) + 1)))
    return max(float(np.sort(distance)[place - 1]), 1e-3)
