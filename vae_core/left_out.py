"""Vectors' densities that are learnt from held-out records too, which are scored as if they were left out.

With fewer vectors than numbers in them each one counts: of 250 the tenth that calibrates and the tenth that
chooses the best state are too many to do without. But of the records it is learnt from a density says more
than of others, so that a held-out record gets the features and the nats it would have had without it, in
closed form: leaving x out of n vectors changes mean and covariance S to

    x - mean' = c (x - mean),   S' = c (S - t t' / (n - 1)),   t = x - mean,   c = n / (n - 1),

at the same shrinkage: the distance from Sherman and Morrison's formula, the principal components from the
secular equation of a change of rank one (Golub 1973, "Some modified matrix eigenvalue problems", SIAM Review
15, 318-334).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import pyarrow as pa

from vae_core.arrow import vector_width, vectors
from vae_core.encoding import Encoded, TableEncoding
from vae_core.errors import InputError
from vae_core.records import MOST_CELLS, TrainingRecords, finite, joined, split_rows
from vae_core.vectors import MOST_NUMBERS, VectorDensity, finite_features

__all__ = ["HeldOut", "LeftOut", "learn_vectors"]

MOST_LEFT_OUT = 5000  # records; of more of them a tenth or two is no loss
# A model's records that no training has seen are what a later model is compared on, from so many on.
# With fewer there is nothing to keep them for, and the vectors' density takes those that calibrate too.
ENOUGH_TO_COMPARE = 50
HALVINGS = 60
TINY = 1e-300


@dataclass(frozen=True)
class LeftOut(VectorDensity):
    """A density learnt from `learnt` vectors, which encodes each one of them as if it had not been there."""

    learnt: int = 0

    @classmethod
    def of(cls, known: VectorDensity, learnt: int) -> LeftOut:
        return cls(**{f.name: getattr(known, f.name) for f in fields(VectorDensity)}, learnt=learnt)

    def _parts(self, projections: np.ndarray, total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates y (b, r) and squared distances (b,) -> features (b, k), the others' squares (b,)."""
        if self.learnt < 3:
            return super()._parts(projections, total)
        n, s, y = self.learnt, self.shrinkage, projections
        c, share = n / (n - 1), 1 / (n - 1)
        values = (self.variances - self.rest).clip(min=0) / max(1 - s, TINY)
        average = self.rest / s if s > 0 else 0.0
        rest = c * (s * average - s * share * total / self.width)
        rest = np.maximum(rest, 1e-9 * self.rest)[:, None]
        diagonal = (1 - s) * c * values + rest
        q = (np.square(y) / diagonal).sum(1)
        if self.width > len(self.variances):
            q += (total - np.square(y).sum(1)).clip(min=0) / rest[:, 0]
        squared = c * c * q / np.maximum(1 - (1 - s) * c * share * q, 1e-12)
        if 1 - s > 1e-6:
            coordinates, roots = _without(values, y, share, self.components)
        else:  # a sphere: any directions will do
            coordinates, roots = y[:, : self.components], np.zeros((1, self.components))
        features = c * coordinates / np.sqrt((1 - s) * c * roots + rest)
        return finite_features(features), (squared - np.square(features).sum(1)).clip(min=0)


