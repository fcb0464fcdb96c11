"""Why a record is strange: each column's surprise in nats, what was expected instead, and one sentence.

The explanation is exact: the bound is the sum of the columns' contributions minus the KL and what the tilt
charges (`tilt_nats`). A column's surprise is how far its contribution lies below that column's median on
held-out records.
"""

from __future__ import annotations

import math
from itertools import pairwise
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
TOLD = [name for name in REASON.names if name not in ("nats", "typical")]
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
    named = chosen(found, deficit, top)
    rows = np.repeat(np.arange(len(named)), [len(own) for own in named])
    columns = np.array([j for own in named for j in own], np.int64)
    told = {"nats": nats[rows, columns].tolist(), "typical": usual[columns].tolist()}
    told |= _cells(model, table, found, rows, columns)
    ends = np.cumsum([0, *(len(own) for own in named)])
    why, rest, bounds = [], [], parts.scores.bound.tolist()
    for row, (first, last) in enumerate(pairwise(ends.tolist())):
        why.append(sentence({name: values[first:last] for name, values in told.items()}))
        rest.append(bounds[row] - sum(told["nats"][first:last]))
    reasons = [pa.array(told[field.name], field.type) for field in REASON]
    return pa.table(
        {
            "why": pa.array(why, pa.string()),
            "reasons": pa.ListArray.from_arrays(
                pa.array(ends, pa.int32()), pa.StructArray.from_arrays(reasons, fields=list(REASON))
            ),
            "rest_nats": pa.array(rest, pa.float64()),
            "tilt_nats": pa.array(parts.tilt_nats, pa.float64()),
        }
    )


def chosen(found: Suspects, deficit: np.ndarray, top: int) -> list[list[int]]:
    """The columns to name for each record, at most `top`; the index after the last is the KL.

    `deficit` (n, columns + 1) in nats.
    """
    order = np.argsort(-deficit, axis=1, kind="stable")[:, : top + found.columns.shape[1]]
    costs = np.take_along_axis(deficit, order, axis=1).tolist()
    own = np.take_along_axis(deficit, found.columns, axis=1).tolist()
    suspected, gains, missing = found.columns.tolist(), found.gains.tolist(), found.missing.tolist()
    result, combination = [], deficit.shape[1] - 1
    for row, (ordered, by_cost) in enumerate(zip(found.ordered(), order.tolist(), strict=True)):
        largest, most = by_cost[0], costs[row][0]
        named: list[int] = []
        for place, k in enumerate(ordered):
            absent = missing[row][k]
            surprising = own[row][k] > 0 and not (absent and own[row][k] < SMALL * most)
            if suspected[row][k] == combination and largest != combination:
                continue  # it is no cell that could be mended: its place is by its cost
            # A missing cell that costs hardly anything is to blame if its repair mends what costs the most.
            to_blame = place == 0 and absent and gains[row][k] > max(most, NOTHING)
            if surprising or to_blame:
                named.append(suspected[row][k])
        first = top + len(named)
        others = zip(by_cost[:first], costs[row][:first], strict=True)
        named += [j for j, cost in others if cost > 0 and j not in named]
        last_named = min(SENTENCE_REASONS, top) - 1
        if last_named > 0 and largest in named[last_named + 1 :]:
            named.remove(largest)
            named.insert(last_named, largest)
        result.append((named or [suspected[row][k] for k in ordered[:1]])[:top])
    return result


def sentence(reasons: dict[str, list[Any]]) -> str:
    """One line for a person: `wind_speed 1048, expected 9 (3 to 19): -5,210 nats; ...`.

    `reasons` of one record: a list of each of REASON's fields, the likeliest first.
    """
    deficits = [usual - own for usual, own in zip(reasons["typical"], reasons["nats"], strict=True)]
    largest = max(deficits, default=0.0)
    if largest < NOTHING:
        return "nothing stands out"
    clauses: list[str] = []
    for place, deficit in enumerate(deficits[:SENTENCE_REASONS]):
        if not clauses or deficit >= SMALL * largest:
            clauses.append(_clause({name: values[place] for name, values in reasons.items()}, deficit))
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


