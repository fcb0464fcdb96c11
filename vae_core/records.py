"""The training records in memory: encoded, sampled uniformly when there are too many, split in three."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

import numpy as np
import pandas as pd
import pyarrow as pa

from vae_core.arrow import TYPES, numbers, texts, vectors
from vae_core.chance import private_generator
from vae_core.encoding import Encoded, TableEncoding
from vae_core.errors import InputError
from vae_core.sources.cells import convertible, typed

__all__ = [
    "TrainingRecords",
    "are_among",
    "check_enough",
    "finite",
    "gather",
    "hash_numbers",
    "identities",
    "joined",
    "only_keys",
    "split_rows",
    "take",
]

MOST_CELLS = 20_000_000
SPLIT = "what is held out"
FEWEST_TO_SPLIT = 50  # with fewer records all of them are fitted, and nothing is calibrated
NONE_HELD_OUT = (
    f"X has {{}} records, too few to hold some out (from {FEWEST_TO_SPLIT} on): predict goes by the fitted "
    "records and flags more than alpha of new ones"
)
FEW_HELD_OUT = (
    "{} held-out records are too few for a p-value of {}: predict flags what lies below all of them, "
    "more than alpha of new records. Give more records or a larger alpha"
)
MOST_HELD_OUT = 10_000
STREAM_CELLS = 4_000_000  # of a stream: for the linear start, the companions and what is held out
HASHED_AT_ONCE = 8192  # records: what is made of them on the way stays in the processor's cache


@dataclass
class TrainingRecords:
    """Records to fit, records that choose the best state, records that calibrate; `seen` before sampling."""

    fit: Encoded
    selection: Encoded
    calibration: Encoded
    identities: np.ndarray  # (fit + selection,) uint64, sorted: which records the model has been trained on
    seen: int
    held_out: np.ndarray  # (selection + calibration,) uint64, sorted

    def reference(self) -> Encoded:
        """The records to quote figures on: held out from everything if there are any, else those fitted."""
        return self.calibration if len(self.calibration.values) else self.fit


def gather(
    batches: Iterator[pa.RecordBatch],
    encoding: TableEncoding,
    selection_fraction: float,
    calibration_fraction: float,
    random_state: int,
    *,
    most_cells: int = MOST_CELLS,
    know_all: bool = False,
) -> TrainingRecords:
    """Encode a stream and split it at random; of more than `most_cells` a uniform sample is kept.

    Where records have ids, a record's own hash decides: what one training holds out, the next one holds out
    too, so that two versions can be compared on records that neither has seen. With `know_all` the identities
    are those of all records but the ones held out: they will be trained on.
    """
    generator = private_generator(SPLIT, random_state)
    most = max(1000, most_cells // max(1, len(encoding.features)))
    everyone: list[np.ndarray] = []
    kept: list[Encoded] = []
    names: list[np.ndarray] = []
    keys: list[np.ndarray] = []
    held = seen = 0
    for batch in batches:
        kept.append(finite(encoding.encode(batch), encoding))
        names.append(identities(batch))
        if know_all:
            everyone.append(names[-1])
        keys.append(_keys(names[-1], batch.num_rows, generator))
        held += batch.num_rows
        seen += batch.num_rows
        if held > 2 * most:
            kept, names, keys, held = _shrink(kept, names, keys, most)
    kept, names, keys, held = _shrink(kept, names, keys, most)
    order = np.argsort(keys[0], kind="stable")
    selection, calibration = _sizes(held, selection_fraction, calibration_fraction)
    chosen, tuned, rest = np.split(order, [calibration, calibration + selection])
    if know_all:
        trained = _all_but(everyone, names[0][chosen])
    else:
        trained = np.unique(names[0][np.r_[rest, tuned]]) if len(names[0]) else names[0]
    return TrainingRecords(
        fit=take(kept[0], np.sort(rest)),
        selection=take(kept[0], np.sort(tuned)),
        calibration=take(kept[0], np.sort(chosen)),
        identities=trained,
        seen=seen,
        held_out=np.unique(names[0][np.r_[tuned, chosen]]) if len(names[0]) else names[0],
    )


def split_rows(
    batches: Iterator[pa.RecordBatch],
    selection_fraction: float,
    calibration_fraction: float,
    random_state: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of a stream, by number, as `gather` splits it: to fit, to choose, to calibrate. In random order,
    so that the first of the fitted ones are a uniform sample; of a sample none that is held out is fitted."""
    generator = private_generator(SPLIT, random_state)
    keys = np.concatenate([_keys(identities(batch), batch.num_rows, generator) for batch in batches])
    selection, calibration = _sizes(len(keys), selection_fraction, calibration_fraction)
    order = np.argsort(keys, kind="stable")
    chosen, tuned, rest = np.split(order, [calibration, calibration + selection])
    return rest, tuned, chosen


