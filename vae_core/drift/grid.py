"""How many numbers lie in each cell of a line cut at edges, without sorting them: exact, by an even grid.

The bin of a number on an even grid is found by one product, which never falls as the number rises. So an edge
in a lower bin is smaller and one in a higher bin larger, whatever was rounded: a number has to be compared
with the edges of its own bin alone. Most bins have one edge or none; numbers in others are looked up.
"""

from __future__ import annotations

import numpy as np

from vae_core.columns import cells

__all__ = ["Grid"]

BINS = 2048
ENDS = (0.0, 0.05, 0.15)  # of the edges at either end may lie beyond the grid, in its first and last bin
MOST_LOOKED_UP = 0.2  # of the numbers: with more, one sort of all is quicker


class Grid:
    """Sorted distinct finite edges, ready to count: k edges make 2k + 1 cells, between them and at them."""

    def __init__(self, edges: np.ndarray) -> None:
        self._edges = edges
        self._in_vain = not len(edges)
        if self._in_vain:
            return
        fewest = len(edges) + 1
        for share in ENDS:  # that with the fewest edges in crowded bins: heavy tails do not stretch the grid
            beyond = int(share * (len(edges) - 1))
            start, scale = _even(edges[beyond], edges[len(edges) - 1 - beyond])
            in_bin = np.bincount(_bins(edges, start, scale), minlength=BINS)
            crowded = int(in_bin[in_bin > 1].sum())
            if crowded < fewest:
                fewest, self._start, self._scale = crowded, start, scale
        at = _bins(edges, self._start, self._scale)
        in_bin = np.bincount(at, minlength=BINS)
        self._crowded = in_bin > 1
        self._first = (2 * (np.cumsum(in_bin) - in_bin)).astype(np.int32)  # the cell before the bin's edge
        self._edge = np.full(BINS, np.inf)
        self._edge[at] = edges
        self._in_vain = self._scale == 0 or fewest > MOST_LOOKED_UP * len(edges)

    def count(self, values: np.ndarray) -> np.ndarray:
        """Numbers (no nan) in each cell: (n,) -> int64 (2k + 1,)."""
        if self._in_vain:
            return cells(np.sort(values), self._edges)
        bins = _bins(values, self._start, self._scale)
        edge, cell = self._edge.take(bins), self._first.take(bins)
        cell += values >= edge
        cell += values > edge
        crowded = np.flatnonzero(self._crowded.take(bins))
        if len(crowded) > MOST_LOOKED_UP * len(values):
            return cells(np.sort(values), self._edges)
        few = values[crowded]
        cell[crowded] = sum(np.searchsorted(self._edges, few, side) for side in ("left", "right"))
        return np.bincount(cell, minlength=2 * len(self._edges) + 1)


def _even(first: float, last: float) -> tuple[float, float]:
    """Where the grid starts, and bins to a unit; 0 where there is no width to divide by."""
    with np.errstate(over="ignore"):
        width = float(last - first)
    # Neither is 0 or infinite, so that no product of the two is no number.
    return float(first), (BINS - 1) / width if 1e-300 < width < 1e300 else 0.0


def _bins(values: np.ndarray, start: float, scale: float) -> np.ndarray:
    if not scale:
        return np.zeros(len(values), np.int32)
    with np.errstate(over="ignore"):
        place = values - start
        place *= scale
    return np.clip(place, 0, BINS - 1, out=place).astype(np.int32)
