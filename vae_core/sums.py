"""A record's sum over its terms: of the same bits alone, among others, however they lie in memory."""

from __future__ import annotations

import numpy as np

__all__ = ["of_records"]


def of_records(terms: np.ndarray) -> np.ndarray:
    """Sums of the rows: (n, k) -> (n,).

    NumPy adds in the order in which numbers lie: column by column where a column's lie side by side, in pairs
    along a row where a row's do, and a single row counts as both. So a row's numbers are laid side by side.

    >>> by_columns = np.random.default_rng(0).normal(size=(3, 50)).T
    >>> bool((of_records(by_columns)[7] == of_records(by_columns[7:8])).all())
    True
    """
    return np.asarray(np.ascontiguousarray(terms).sum(1))
