"""What a cell would be, given the record's other cells."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vae_core.encoding import Encoded
from vae_core.scoring import FittedModel

__all__ = ["expected_given_others"]

ROUNDS = 4  # of imputation: each moves the hidden cell to what the others imply
DRAWS = 4


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
    hidden = owner[None, :] == column[:, None]
    few = model.with_draws(DRAWS)
    current = replace(encoded, values=np.where(hidden, 0, encoded.values), mask=encoded.mask & ~hidden)
    mean, variance = few.moments(current)
    for _ in range(ROUNDS):
        filled = np.where(hidden, mean, encoded.values)
        mean, variance = few.moments(replace(encoded, values=filled, mask=encoded.mask | hidden))
    return mean, variance
