"""Tables <-> what the model sees: scaled values, masks, context, and the terms that need no network.

The default scaling is affine and never clips: a value outside the training limits maps outside [0, 1] and is
scored as such. The likelihoods see standardised values (real and whole columns in units of their training
spread), booleans as 0 and 1, categories as class numbers (0 is 'other').
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vae_core.arrow import numbers
from vae_core.cells import (
    apart_nats,
    by_column,
    codes_of,
    constant,
    fixed_nats,
    missing_nats,
    periodic,
    periods_of,
    standardise,
    typed,
)
from vae_core.columns import MODELLED, Column, survey
from vae_core.errors import InputError
from vae_core.gate import set_apart, temper
from vae_core.vectors import COMPONENTS, VectorDensity

__all__ = ["Encoded", "Feature", "TableEncoding"]

ARGUMENTS = ("ids", "time", "preset", "likelihood", "periods")


@dataclass(frozen=True)
class Feature:
    """One axis of the likelihood: a column, or one class of a column in the lecture's one-hot coding."""

    column: int  # index into the encoding's columns
    likelihood: str
    scale: float = 1.0  # whole: the width of a step; categorical: the number of classes
    category: int = -1  # one-hot: the class; else -1


@dataclass
class Encoded:
    """A batch of records as the model takes it; n records, m features."""

    values: np.ndarray  # (n, m) float64; 0 where missing
    mask: np.ndarray  # (n, m) bool; False = missing
    context: np.ndarray  # (n, c) float32: periodic functions of the timestamp
    fixed: np.ndarray  # (n, columns) float64: nats of missingness and of columns outside the network
    n_missing: np.ndarray  # (n,) int32
    n_out_of_range: np.ndarray  # (n,) int32
    n_unseen: np.ndarray  # (n,) int32


