"""How wide an exemplar's kernels are against the others', before one width for all is searched."""

from __future__ import annotations

import math

import numpy as np

from vae_core.members.layout import Layout

__all__ = ["NARROWEST", "NEIGHBOUR", "relative_widths", "scale_of"]

NEIGHBOUR = 10  # the neighbour whose distance sets an exemplar's width
NARROWEST = 0.02  # of a kernel, in units of the column's scale: no density is built from rounding
WILD = 3.0  # ranges of the middle 99 %: what lies farther out does not stretch a column's scale


def scale_of(x: np.ndarray) -> float:
    """A column's scale: three tenths of its range, without the part of it that single wild values make up."""
    if not len(x):
        return 1.0
    low, high = np.quantile(x, [0.005, 0.995])
    span = min(float(np.ptp(x)), WILD * float(high - low)) or float(np.ptp(x))
    return max(0.3 * span, 1e-3)


def relative_widths(
    exemplars: np.ndarray, observed: np.ndarray, scales: np.ndarray, layout: Layout
) -> np.ndarray:
    """r_i = sqrt(distance to the 10th neighbour / its geometric mean): wide where records are sparse."""
    from sklearn.neighbors import NearestNeighbors  # a second to import, and scoring does without

    z = np.where(observed, exemplars, 0.0)[:, layout.numeric] / scales[layout.numeric]
    space = np.concatenate([z, math.sqrt(0.5) * layout.indicators(exemplars, observed)], axis=1)
    neighbour = min(NEIGHBOUR, len(space) - 1)
    if neighbour < 1:
        return np.ones(len(space))
    distance = NearestNeighbors(n_neighbors=neighbour).fit(space).kneighbors()[0][:, -1]
    distance = np.maximum(distance, NARROWEST * math.sqrt(space.shape[1]))
    return np.sqrt(distance / np.exp(np.log(distance).mean()))
