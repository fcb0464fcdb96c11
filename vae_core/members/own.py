"""Which exemplar a record itself is: no record vouches for itself."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["Places", "leave_out"]

FACTORS = 64  # seed of the fingerprints' factors
ABSENT = -1e300  # log weight of an exemplar that is not there: finite, since 0 times infinity is not 0


class Places:
    """Finds records among exemplars, values and mask (n, m), by what single precision keeps of them."""

    def __init__(self, values: np.ndarray, mask: np.ndarray) -> None:
        cells = _cells(values, mask)
        different = [len(np.unique(column)) for column in cells.T]
        self.telling = int(np.argmax(different))  # the column that rules out the most records by itself
        self.cells = np.unique(cells[:, self.telling])
        prints = _fingerprints(values, mask)
        self.order = np.argsort(prints, kind="stable")
        self.known = prints[self.order]

    def likely(self, column: np.ndarray, observed: np.ndarray) -> np.ndarray:
        """The numbers of the records that may be exemplars, by their cells (n,) of the telling column."""
        own = _cells(column, observed)
        place = np.searchsorted(self.cells, own).clip(max=len(self.cells) - 1)
        return np.flatnonzero(self.cells[place] == own)

    def find(self, values: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """The number of the exemplar that each record is (the first of several), or -1: (n, m) -> (n,)."""
        own = _fingerprints(values, mask)
        place = np.searchsorted(self.known, own).clip(max=len(self.known) - 1)
        return np.where(self.known[place] == own, self.order[place], -1)


def leave_out(joint: Tensor, places: np.ndarray) -> None:
    """Make the kernels of the exemplars that these rows are (-1: none) count for nothing: (>= n, N), (n,)."""
    here = np.flatnonzero(places >= 0)
    if not len(here):
        return
    at = torch.from_numpy(np.stack([here, places[here]])).to(joint.device)
    joint[at[0], at[1]] = ABSENT


def _fingerprints(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """64-bit hashes of records: (n, m) -> (n,) uint64."""
    complete = bool(mask.all())  # as nearly always: then half of the work is one number
    cells = _cells(values, mask)
    factors = np.random.default_rng(FACTORS).integers(1, 2**63, (2, values.shape[1]), np.uint64) * 2 + 1
    observed = factors[1].sum() if complete else mask.astype(np.uint64) @ factors[1]
    return np.asarray(cells.astype(np.uint64) @ factors[0] + observed)


def _cells(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """What single precision keeps of cells, as its bits; 0 where they are missing: any shape -> uint32."""
    seen = values if mask.all() else np.where(mask, values, 0.0)
    with np.errstate(over="ignore"):  # beyond single precision: no exemplar
        return np.asarray((seen.astype(np.float32) + np.float32(0)).view(np.uint32))