def _keys(names: np.ndarray, rows: int, generator: np.random.Generator) -> np.ndarray:
    """What decides of each record whether it is held out: its own hash where it has an id, else chance."""
    return _shares(names) if len(names) else generator.random(rows)


def _sizes(records: int, selection_fraction: float, calibration_fraction: float) -> tuple[int, int]:
    """How many records choose the best state, and how many calibrate."""
    if records < FEWEST_TO_SPLIT:
        return 0, 0
    selection = min(MOST_HELD_OUT, int(selection_fraction * records))
    return selection, min(MOST_HELD_OUT, int(calibration_fraction * records))


def _shares(names: np.ndarray) -> np.ndarray:
    """64-bit hashes -> numbers spread evenly over [0, 1): splitmix64's finaliser (Steele et al. 2014)."""
    mixed = names + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53


def _all_but(names: list[np.ndarray], some: np.ndarray) -> np.ndarray:
    """All these hashes but some, sorted, without another copy of them."""
    together = np.concatenate(names)
    names.clear()
    together.sort()
    keep = np.ones(len(together), bool)
    keep[1:] = together[1:] != together[:-1]
    keep &= ~are_among(together, np.unique(some))
    return together[keep]


def check_enough(rows: int) -> None:
    """Raises InputError where there are fewer than two records: nothing in one of them is unusual."""
    if rows == 1:
        raise InputError(
            "there is a single record (1 sample): it cannot tell what is usual",
            fix=f"Give more records, {FEWEST_TO_SPLIT} or more for p-values",
        )


def finite(encoded: Encoded, encoding: TableEncoding) -> Encoded:
    """The same records. Raises InputError, naming the column, where a value is not finite."""
    for j in np.flatnonzero(~np.isfinite(encoded.values).all(0)):
        name = encoding.described[encoding.features[j].column].name
        raise InputError(
            "holds values that are infinite, or too large to standardise",
            column=name,
            fix="Make them missing, or leave the column out",
        )
    return encoded


def _shrink(
    kept: list[Encoded], names: list[np.ndarray], keys: list[np.ndarray], most: int
) -> tuple[list[Encoded], list[np.ndarray], list[np.ndarray], int]:
    all_keys = np.concatenate(keys)
    chosen = np.sort(np.argsort(all_keys, kind="stable")[:most])
    whole = joined(kept)
    all_names = np.concatenate(names)
    return (
        [take(whole, chosen)],
        [all_names[chosen] if len(all_names) else all_names],
        [all_keys[chosen]],
        len(chosen),
    )


def joined(parts: list[Encoded]) -> Encoded:
    """Encoded batches one after another."""
    return Encoded(**{f.name: np.concatenate([getattr(e, f.name) for e in parts]) for f in fields(Encoded)})


def take(encoded: Encoded, rows: np.ndarray) -> Encoded:
    """Some rows of an encoded batch."""
    return Encoded(**{f.name: getattr(encoded, f.name)[rows] for f in fields(Encoded)})