class TableEncoding:
    """The table's schema as learnt from training rows, and the maps to and from the model's values.

    `preset="default"`: one feature for each column, each with the likelihood of its kind. `preset="lecture"`:
    min-max scaling to [0, 1], categories one-hot, every feature Bernoulli (the lecture's m sigmoid outputs).
    """

    def __init__(
        self,
        columns: Sequence[Column],
        *,
        ids: Sequence[str] = (),
        time: str | None = None,
        preset: str = "default",
        likelihood: str | None = None,
        periods: Sequence[str] = (),
        vectors: Mapping[str, VectorDensity] | None = None,
    ) -> None:
        self.vectors = dict(vectors or {})  # by column; `training` learns them from the records that it fits
        self.described = list(columns)
        self.ids = tuple(ids)
        self.time = time
        self.preset = preset
        self.likelihood = likelihood
        self.periods = tuple(periods)
        self.features = [f for i, c in enumerate(self.described) for f in self._features(i, c)]
        if not self.features:
            reasons = ", ".join(f"{c.name} ({c.kind})" for c in self.described)
            raise InputError(f"no column can be learnt from: {reasons or 'there are none'}")

    @classmethod
    def fit(
        cls,
        batches: Iterable[pa.RecordBatch],
        *,
        ids: Sequence[str] = (),
        time: str | None = None,
        kinds: Mapping[str, str] | None = None,
        preset: str = "default",
        likelihood: str | None = None,
        random_state: int = 0,
    ) -> TableEncoding:
        """Learn kinds, limits, categories and missing rates in one pass over training rows.

        `time` names the timestamp that serves as context (by default the only or first one). `likelihood`
        replaces the Gaussian of real columns ("bernoulli", "continuous_bernoulli": on [0, 1] by min-max).
        """
        scaling = "minmax" if preset == "lecture" or likelihood else "robust"
        rows = (_user_columns(b) for b in batches)
        columns, sample = survey(rows, keys=ids, kinds=kinds, scaling=scaling, random_state=random_state)
        stamps = [c.name for c in columns if c.kind == "timestamp"]
        if time is not None and time not in stamps:
            raise InputError("is not a timestamp column", column=time)
        time = time or (stamps[0] if stamps else None)
        if preset != "default" or likelihood:
            for column in (c for c in columns if c.kind == "vector"):
                raise InputError(
                    "holds vectors, whose likelihood is Gaussian",
                    column=column.name,
                    fix="Leave the preset and the likelihood out, or name the column's kind: label",
                )
        periods = periods_of(next(c for c in columns if c.name == time)) if time else ()
        if preset == "default":
            declared = list(kinds or {})
            apart = set_apart(columns, sample, declared=declared, time=time, periods=periods)
            for column in columns:
                column.apart = apart.get(column.name, "")
                column.temper = temper(len(apart)) if column.apart else 0.0
        return cls(columns, ids=ids, time=time, preset=preset, likelihood=likelihood, periods=periods)

    def _features(self, index: int, column: Column) -> list[Feature]:
        if not column.modelled:
            return []
        if column.kind == "category":
            if self.preset == "lecture":
                return [Feature(index, "bernoulli", category=k) for k in range(len(column.categories))]
            return [Feature(index, "categorical", scale=float(len(column.categories) + 1))]
        if column.kind == "vector":
            known = self.vectors.get(column.name)
            return [Feature(index, "gaussian")] * (known.components if known else COMPONENTS)
        if self.preset == "lecture" or column.kind == "boolean":
            return [Feature(index, "bernoulli")]
        if self.likelihood:
            return [Feature(index, self.likelihood)]
        if column.kind == "whole":
            return [Feature(index, "whole", scale=1 / column.spread)]
        return [Feature(index, "gaussian")]

    @property
    def columns(self) -> dict[str, str]:
        """Name -> type of every column of the input, in order: what a scoring run must bring."""
        return {c.name: c.type for c in self.described}

    @property
    def kinds(self) -> dict[str, str]:
        return {c.name: c.kind for c in self.described}

    @property
    def left_out(self) -> dict[str, str]:
        """Columns that take no part in the score, or only break its ties, with the reason."""
        reasons = {c.name: c.kind for c in self.described if c.kind in ("identifier", "text", "label")}
        reasons |= {name: "the key" for name, kind in reasons.items() if name in self.ids and kind != "label"}
        stamps = [c.name for c in self.described if c.kind == "timestamp" and c.name != self.time]
        apart = {c.name: c.apart for c in self.described if c.apart}
        return reasons | dict.fromkeys(stamps, "a second timestamp") | apart

    @property
    def context_width(self) -> int:
        return sum({"hour": 4, "weekday": 2, "season": 2}[p] for p in self.periods)

    @property
    def log_jacobian(self) -> float:
        """Nats to add to a complete record's bound for a density in the user's units (wholes: a mass)."""
        return -float(sum(self.log_units))

    @property
    def log_units(self) -> list[float]:
        """Of each feature: the log of its unit in the user's units; of a vector all its numbers' units."""
        return [self._log_unit(feature) for feature in self.features]

    def _log_unit(self, feature: Feature) -> float:
        column = self.described[feature.column]
        if column.kind == "vector":
            known = self.vectors[column.name]
            return known.width * known.log_scale / known.components
        if feature.likelihood in ("gaussian", "whole"):
            return math.log(column.spread)
        return math.log(column.high - column.low) if feature.likelihood == "continuous_bernoulli" else 0.0

    def encode(self, batch: pa.RecordBatch | pa.Table) -> Encoded:
        """A batch with this schema -> values, masks, context, fixed terms and counts.

        Raises InputError if a column is missing.
        """
        n, m = batch.num_rows, len(self.features)
        encoded = Encoded(
            values=by_column(n, m),
            mask=by_column(n, m, True),
            context=np.zeros((n, self.context_width), np.float32),
            fixed=by_column(n, len(self.described)),
            n_missing=np.zeros(n, np.int32),
            n_out_of_range=np.zeros(n, np.int32),
            n_unseen=np.zeros(n, np.int32),
        )
        names = set(batch.schema.names)
        start = 0
        for index, column in enumerate(self.described):
            width = (
                sum(f.column == index for f in self.features) if column.kind in ("category", "vector") else 1
            )
            if column.name not in names:
                raise InputError("is missing", column=column.name, fix="The model was trained with it")
            array = batch.column(column.name)
            if column.modelled:
                self._encode_column(encoded, index, slice(start, start + width), array)
                start += width
            elif column.fixed:
                nats, missing, differs = (
                    apart_nats(column, array) if column.apart else fixed_nats(column, array)
                )
                encoded.fixed[:, index] = nats
                encoded.n_missing += missing & (column.kind != "empty")
                strange = encoded.n_out_of_range if column.kind == "boolean" else encoded.n_unseen
                strange += differs
            elif column.name == self.time:
                encoded.n_missing += np.asarray(pc.is_null(array).to_numpy(zero_copy_only=False))
                if self.periods:
                    encoded.context[:] = periodic(numbers(array), self.periods)
        return encoded

    def _encode_column(self, encoded: Encoded, index: int, place: slice, array: pa.ChunkedArray) -> None:
        column = self.described[index]
        nats: np.ndarray | float = 0.0
        if column.kind == "vector":
            encoded.values[:, place], nats, missing = self.vectors[column.name].encode(array)
        elif column.kind == "category":
            codes, missing = codes_of(column, array)
            encoded.n_unseen += (codes == 0) & ~missing
            if self.preset == "lecture":
                encoded.values[:, place] = codes[:, None] == np.arange(1, len(column.categories) + 1)
            else:
                encoded.values[:, place] = codes[:, None]
        else:
            values = numbers(array)
            missing = np.isnan(values)
            outside = (values < column.low) | (values > column.high)
            if column.kind == "boolean":
                outside = ~np.isin(values, (0, 1))
                model_values = np.where(outside, 2.0, values)  # neither true nor false: beyond the support
            else:
                unit_interval = self.preset == "lecture" or self.likelihood is not None
                model_values = self._scaled(column, values) if unit_interval else standardise(column, values)
            encoded.n_out_of_range += outside & ~missing
            encoded.values[:, place] = model_values[:, None]
        if missing.any():
            encoded.values[missing, place] = 0
            encoded.mask[:, place] = ~missing[:, None]
            encoded.n_missing += missing
        encoded.fixed[:, index] = missing_nats(column, missing) + nats
        if self.features[place.start].likelihood == "whole":
            # A mass over the step's width: as for real columns, a missing cell is not favoured by the unit.
            encoded.fixed[~missing, index] += math.log(column.spread)

    @staticmethod
    def _scaled(column: Column, values: np.ndarray) -> np.ndarray:
        """Position between the limits; halves, since the largest numbers' differences overflow."""
        with np.errstate(over="ignore", invalid="ignore"):
            return (0.5 * values - 0.5 * column.low) / (0.5 * column.high - 0.5 * column.low)

    def transform(self, batch: pa.RecordBatch | pa.Table) -> tuple[np.ndarray, np.ndarray]:
        """A batch -> values in [0, 1]^m (outside where a value is out of range) and the mask (n, m).

        Real and whole columns by their limits, booleans as 0 and 1, categories one-hot. Missing cells are 0
        with mask False.
        """
        values, masks = [], []
        for column in (c for c in self.described if c.kind in MODELLED):
            if column.kind == "category":
                codes, missing = codes_of(column, batch.column(column.name))
                values.append((codes[:, None] == np.arange(1, len(column.categories) + 1)).astype(np.float64))
            else:
                raw = numbers(batch.column(column.name))
                missing = np.isnan(raw)
                scaled = raw if column.kind == "boolean" else self._scaled(column, raw)
                values.append(np.where(missing, 0, scaled)[:, None])
            masks.append(np.repeat(~missing[:, None], values[-1].shape[1], axis=1))
        return np.concatenate(values, axis=1), np.concatenate(masks, axis=1)

    def inverse_transform(self, values: np.ndarray, mask: np.ndarray | None = None) -> pa.Table:
        """The way back from `transform`: values in [0, 1]^m -> a table in the user's units and types.

        A category is the class with the largest value, or 'other' where all are 0. As in `decode`, only the
        modelled columns and constants come back; a cell with mask False is null.
        """
        cells: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        start = 0
        for index, column in ((i, c) for i, c in enumerate(self.described) if c.kind in MODELLED):
            width = len(column.categories) if column.kind == "category" else 1
            block = values[:, start : start + width]
            seen = np.ones(len(values), bool) if mask is None else mask[:, start]
            start += width
            if column.kind == "category":
                own = np.where(block.max(1) > 0, block.argmax(1) + 1, 0).astype(float)
            elif column.kind == "boolean":
                own = block[:, 0]
            else:
                own = column.low * (1 - block[:, 0]) + column.high * block[:, 0]
            cells[index] = own, seen
        return self._table(len(values), cells)

    def decode(
        self,
        values: np.ndarray,
        mask: np.ndarray | None = None,
        *,
        generator: np.random.Generator | None = None,
    ) -> pa.Table:
        """The way back from `encode`: model values (n, m) -> a table in the user's units and types.

        Only the modelled columns and constants come back; a cell with mask False is null. What a vector has
        outside its features lies at the mean, or is drawn where there is a `generator`.
        """
        cells: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        owner = np.array([feature.column for feature in self.features])
        for index, column in enumerate(self.described):
            if not column.modelled:
                continue
            block = values[:, owner == index]
            seen = np.ones(len(values), bool) if mask is None else np.asarray(mask[:, owner == index].all(1))
            own = block[:, 0]
            if column.kind == "vector":
                own = self.vectors[column.name].decode(block, generator)
            elif column.kind == "category" and self.preset == "lecture":
                own = np.where(block.max(1) > 0, block.argmax(1) + 1, 0)
            elif column.kind in ("real", "whole"):
                if self.preset == "lecture" or self.likelihood is not None:
                    own = column.low * (1 - own) + column.high * own
                else:
                    own = column.mean + own * column.spread
            cells[index] = own, seen
        return self._table(len(values), cells)

    def _table(self, rows: int, cells: Mapping[int, tuple[np.ndarray, np.ndarray]]) -> pa.Table:
        """Cells (values, observed) by column in the user's units, categories as numbers; constants too."""
        arrays: dict[str, pa.Array] = {}
        for index, column in enumerate(self.described):
            if column.kind == "constant":
                arrays[column.name] = constant(column, rows)
            elif index in cells:
                arrays[column.name] = typed(cells[index][0], column, ~cells[index][1])
        return pa.table(arrays)

    def to_json(self) -> dict[str, Any]:
        return {
            "columns": [c.to_json() for c in self.described],
            "ids": list(self.ids),
            "time": self.time,
            "preset": self.preset,
            "likelihood": self.likelihood,
            "periods": list(self.periods),
        }

    @classmethod
    def from_json(
        cls, document: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None
    ) -> TableEncoding:
        """The way back from `to_json` and, where columns hold vectors, from `arrays`."""
        columns = [Column.from_json(c) for c in document["columns"]]
        rest = {k: document[k] for k in ARGUMENTS}
        own: dict[str, dict[str, np.ndarray]] = {}
        for name, array in (arrays or {}).items():
            place, what = name.split(".")
            own.setdefault(columns[int(place)].name, {})[what] = array
        return cls(columns, **rest, vectors={n: VectorDensity.from_arrays(a) for n, a in own.items()})

    def arrays(self) -> dict[str, np.ndarray]:
        """What JSON is too small for: the vectors' densities, by the column's place."""
        places = {c.name: i for i, c in enumerate(self.described)}
        return {
            f"{places[name]}.{what}": array
            for name, known in self.vectors.items()
            for what, array in known.arrays().items()
        }

    def with_vectors(self, vectors: Mapping[str, VectorDensity]) -> TableEncoding:
        """The same encoding with what was learnt about its columns of vectors."""
        return TableEncoding(self.described, **{k: getattr(self, k) for k in ARGUMENTS}, vectors=vectors)


def _user_columns(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Without the record's identity (`_record_id`, `_source`, `_row`), which ingest adds."""
    names = [n for n in batch.schema.names if n not in ("_record_id", "_source", "_row")]
    return batch.select(names)
