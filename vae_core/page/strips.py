"""Where a value lies in its column's training distribution: a small drawing beside each reason."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

__all__ = ["Strips", "shares"]

WIDTH, HEIGHT = 132, 26
EDGE = 8  # pixels on both sides for values beyond the training range
BINS = 44
SMALLEST = 1e-290  # of a range that can be cut into bins


class Strips:
    """The columns of a model card; each distribution is drawn once and used by all reasons that name it."""

    def __init__(self, columns: Sequence[Mapping[str, Any]]) -> None:
        self._columns = {column["name"]: (place, column) for place, column in enumerate(columns)}
        self._used: dict[str, Markup] = {}

    def symbols(self) -> Markup:
        """The distributions that were used, as SVG symbols."""
        return Markup("").join(self._used[name] for name in sorted(self._used))

    def draw(self, reason: Mapping[str, Any]) -> Markup | None:
        """The strip of one reason; None where the distribution is not known."""
        place, column = self._columns.get(reason["feature"], (0, None))
        if column is None:
            return None
        if column.get("categories"):
            return _shares(reason, column)
        quantiles = column.get("quantiles")
        if not quantiles or None in quantiles or column["type"] == "timestamp":
            return None
        low, high = quantiles[0], quantiles[-1]
        if column["type"] == "bool" or not SMALLEST < high - low < math.inf:
            return None
        name = f"d{place}"
        if name not in self._used:
            self._used[name] = _symbol(name, quantiles)
        return _strip(name, low, high, reason)


def _symbol(name: str, quantiles: Sequence[float]) -> Markup:
    """The distribution as a mountain; square roots of the heights, so that a peak hides no slope."""
    even = np.interp(np.linspace(0, 1, 2001), np.linspace(0, 1, len(quantiles)), quantiles)
    counts, _ = np.histogram(even, BINS, range=(quantiles[0], quantiles[-1]))
    heights = np.sqrt(counts / counts.max()) * (HEIGHT - 4)
    step = (WIDTH - 2 * EDGE) / BINS
    path = "".join(f"L{EDGE + i * step:.1f} {HEIGHT - h:.1f}h{step:.1f}" for i, h in enumerate(heights))
    return Markup('<symbol id="{0}" viewBox="0 0 {1} {2}"><path d="M{3} {2}{4}V{2}Z"/></symbol>').format(
        name, WIDTH, HEIGHT, EDGE, path
    )


def _strip(name: str, low: float, high: float, reason: Mapping[str, Any]) -> Markup:
    """The mountain, the expected range as a band, the value as a mark (an arrow at the end if beyond)."""

    def place(value: float) -> float:
        inside = EDGE + (value - low) / (high - low) * (WIDTH - 2 * EDGE)
        return round(min(max(inside, 1.0), WIDTH - 1.0), 1)

    parts = [Markup('<use href="#{}"/>').format(name)]
    ends = [_number(reason.get(key)) for key in ("low", "high")]
    if ends[0] is not None and ends[1] is not None:
        left, right = place(ends[0]), place(ends[1])
        parts.append(
            Markup('<rect class="band" x="{}" y="0" width="{}" height="{}"/>').format(
                left, round(max(right - left, 1.5), 1), HEIGHT
            )
        )
    value = reason.get("value_number")
    told = f"in training {low:.4g} to {high:.4g}"
    if value is not None and math.isfinite(value):
        x = place(value)
        mark = '<line class="mark" x1="{0}" x2="{0}" y1="0" y2="{1}"/>'
        if value > high:
            mark, told = '<path class="arrow" d="M{0} 13l-7 -6v12z"/>', f"{told}: this value is above all"
            x = WIDTH - 1.0
        elif value < low:
            mark, told = '<path class="arrow" d="M{0} 13l7 -6v12z"/>', f"{told}: this value is below all"
            x = 1.0
        parts.append(Markup(mark).format(x, HEIGHT))
    start = Markup('<svg class="strip" viewBox="0 0 {} {}" role="img" aria-label="{}">')
    return start.format(WIDTH, HEIGHT, told) + Markup("").join(parts) + Markup("</svg>")


def _shares(reason: Mapping[str, Any], column: Mapping[str, Any]) -> Markup:
    """For a category: how often it occurs in training."""
    counts = dict(map(tuple, column["categories"]))
    rows = max(column["rows"], 1)
    value = reason["value"]
    if value in counts:
        told = f"in {100 * counts[value] / rows:.2g}% of training"
    elif value == "missing":
        told = f"missing in {100 * column['missing'] / rows:.2g}% of training"
    else:
        told = "rare or unseen in training"
    return Markup('<span class="told">{}</span>').format(told)


def shares(bins: Sequence[Mapping[str, Any]] | None) -> Markup | None:
    """Shares of a table in the bins or classes of training: grey training, coloured outline this table."""
    if not bins:
        return None
    was, now = ([float(bin[key] or 0) for bin in bins] for key in ("training", "current"))
    most = max(*was, *now) or 1.0
    step = (WIDTH - 2 * EDGE) / len(bins)
    parts = []
    for kind, values in (("was", was), ("now", now)):
        tops = [HEIGHT - (HEIGHT - 2) * value / most for value in values]
        path = "".join(f"L{EDGE + i * step:.1f} {top:.1f}h{step:.1f}" for i, top in enumerate(tops))
        end = f"V{HEIGHT}Z" if kind == "was" else ""
        start = f"M{EDGE} {HEIGHT}" if kind == "was" else f"M{EDGE} {tops[0]:.1f}"
        parts.append(Markup('<path class="{}" d="{}"/>').format(kind, start + path + end))
    head = Markup('<svg class="strip" viewBox="0 0 {} {}" aria-hidden="true">').format(WIDTH, HEIGHT)
    return head + Markup("").join(parts) + Markup("</svg>")


def _number(text: object) -> float | None:
    try:
        value = float(str(text))
    except ValueError:
        return None
    return value if math.isfinite(value) else None