def _without(values: np.ndarray, y: np.ndarray, share: float, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The first k eigenvalues of diag(values) - share y y' and y's coordinates there: (b, r) -> (b, k) each.

    The values fall. An eigenvalue lies below its value by delta, up to the next value, where
    share sum_j y_j^2 / (values_j - value_k + delta) = 1, which rises with delta: halved until it is found.
    Its direction is y_j / (values_j - value_k + delta), here with the sign of direction k.
    """
    size = np.sqrt(np.square(y).sum(1, keepdims=True))
    y = np.where(np.abs(y) < 1e-8 * size, np.where(y < 0, -1e-8, 1e-8) * size, y)  # no root falls on a value
    apart = values[None, :] - values[:k, None]
    low = np.zeros((len(y), k))
    high = np.broadcast_to(values[:k] - np.append(values, 0.0)[1 : k + 1], low.shape)
    for _ in range(HALVINGS):
        delta = 0.5 * (low + high)
        with np.errstate(divide="ignore", invalid="ignore"):
            total = share * (np.square(y)[:, None, :] / (apart + delta[..., None])).sum(-1)
        below = total > 1
        low, high = np.where(below, delta, low), np.where(below, high, delta)
    delta = np.maximum(0.5 * (low + high), 1e-15 * values[0] + TINY)
    distance = apart + delta[..., None]
    direction = y[:, None, :] / np.where(np.abs(distance) < TINY, TINY, distance)
    length = np.sqrt(np.square(direction).sum(-1)) + TINY
    coordinates = (direction * y[:, None, :]).sum(-1) / length * np.sign(y[:, :k])
    return coordinates, values[:k] - delta


@dataclass(frozen=True)
class HeldOut:
    """Held-out records that vectors' densities were learnt from: rows of the stream, and their encoding."""

    encoding: TableEncoding
    selection: np.ndarray
    calibration: np.ndarray  # empty: they took no part

    def encode(
        self, records: TrainingRecords, batches: Callable[[], Iterator[pa.RecordBatch]]
    ) -> TrainingRecords:
        """The training records with these as if they had been left out, and known as trained on."""
        selection = self._encoded(batches(), self.selection)
        if not len(self.calibration):
            return replace(records, selection=selection)
        return replace(
            records,
            selection=selection,
            calibration=self._encoded(batches(), self.calibration),
            identities=np.union1d(records.identities, records.held_out),
        )

    def _encoded(self, batches: Iterator[pa.RecordBatch], rows: np.ndarray) -> Encoded:
        parts, first = [], 0
        for batch in batches:
            own = rows[(rows >= first) & (rows < first + batch.num_rows)] - first
            first += batch.num_rows
            parts.append(finite(self.encoding.encode(batch.take(pa.array(own))), self.encoding))
        return joined(parts)


def learn_vectors(
    encoding: TableEncoding,
    batches: Callable[[], Iterator[pa.RecordBatch]],
    fractions: tuple[float, float],
    random_state: int,
) -> tuple[TableEncoding, HeldOut | None]:
    """The encoding with its vectors' densities, and the held-out records they were learnt from, if any.

    Of up to 5,000 records those that choose the best state take part, and those that calibrate too where they
    are fewer than 50. Of more the density is learnt from the fitted records alone.
    """
    columns = [c for c in encoding.described if c.kind == "vector"]
    if not columns:
        return encoding, None
    fit, selection, calibration = split_rows(batches(), *fractions, random_state)
    most = max(1000, MOST_NUMBERS // max(vector_width(c.type) for c in columns))
    rows, nobody = fit[:most], fit[:0]
    few = min(MOST_LEFT_OUT, most, MOST_CELLS // len(encoding.features))
    together = len(selection) > 0 and len(fit) + len(selection) + len(calibration) <= few
    if together:
        calibration = calibration if len(calibration) < ENOUGH_TO_COMPARE else nobody
        rows = np.concatenate([fit, selection, calibration])
    found = _vectors_of([c.name for c in columns], batches(), np.sort(rows))
    learnt = {name: VectorDensity.fit(x) for name, x in found.items()}
    if not together:
        return encoding.with_vectors(learnt), None
    apart = encoding.with_vectors({name: LeftOut.of(learnt[name], len(x)) for name, x in found.items()})
    return encoding.with_vectors(learnt), HeldOut(apart, np.sort(selection), np.sort(calibration))


def _vectors_of(
    names: list[str], batches: Iterator[pa.RecordBatch], rows: np.ndarray
) -> dict[str, np.ndarray]:
    """The vectors of each column in these rows of a stream, without the missing ones."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    first = 0
    for batch in batches:
        own = rows[(rows >= first) & (rows < first + batch.num_rows)] - first
        first += batch.num_rows
        for name, parts in found.items():
            taken = vectors(batch.column(name).take(pa.array(own)))
            parts.append(taken[~np.isnan(taken[:, 0])])
    joined_up = {name: np.concatenate(parts) for name, parts in found.items()}
    for name, x in joined_up.items():
        if len(x) < 2:
            fix = "Give more rows, or name the column's kind: label"
            raise InputError("has fewer than two vectors to learn from", column=name, fix=fix)
    return joined_up