def identities(batch: pa.RecordBatch | pa.Table, columns: Mapping[str, str] | None = None) -> np.ndarray:
    """A 64-bit hash of each record's id and values, where the batch has ids (`_record_id`); else empty.

    With a model's `columns` (name -> type) a key that is a number there and text here is hashed as there.
    """
    if "_record_id" not in batch.schema.names:
        return np.empty(0, np.uint64)
    for place, field in enumerate(batch.schema):
        wanted = (columns or {}).get(field.name, "")
        if wanted in TYPES and field.type != TYPES[wanted] and field.type in TYPES.values():
            batch = batch.set_column(place, field.name, _in_type(batch.column(place), wanted))
    parts = [
        _identities(batch.slice(first, HASHED_AT_ONCE)) for first in range(0, batch.num_rows, HASHED_AT_ONCE)
    ]
    return np.concatenate(parts) if parts else np.empty(0, np.uint64)


def only_keys(encoding: TableEncoding) -> tuple[str, ...]:
    """The key columns that are nothing else: no feature, no context, no tie-breaker. Their type is free."""
    columns = (c for c in encoding.described if not (c.modelled or c.fixed or c.name == encoding.time))
    return tuple(column.name for column in columns if column.name in encoding.ids)


def _in_type(array: pa.Array | pa.ChunkedArray, kind: str) -> pa.Array:
    """A column in another type, null where it has no place there: such a record is none of training's."""
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    if not convertible(array.type, kind):
        return pa.nulls(len(array), TYPES[kind])
    return typed(array, kind, pa.array([], pa.string())).values


def are_among(names: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which of these hashes are among the known ones, which are sorted: (n,) bool."""
    if not len(known):
        return np.zeros(len(names), bool)
    seen = np.zeros(1 << 20, bool)  # the hashes' upper bits: most records that were not seen stop here
    seen[known >> np.uint64(44)] = True
    result = seen[names >> np.uint64(44)]
    suspects = names[result]
    place = np.searchsorted(known, suspects).clip(max=len(known) - 1)
    result[result] = known[place] == suspects
    return result


def _identities(batch: pa.RecordBatch | pa.Table) -> np.ndarray:
    keys = texts(batch.column("_record_id")).to_numpy(zero_copy_only=False).astype(object)
    total = pd.util.hash_array(keys, categorize=False)  # keys differ: nothing to gain from finding equal ones
    for name in batch.schema.names:
        if name in ("_record_id", "_source", "_row"):
            continue
        array = batch.column(name)
        total *= np.uint64(1_000_003)
        total ^= _hashed(array)
    return total


def _hashed(array: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """64-bit hashes of a column's cells: (n,) uint64. Those of a missing cell are those of a stand-in."""
    if pa.types.is_binary(array.type):  # an image's pixels: their content is the value
        sums = b"".join(hashlib.blake2b(v, digest_size=8).digest() for v in array.to_pylist())
        return np.frombuffer(sums, "<u8")
    if pa.types.is_fixed_size_list(array.type):
        sums = b"".join(hashlib.blake2b(v.tobytes(), digest_size=8).digest() for v in vectors(array))
        return np.frombuffer(sums, "<u8")
    if pa.types.is_string(array.type) or pa.types.is_dictionary(array.type):
        values = texts(array).fill_null("").to_numpy(zero_copy_only=False).astype(object)
        return pd.util.hash_array(values)
    values = numbers(array)
    if np.isnan(values).any() or np.isinf(values).any():
        values = np.nan_to_num(values, nan=-0.123456789)
    return hash_numbers(values)


def hash_numbers(values: np.ndarray) -> np.ndarray:
    """64-bit hashes of float64 numbers without nan, equal numbers alike: (n,) uint64.

    The last steps of SplitMix64 (Steele, Lea & Flood 2014). pandas' `hash_array` gives the same today; models
    keep such hashes, so they may not change with a library's version.
    """
    hashed = (values + 0.0).view(np.uint64)  # -0.0 becomes 0.0
    shifted = np.empty_like(hashed)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        np.right_shift(hashed, np.uint64(shift), out=shifted)
        hashed ^= shifted
        if factor != 1:
            hashed *= np.uint64(factor)
    return hashed
