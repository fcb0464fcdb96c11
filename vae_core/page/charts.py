"""Charts as inline SVG, in the page's colours; each tells what it shows also to those who do not see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from vae_core.page.scores import P_EDGES, Scale, Scores, scale_of
from vae_core.page.wording import figure

__all__ = ["histogram", "p_values", "tail", "training_curve"]

WIDTH, HEIGHT = 560, 250
LEFT, RIGHT, TOP, BOTTOM = 66, 22, 14, 40  # margins


class Frame:
    """A plotting area with two axes: from data to pixels, ticks, and the SVG around it."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float], labels: tuple[str, str]) -> None:
        self.x_range, self.y_range, self.labels = x, y, labels
        self.parts: list[Markup] = []

    def x(self, value: float) -> float:
        low, high = self.x_range
        return round(LEFT + (value - low) / (high - low or 1) * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return round(HEIGHT - BOTTOM - (value - low) / (high - low or 1) * (HEIGHT - TOP - BOTTOM), 1)

    def add(self, template: str, *values: object) -> None:
        """One element; the template is a literal of this file, the values are escaped."""
        self.parts.append(Markup(template).format(*values))

    def line(self, xs: Any, ys: Any, kind: str) -> None:
        points = " ".join(f"{self.x(x)},{self.y(y)}" for x, y in zip(xs, ys, strict=True))
        self.add('<polyline class="{}" points="{}"/>', kind, points)

    def x_tick(self, value: float, text: str) -> None:
        at = self.x(value)
        self.add(
            '<line class="tick" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>',
            at,
            HEIGHT - BOTTOM,
            HEIGHT - BOTTOM + 4,
        )
        self.add('<text x="{}" y="{}" text-anchor="middle">{}</text>', at, HEIGHT - BOTTOM + 16, text)

    def y_tick(self, value: float, text: str) -> None:
        at = self.y(value)
        self.add('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>', LEFT, WIDTH - RIGHT, at, at)
        self.add('<text x="{}" y="{}" text-anchor="end">{}</text>', LEFT - 6, at + 4, text)

    def svg(self, title: str) -> Markup:
        """The whole drawing; `title` says in words what it shows."""
        middle, across = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
        self.add(
            '<text class="label" x="{}" y="{}" text-anchor="middle">{}</text>',
            middle,
            HEIGHT - 6,
            self.labels[0],
        )
        self.add(
            '<text class="label" transform="translate(12 {}) rotate(-90)" text-anchor="middle">{}</text>',
            across, self.labels[1],
        )  # fmt: skip
        start = Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">')
        return start.format(WIDTH, HEIGHT, title) + Markup("").join(self.parts) + Markup("</svg>")


def histogram(scores: Scores) -> Markup:
    """Records by score, training's held-out records as a line, and the threshold of flagging."""
    edges, scale = scores.edges, scores.scale
    expected = None if scores.training is None else scores.training * scores.rows
    most = max(float(scores.counts.max()), 1.0 if expected is None else float(expected.max()), 1.0)
    top = float(np.log10(most) + 0.15)
    frame = Frame((edges[0], edges[-1]), (-0.35, top), ("anomaly score (nats for tables)", "records"))
    for power in range(int(top) + 1):
        frame.y_tick(power, f"{10**power:,}")
    for at, text in _score_ticks(scale, float(edges[0]), float(edges[-1])):
        frame.x_tick(at, text)
    for left, right, count in zip(edges[:-1], edges[1:], scores.counts, strict=True):
        if count:
            x, y = frame.x(left), frame.y(np.log10(count))
            frame.add(
                '<rect class="bar" x="{}" y="{}" width="{}" height="{}"/>',
                x + 0.4, y, round(max(frame.x(right) - x - 0.8, 0.5), 1), round(HEIGHT - BOTTOM - y, 1),
            )  # fmt: skip
    if expected is not None:
        kept = expected > 0.4
        middles = (edges[:-1] + edges[1:]) / 2
        frame.line(middles[kept], np.log10(expected[kept]), "training")
    if scores.threshold is not None:
        at = frame.x(float(scale(scores.threshold)))
        frame.add('<line class="threshold" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>', at, TOP, HEIGHT - BOTTOM)
    flagged = "none is flagged" if scores.threshold is None else f"flagged from {figure(scores.threshold)} on"
    title = f"Histogram of {scores.rows:,} anomaly scores; {flagged}"
    return frame.svg(title)


def _score_ticks(scale: Scale, first: float, last: float) -> list[tuple[float, str]]:
    """Round scores, far enough apart on the page: places on the scale, and text."""
    wide = [m * 10.0**k for k in range(-1, 9) for m in (1, 2, 5)]
    ticks: list[tuple[float, str]] = []
    for value in [0.0, *wide, *(-w for w in wide)]:
        at = float(scale(value))
        if first <= at <= last and all(abs(at - other) >= (last - first) / 7 for other, _ in ticks):
            ticks.append((at, f"{value:,.5g}" if abs(value) < 1e5 else f"{value:.0e}".replace("e+0", "e")))
    return ticks


def _round_ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers between two others.

    >>> _round_ticks(-12.8, -2.9)
    [-12.0, -10.0, -8.0, -6.0, -4.0]
    """
    span = (high - low) or 1.0
    power = 10.0 ** np.floor(np.log10(span))
    step = next(m * power for m in (0.1, 0.2, 0.5, 1.0, 2.0) if span / (m * power) <= 8)
    return [
        round(float(k * step), 10) + 0.0
        for k in range(int(np.ceil(low / step)), int(np.floor(high / step)) + 1)
    ]


def p_values(scores: Scores) -> Markup:
    """How many records have a p-value up to p, against p itself: on the diagonal they are like training."""
    share = scores.p_counts / max(scores.with_p_value, 1)
    floor = min(max(1 / max(scores.with_p_value, 1), 1e-4), 0.1)  # one record is a picture too
    low = float(np.log10(floor))
    frame = Frame((low, 0), (low, 0), ("p-value", "share of records up to it"))
    for power in range(int(np.ceil(low)), 1):
        text = f"{10.0**power:g}"
        frame.x_tick(power, text)
        frame.y_tick(power, text)
    frame.line([low, 0], [low, 0], "diagonal")
    kept = (share > 0) & (floor * 0.999 <= P_EDGES)
    frame.line(np.log10(P_EDGES[kept]), np.log10(share[kept]).clip(min=low), "curve")
    five = float(np.interp(np.log10(0.05), np.log10(P_EDGES), share))
    return frame.svg(
        f"Of the records {100 * five:.1f}% have a p-value up to 0.05; 5% do if they are like training"
    )


def tail(scores: Mapping[str, Any]) -> Markup:
    """Held-out records at least as anomalous, by score; and the p-value given there, with its fitted tail."""
    curve = np.array(scores["curve"], dtype=np.float64)
    scale = scale_of(scores["quantiles"])
    x, share, p = scale(curve[:, 0]), curve[:, 1], curve[:, 2]
    low = float(np.log10(min(share.min(), p[p > 0].min(initial=1.0))))
    frame = Frame(
        (float(x.min()), float(x.max())),
        (min(low, -1.0), 0.0),
        ("anomaly score", "share at least as anomalous"),
    )
    for power in range(int(np.ceil(min(low, -1.0))), 1):
        frame.y_tick(power, f"{10.0**power:g}")
    for at, text in _score_ticks(scale, float(x.min()), float(x.max())):
        frame.x_tick(at, text)
    for score, level in zip(x, share, strict=True):
        frame.add('<circle class="dot" cx="{}" cy="{}" r="2.6"/>', frame.x(score), frame.y(np.log10(level)))
    good = p > 0
    frame.line(x[good], np.log10(p[good]), "curve")
    return frame.svg(f"P-values against the scores of {scores['records']:,} held-out records")


def training_curve(history: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Held-out and training ELBO over the steps."""
    series: dict[str, np.ndarray] = {}
    for name in ("train_elbo", "heldout_elbo"):
        seen = [(e["step"], e[name]) for e in history if e.get(name) is not None]
        if len(seen) > 1:
            series[name] = np.array(seen, dtype=np.float64)
    if not series:
        return None
    steps = np.concatenate([points[:, 0] for points in series.values()])
    values = np.concatenate([points[:, 1] for points in series.values()])
    low = max(
        float(values.min()),
        float(np.quantile(values, 0.05)) - 3 * float(np.ptp(np.quantile(values, [0.1, 0.9]))),
    )
    high = float(values.max())
    margin = 0.05 * (high - low or 1)
    frame = Frame(
        (float(steps.min()), float(steps.max())),
        (low - margin, high + margin),
        ("step", "ELBO, nats a record"),
    )
    for value in _round_ticks(low, high):
        frame.y_tick(value, f"{value:,g}")
    for value in _round_ticks(float(steps.min()), float(steps.max())):
        frame.x_tick(value, f"{value:,g}")
    for name, points in series.items():
        frame.line(
            points[:, 0], points[:, 1].clip(min=low), "curve" if name == "heldout_elbo" else "training"
        )
    last = series.get("heldout_elbo", next(iter(series.values())))[-1]
    return frame.svg(f"ELBO over {last[0]:,.0f} steps of training, at the end {last[1]:.4g} nats a record")
