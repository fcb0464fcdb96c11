"""Why a record is strange: each column's surprise in nats, what was expected instead, and one sentence.

The explanation is exact: the bound is the sum of the columns' contributions minus the KL and what the tilt
charges (`tilt_nats`). A column's surprise is how far its contribution lies below that column's median on
held-out records.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa

from vae_core.arrow import TYPES, numbers, texts
from vae_core.columns import Column
from vae_core.imputation import NORMAL_90
from vae_core.repair import Suspects, suspects
from vae_core.scoring import FittedModel

__all__ = ["COMBINATION", "REASON", "chosen", "explain"]

COMBINATION = "(unusual combination)"  # the KL's entry among the reasons
REASON = pa.struct(
    [
        ("feature", pa.string()),
        ("value", pa.string()),
        ("expected", pa.string()),
        ("low", pa.string()),
        ("high", pa.string()),
        ("value_number", pa.float64()),
        ("nats", pa.float64()),
        ("typical", pa.float64()),
    ]
)
SENTENCE_REASONS = 3
NOTHING = 0.05  # nats, which round to 0
SMALL = 0.05  # of the largest deficit: what costs less is not told in the sentence


def explain(model: FittedModel, table: pa.Table, *, top: int = 5) -> pa.Table:
    """Reasons for each record of a table: columns why, reasons (at most `top`), rest_nats, tilt_nats.

    First come the columns of the three largest deficits, and missing cells, by what the record would gain if
    that cell alone were what the others imply (`repair`); then the others, the largest deficit first. A cell
    without a deficit is no reason, unless nothing else is or it is missing and its repair mends the record
    most. The column of the largest deficit is among the first three.

    The nats of the reasons + rest_nats = the record's bound; tilt_nats is the part of the rest that the tilt
    charges for being far out as a whole. `expected` is the decoder's mean (for a category the most probable
    one) with the cell itself hidden, `low` to `high` the central 80 % of P(x|z), as wide as held-out records
    need it and no wider than training's values, in the user's units; `nats` is the contribution to the bound,
    `typical` its median on held-out records.
    """
    encoded = model.encoding.encode(table)
    parts = model.evaluate(encoded)
    typical = model.calibration.typical
    usual = np.array([typical.get(name, 0.0) for name in model.encoding.columns] + [typical.get("kl", 0.0)])
    nats = np.c_[parts.nats, parts.kl_nats]
    deficit = usual - nats
    silent = [not (c.modelled or c.fixed) for c in model.encoding.described]
    deficit[:, [*silent, False]] = -np.inf  # what takes no part in the score is no reason
    found = suspects(model, encoded, deficit)
    cells = [_Cells(model, table, index) for index in range(len(model.encoding.described))]
    reasons, why, rest = [], [], []
    for row in range(table.num_rows):
        first = {int(found.columns[row, k]): k for k in found.ordered(row)}
        entries = []
        for j in chosen(found, row, deficit[row], top):
            mean, variance = found.moments[first[j]] if j in first else (None, None)
            own = cells[j].describe(row, mean, variance) if j < len(cells) else {"feature": COMBINATION}
            nats_here = {"nats": float(nats[row, j]), "typical": float(usual[j])}
            entries.append({**dict.fromkeys(REASON.names), **own, **nats_here})
        reasons.append(entries)
        why.append(sentence(entries))
        rest.append(float(parts.scores.bound[row] - sum(entry["nats"] for entry in entries)))
    return pa.table(
        {
            "why": pa.array(why, pa.string()),
            "reasons": pa.array(reasons, pa.list_(REASON)),
            "rest_nats": pa.array(rest, pa.float64()),
            "tilt_nats": pa.array(parts.tilt_nats, pa.float64()),
        }
    )


def chosen(found: Suspects, row: int, deficit: np.ndarray, top: int) -> list[int]:
    """The columns to name for one record, at most `top`; the index after the last is the KL."""
    largest = int(deficit.argmax())
    named: list[int] = []
    for place, k in enumerate(found.ordered(row)):
        own = deficit[found.columns[row, k]]
        surprising = own > 0 and not (found.missing[row, k] and own < SMALL * deficit[largest])
        # A missing cell that hardly costs anything is to blame where its repair mends what costs the most.
        to_blame = (
            place == 0 and found.missing[row, k] and found.gains[row, k] > max(deficit[largest], NOTHING)
        )
        if surprising or to_blame:
            named.append(int(found.columns[row, k]))
    order = np.argsort(-deficit, kind="stable")[: top + len(named)]
    named += [int(j) for j in order if deficit[j] > 0 and j not in named]
    last_named = min(SENTENCE_REASONS, top) - 1
    if last_named > 0 and largest in named[last_named + 1 :]:
        named.remove(largest)
        named.insert(last_named, largest)
    return (named or [int(found.columns[row, k]) for k in found.ordered(row)[:1]])[:top]


def sentence(reasons: list[dict[str, Any]]) -> str:
    """One line for a person: `wind_speed 1048, expected 9 (3 to 19): -5,210 nats; ...`."""
    clauses: list[str] = []
    largest = max((entry["typical"] - entry["nats"] for entry in reasons), default=0.0)
    if largest < NOTHING:
        return "nothing stands out"
    for entry in reasons[:SENTENCE_REASONS]:
        deficit = entry["typical"] - entry["nats"]
        if clauses and deficit < SMALL * largest:
            continue
        clauses.append(_clause(entry, deficit))
    return "; ".join(clauses)


def _clause(entry: dict[str, Any], deficit: float) -> str:
    cost = f"{-deficit:+,.1f} nats" if abs(deficit) < 100 else f"{-deficit:+,.0f} nats"
    if entry["feature"] == COMBINATION:
        return f"an unusual combination of values: {cost}"
    text = f"{entry['feature']} {entry['value']}"
    if entry["expected"] is not None:
        text += f", expected {entry['expected']}"
    if entry["low"] is not None:
        text += f" ({entry['low']} to {entry['high']})"
    return f"{text}: {cost}" if deficit >= NOTHING else text  # a missing cell may cost its relatives only


class _Cells:
    """One column of the explained table: its values, and what the model expected, in the user's units."""

    def __init__(self, model: FittedModel, table: pa.Table, index: int) -> None:
        encoding = model.encoding
        self.column: Column = encoding.described[index]
        self.features = [j for j, f in enumerate(encoding.features) if f.column == index]
        self.one_hot = encoding.preset == "lecture"
        self.unit_interval = encoding.preset == "lecture" or encoding.likelihood is not None
        self.widening = model.calibration.ranges.get(self.column.name, 1.0)
        array = table.column(self.column.name)
        textual = self.column.kind == "category" or self.column.type in ("string", "int64")
        self.texts = texts(array).to_pylist() if textual else None
        self.known = encoding.vectors.get(self.column.name)
        if self.known is not None:
            self.numbers = self.known.spreads(array)
        else:
            plain = self.column.type in TYPES and self.column.type != "string"
            self.numbers = numbers(array) if plain else np.full(len(array), np.nan)

    def describe(self, row: int, mean: np.ndarray | None, variance: np.ndarray | None) -> dict[str, Any]:
        """Feature, value, expected value and range of one cell, from the decoder's moments (n, features)."""
        column = self.column
        number = float(self.numbers[row])
        entry: dict[str, Any] = {"feature": column.name, "value": self._value(row)}
        entry["value_number"] = None if math.isnan(number) else number
        if self.known is not None:
            entry["expected"] = "1"
        elif column.fixed:
            entry["expected"] = self._fixed()
        elif column.kind == "category" and mean is not None:
            entry["expected"] = self._expected_category(mean[row, self.features])
        elif column.modelled and mean is not None and variance is not None:
            j = self.features[0]
            self._expected_number(entry, float(mean[row, j]), math.sqrt(max(0.0, variance[row, j])))
        return entry

    def _value(self, row: int) -> str:
        if self.texts is not None:
            return "missing" if self.texts[row] is None else self.texts[row]
        number = float(self.numbers[row])
        if self.known is not None and not math.isnan(number):
            return f"{number:.3g} spreads from the mean"
        return "missing" if math.isnan(number) else self._number(number + 0.0)

    def _fixed(self) -> str:
        if self.column.kind == "empty":
            return "missing"
        if self.column.kind == "category":
            return self.column.categories[0]
        if self.column.kind == "boolean":
            return self._number(float(self.column.mean >= 0.5))
        return self._number(self.column.minimum) if self.column.constant is None else self.column.constant

    def _expected_category(self, mean: np.ndarray) -> str:
        code = int(mean.argmax()) + 1 if self.one_hot else int(mean[0])
        return ["other", *self.column.categories][code]

    def _expected_number(self, entry: dict[str, Any], mean: float, deviation: float) -> None:
        column = self.column
        if column.kind == "boolean":
            entry["expected"] = self._number(float(mean >= 0.5))
            return
        half = NORMAL_90 * self.widening * deviation
        low, high = mean - half, mean + half
        if self.unit_interval:
            low, high = max(low, 0.0), min(high, 1.0)
        start, unit = column.mean, column.spread
        if self.unit_interval:
            start, unit = column.low, column.high - column.low
        for name, value in (("expected", mean), ("low", low), ("high", high)):
            # Rain is never expected to be negative, nor a direction beyond 360 degrees.
            rounded = min(max(self._rounded(start + value * unit), column.minimum), column.maximum)
            entry[name] = self._number(float(round(rounded)) if column.kind == "whole" else rounded)

    def _rounded(self, number: float) -> float:
        """To about a hundredth of the column's spread: more digits would pretend to more precision."""
        return round(number, 1 - math.floor(math.log10(self.column.spread))) + 0.0

    def _number(self, number: float) -> str:
        if self.column.type == "bool":
            return "true" if number >= 0.5 else "false"
        if number.is_integer() and abs(number) < 1e15:
            return f"{number:.0f}"
        return f"{number:.6g}"