def _cells(
    model: FittedModel, table: pa.Table, found: Suspects, rows: np.ndarray, columns: np.ndarray
) -> dict[str, list[Any]]:
    """What is to be told of these cells (k,) beside nats; the index after the last column is the KL."""
    suspect = found.columns[rows] == columns[:, None]
    place = np.where(suspect.any(1), suspect.argmax(1), -1)
    told: dict[str, list[Any]] = {name: [None] * len(rows) for name in TOLD}
    for j in np.unique(columns):
        here = np.flatnonzero(columns == j)
        if j == len(model.encoding.described):
            entries: list[dict[str, Any]] = [{"feature": COMBINATION}] * len(here)
        else:
            cells = _Cells(model, table, int(j))
            mean, variance = (np.full((len(here), len(cells.features)), np.nan) for _ in range(2))
            for k, moments in enumerate(found.moments):
                own = np.flatnonzero(place[here] == k)
                cell = np.ix_(rows[here[own]], np.array(cells.features, np.int64))
                mean[own], variance[own] = (values[cell] for values in moments)
            entries = cells.describe(rows[here], mean, variance, (place[here] >= 0).tolist())
        for at, entry in zip(here.tolist(), entries, strict=True):
            for name, value in entry.items():
                told[name][at] = value
    return told


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

    def describe(
        self, rows: np.ndarray, mean: np.ndarray, variance: np.ndarray, told: list[bool]
    ) -> list[dict[str, Any]]:
        """Feature, value, expected value and range of the cells in these rows (k,).

        From the decoder's moments (k, features of the column), which are there where `told`.
        """
        column, fixed = self.column, self._always()
        numbers = self.numbers[rows].tolist()
        values = [self.texts[row] for row in rows.tolist()] if self.texts is not None else None
        codes = self.one_hot and column.kind == "category"
        expected = (mean.argmax(1) + 1.0 if codes else mean[:, :1].sum(1)).tolist()  # no features: no matter
        deviations = np.sqrt(np.maximum(0.0, variance[:, :1].sum(1))).tolist()
        entries = []
        for i, number in enumerate(numbers):
            value = self._value(number) if values is None else values[i]
            entry: dict[str, Any] = {"feature": column.name, "value": "missing" if value is None else value}
            if not math.isnan(number):
                entry["value_number"] = number
            if fixed is not None:
                entry["expected"] = fixed
            elif column.kind == "category" and told[i]:
                entry["expected"] = ["other", *column.categories][int(expected[i])]
            elif column.modelled and told[i]:
                self._expected_number(entry, expected[i], deviations[i])
            entries.append(entry)
        return entries

    def _value(self, number: float) -> str:
        if math.isnan(number):
            return "missing"
        return f"{number:.3g} spreads from the mean" if self.known is not None else self._number(number + 0.0)

    def _always(self) -> str | None:
        """What is expected of every cell, of a column outside the network."""
        if self.known is not None:
            return "1"
        return self._fixed() if self.column.fixed else None

    def _fixed(self) -> str:
        if self.column.kind == "empty":
            return "missing"
        if self.column.kind == "category":
            return self.column.categories[0]
        if self.column.kind == "boolean":
            return self._number(float(self.column.mean >= 0.5))
        return self._number(self.column.minimum) if self.column.constant is None else self.column.constant

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
        if entry["low"] == entry["high"] and column.kind == "real":
            del entry["low"], entry["high"]  # beyond training's values, or narrower than is told: no range

    def _rounded(self, number: float) -> float:
        """To about a hundredth of the column's spread: more digits would pretend to more precision."""
        return round(number, 1 - math.floor(math.log10(self.column.spread))) + 0.0

    def _number(self, number: float) -> str:
        if self.column.type == "bool" and number in (0, 1):  # what a cell holds may be neither
            return "true" if number >= 0.5 else "false"
        if number.is_integer() and abs(number) < 1e15:
            return f"{number:.0f}"
        return f"{number:.6g}"
