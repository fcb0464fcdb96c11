"""Which cell is to blame: what a record's bound gains when one cell becomes what the others imply.

Where columns depend on each other, one wrong cell makes its relatives look wrong too, often more than itself.
The cell whose repair brings the whole record back to what is usual is the better reason.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from vae_core.encoding import Encoded, TableEncoding
from vae_core.imputation import DRAWS, expected_given_others
from vae_core.records import joined, take
from vae_core.scoring import FittedModel

__all__ = ["PRESENT", "Suspects", "suspects"]

PRESENT = 3  # columns of the largest deficits
ABSENT = 2  # missing cells, those first that training misses least: their own term may say nothing
USUALLY = 0.5  # of training's rows: where a column's cells are missing as often, one is nothing strange


@dataclass(frozen=True)
class Suspects:
    """Columns that may be to blame, for each of n records; the index after the last is the KL, -1 nothing."""

    columns: np.ndarray  # (n, k)
    gains: np.ndarray  # (n, k), nats; -inf for nothing
    missing: np.ndarray  # (n, k): whether the cell is missing
    moments: list[tuple[np.ndarray, np.ndarray]]  # k times: expected mean and variance, (n, features) each

    def ordered(self) -> list[list[int]]:
        """Places of each record's suspects, the largest gain first."""
        places = np.argsort(-self.gains, axis=1, kind="stable").tolist()
        return [
            [k for k in order if own[k] >= 0]
            for order, own in zip(places, self.columns.tolist(), strict=True)
        ]


def suspects(model: FittedModel, encoded: Encoded, deficit: np.ndarray) -> Suspects:
    """Columns with the largest `deficit` (n, columns + 1) and missing cells, with what their repair gains.

    The gain is what the other contributions gain, plus the cell's own deficit: as if the repaired cell were
    as usual. A missing cell's own counts where it was rare in training. Of the KL, and of columns outside the
    network, nothing can be repaired: the gain is the deficit.
    """
    columns = np.argsort(-deficit, axis=1, kind="stable")[:, :PRESENT]
    rates = np.array([c.missing / max(1, c.rows) for c in model.encoding.described] + [1.0])
    missing = _missing(model.encoding, encoded)
    gone = missing & (rates < USUALLY)
    np.put_along_axis(gone, columns, False, axis=1)
    rarest = np.argsort(np.where(gone, rates, np.inf), axis=1, kind="stable")[:, :ABSENT]
    columns = np.c_[columns, np.where(np.take_along_axis(gone, rarest, axis=1), rarest, -1)]
    judge = (model.with_members(["vae"]) if "vae" in model.weights else model).with_draws(DRAWS).of_few()
    before = _contributions(judge, encoded)
    usual = [judge.calibration.typical.get(name, 0.0) for name in (*model.encoding.columns, "kl")]
    rare = np.array([c.missing_is_rare for c in model.encoding.described] + [True])
    own = np.where(missing & ~rare, 0.0, np.array(usual) - before)
    own[np.isneginf(deficit)] = -np.inf
    gains = np.where(columns < 0, -np.inf, np.take_along_axis(own, columns, axis=1))
    modelled = np.array([c.modelled for c in model.encoding.described] + [False])
    moments, repaired, places = [], [], []
    for k in range(columns.shape[1]):
        rows = np.flatnonzero((columns[:, k] >= 0) & modelled[columns[:, k]])
        mean, variance = np.zeros(encoded.values.shape), np.zeros(encoded.values.shape)
        if len(rows):
            some = take(encoded, rows)
            mean[rows], variance[rows] = expected_given_others(model, some, columns[rows, k])
            repaired.append(_repaired(model.encoding, some, columns[rows, k], mean[rows]))
            places.append((rows, k))
        moments.append((mean, variance))
    if repaired:
        rows = np.concatenate([rows for rows, _ in places])
        place = np.concatenate([np.full(len(rows), k) for rows, k in places])
        change = _contributions(judge, joined(repaired)) - before[rows]
        change[np.arange(len(rows)), columns[rows, place]] = 0
        gains[rows, place] += change.sum(1)
    return Suspects(columns, gains, np.take_along_axis(missing, columns, axis=1), moments)


def _contributions(model: FittedModel, encoded: Encoded) -> np.ndarray:
    """Nats of each column and, last, of the KL: (n, columns + 1)."""
    parts = model.evaluate(encoded)
    return np.c_[parts.nats, parts.kl_nats]


def _missing(encoding: TableEncoding, encoded: Encoded) -> np.ndarray:
    """Whether a modelled column's cell is missing: (n, columns + 1), the last for the KL."""
    missing = np.zeros((len(encoded.values), len(encoding.described) + 1), bool)
    for j, feature in enumerate(encoding.features):
        missing[:, feature.column] |= ~encoded.mask[:, j]
    return missing


def _repaired(encoding: TableEncoding, encoded: Encoded, column: np.ndarray, mean: np.ndarray) -> Encoded:
    """The records with one column's cell as expected, a yes or no or a whole number where those are meant."""
    hidden = np.array([f.column for f in encoding.features])[None, :] == column[:, None]
    expected = mean.copy()
    for j, feature in enumerate(encoding.features):
        own = encoding.described[feature.column]
        if feature.likelihood == "whole":
            expected[:, j] = (np.rint(own.mean + own.spread * mean[:, j]) - own.mean) / own.spread
        elif own.kind == "boolean":
            expected[:, j] = mean[:, j] >= 0.5
    values = np.where(hidden, expected, encoded.values)
    return replace(encoded, values=values, mask=encoded.mask | hidden)
