"""What a promotion is decided by: records that no model was trained on, scores from a clean process, planted
anomalies. Plain numbers; `flows.promotion` judges them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flows.registry import ModelVersion
from flows.scratch import scratch
from vae_core import sources, storage
from vae_core.columns import numbers
from vae_core.errors import one_line
from vae_core.linear_start import linear_model
from vae_core.records import identities
from vae_core.scoring import FittedModel

__all__ = ["Evidence", "choose", "clean_scores", "gather_evidence", "plant"]

MOST = 2_000  # held-out records that are looked at: chosen by their hash, the same ones for every model
FITTED = 20_000  # records that the linear start is fitted to
FEWEST = 50  # of either; with fewer nothing is decided
COMPARED_DRAWS = 64  # for nats of two models: with few draws each errs by an amount of its own
PATIENCE = 300  # seconds for the clean process
FAR = 6.0  # spreads by which a scaled cell is moved


@dataclass
class Evidence:
    """What was found; None where it could not be."""

    challenger: FittedModel | None = None
    champion: FittedModel | None = None
    problem: str = ""  # why the challenger could not be loaded and scored
    records: pa.Table | None = None  # held out from both
    scores: np.ndarray | None = None  # the challenger's, in this process
    clean: np.ndarray | None = None  # the same in a process of its own, from the registry
    own: bool = False  # the records come from the challenger's own training data
    all_unseen: int = 0  # so many records the challenger was not trained on
    bound_gain: np.ndarray | None = None  # over the champion, in the user's units, nats a record
    start_gain: np.ndarray | None = None  # over its own linear start
    further: list[str] = field(default_factory=list)  # columns that the champion does without
    same_measure: str = ""  # empty, or why the bounds cannot be compared
    planted: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)  # kind -> model -> scores


def gather_evidence(challenger: ModelVersion, champion: ModelVersion | None, data: Any) -> Evidence:
    """Load both models, choose the records, score them in every way that the checks ask for."""
    found = Evidence(own=data.digest == challenger.tags.get("dataset_digest"))
    try:
        found.challenger = storage.load(challenger.folder)
        if champion is not None:
            found.champion = storage.load(champion.folder)
        models = [m for m in (found.challenger, found.champion) if m is not None]
        found.records, fitted, found.all_unseen = choose(data, models)
        if found.records.num_rows == 0:
            return found
        found.clean = clean_scores(challenger, found.records)
        with np.errstate(all="ignore"):  # what a broken model computes is looked at, not warned of
            found.scores = found.challenger.score(found.records).anomaly_score
    except Exception as problem:  # noqa: BLE001 - whatever a model does when it is loaded is evidence
        found.problem = one_line(str(problem) or type(problem).__name__)
        return found
    if not np.isfinite(found.scores).all():
        return found
    found.start_gain = gain_over_start(found.challenger, found.records, fitted)
    if found.champion is not None:
        found.further = sorted(set(found.challenger.encoding.columns) - set(found.champion.encoding.columns))
        found.same_measure = other_measure(found.challenger, found.champion)
        if not found.same_measure:
            own, other = (in_user_units(m, found.records) for m in (found.challenger, found.champion))
            found.bound_gain = own - other
    found.planted = score_planted(found)
    return found


def choose(data: Any, models: Sequence[FittedModel]) -> tuple[pa.Table, pa.Table, int]:
    """Records that none of the models was trained on, others that the linear start is fitted to (the first
    model's training records, if these are its data), and how many the first model was not trained on."""
    free, own, others = _Smallest(MOST), _Smallest(MOST), _Smallest(FITTED)
    count = 0
    for batch in sources.batches(data):
        names = identities(batch)
        new = [~np.isin(identities(batch, m.encoding.columns), m.trained_on) for m in models]
        count += int(new[0].sum())
        unseen = np.logical_and.reduce(new)
        free.add(batch, names, unseen)
        own.add(batch, names, new[0])
        others.add(batch, names, ~new[0])
    if others.rows < FEWEST:  # other data than the model's own
        for batch in sources.batches(data):
            names = identities(batch)
            others.add(batch, names, ~np.isin(names, free.keys))
    # Too few that neither knows? Those that the champion may know favour it: a pass is all the more one.
    return (free if free.rows >= FEWEST else own).table(), others.table(), count


class _Smallest:
    """Of a stream of records those with the smallest hashes: a uniform sample, the same one each time."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.keys = np.empty(0, np.uint64)
        self._kept: pa.Table | None = None

    @property
    def rows(self) -> int:
        return len(self.keys)

    def add(self, batch: pa.RecordBatch, names: np.ndarray, chosen: np.ndarray) -> None:
        taken = pa.Table.from_batches([batch.filter(pa.array(chosen))])
        self._kept = taken if self._kept is None else pa.concat_tables([self._kept, taken])
        self.keys = np.concatenate([self.keys, names[chosen]])
        if len(self.keys) > 2 * self.most:
            self._shrink()

    def table(self) -> pa.Table:
        self._shrink()
        assert self._kept is not None
        return self._kept.combine_chunks()

    def _shrink(self) -> None:
        assert self._kept is not None, "a dataset has at least one batch"
        first = np.sort(np.argsort(self.keys, kind="stable")[: self.most])
        self._kept, self.keys = self._kept.take(pa.array(first)), self.keys[first]


def clean_scores(version: ModelVersion, records: pa.Table) -> np.ndarray:
    """Anomaly scores from a process of its own that fetches the model from the registry; pickles are refused
    there.

    Raises RuntimeError with the last line that it said when it fails, dies or takes too long.
    """
    address = f"models:/{version.name}/{version.version}" if version.tags else str(version.folder)
    with scratch() as folder:
        asked, told = folder / "records.parquet", folder / "scores.npy"
        pq.write_table(records, asked)
        command = [sys.executable, "-m", "flows.clean_load", address, str(asked), str(told)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=PATIENCE, env=_environment(), check=False
            )
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"loading and scoring took more than {PATIENCE} seconds") from error
        if done.returncode != 0 or not told.exists():
            lines = done.stderr.strip().splitlines()
            raise RuntimeError(lines[-1] if lines else f"the process ended with {done.returncode}")
        return np.asarray(np.load(told, allow_pickle=False))


def _environment() -> dict[str, str]:
    """This process's, with one thread, and our own modules where they are for us."""
    here = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def other_measure(one: FittedModel, other: FittedModel) -> str:
    """Why the bounds of two models are no densities of the same thing; empty where they are."""
    for what, a, b in (
        ("columns", one.encoding.columns, other.encoding.columns),
        ("likelihoods", one.summary.get("likelihoods"), other.summary.get("likelihoods")),
        ("members", sorted(one.weights), sorted(other.weights)),
        ("preset", one.encoding.preset, other.encoding.preset),
        ("time column", one.encoding.time, other.encoding.time),
    ):
        if a != b:
            return f"they differ in their {what}"
    return ""


def in_user_units(model: FittedModel, table: pa.Table) -> np.ndarray:
    """The bound of each record as a density in the user's units over its observed columns: (n,), nats.

    Untilted: a tighter bound, and no mean is one record's squared distance. With many draws: what few of a
    model err by is the same for all of its records, so that no standard error over records would tell.
    """
    encoding = model.encoding
    widths = np.array(encoding.log_units)
    scores = model.untilted().score(table, draws=COMPARED_DRAWS)
    return np.asarray(scores.bound - encoding.encode(table).mask @ widths)


def gain_over_start(model: FittedModel, table: pa.Table, fitted: pa.Table) -> np.ndarray | None:
    """What training gained over the closed-form linear model with the same likelihoods: elbo, nats a record.

    The start is computed anew from the records `fitted`: what a model says of itself is no evidence. None for
    a model that has no linear path.
    """
    if not model.vae.architecture.linear_skip or fitted.num_rows < FEWEST:
        return None
    linear = linear_model(model, model.encoding.encode(fitted))
    alone = model.with_members(["vae"]) if len(model.weights) > 1 else model
    own, start = (each.score(table, draws=COMPARED_DRAWS) for each in (alone, linear))
    return np.asarray(own.elbo - start.elbo)


def plant(records: pa.Table, model: FittedModel, *, columns: Sequence[str]) -> dict[str, pa.Table]:
    """The records with planted errors: cells of another record, cells moved far, categories and yes/no
    flipped."""
    generator = np.random.default_rng(0)
    kinds = {c.name: c.kind for c in model.encoding.described if c.name in columns and c.modelled}
    plain = list(kinds)
    n = records.num_rows
    made: dict[str, pa.Table] = {}
    if plain:
        made["swapped"] = _changed(records, plain, generator, lambda column, _: _swapped(column, generator))
    far = [name for name in plain if kinds[name] in ("real", "whole")]
    if far:
        made["scaled"] = _changed(records, far, generator, lambda column, _: _moved(column, generator))
    named = [name for name in plain if kinds[name] in ("boolean", "category")]
    if named:
        made["flipped"] = _changed(records, named, generator, lambda column, _: _flipped(column, generator))
    assert all(table.num_rows == n for table in made.values())
    return made


def _changed(table: pa.Table, names: list[str], generator: np.random.Generator, change: Any) -> pa.Table:
    """One cell of each record changed (a third of the columns where there are many)."""
    cells = max(1, len(names) // 3)
    chosen = np.argsort(generator.random((table.num_rows, len(names))), axis=1)[:, :cells]
    for place, name in enumerate(names):
        column = table.column(name).combine_chunks()
        mask = (chosen == place).any(1)
        new = change(column, name)
        taken = pa.array(np.where(mask, np.arange(len(column)) + len(column), np.arange(len(column))))
        both = pa.concat_arrays([_flat(column), _flat(new)])
        table = table.set_column(table.column_names.index(name), name, both.take(taken))
    return table


def _flat(array: Any) -> pa.Array:
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def _swapped(column: pa.Array, generator: np.random.Generator) -> pa.Array:
    return column.take(pa.array(generator.permutation(len(column))))


def _moved(column: pa.Array, generator: np.random.Generator) -> pa.Array:
    values = numbers(column).astype(float)
    spread = float(np.nanstd(values)) or 1.0
    moved = values + generator.choice([-FAR, FAR], len(values)) * spread
    if pa.types.is_integer(column.type):
        moved = np.rint(moved)
    return pa.array(moved, from_pandas=True).cast(column.type, safe=False)


def _flipped(column: pa.Array, generator: np.random.Generator) -> pa.Array:
    if pa.types.is_boolean(column.type):
        return pa.array([None if v is None else not v for v in column.to_pylist()], pa.bool_())
    values = column.to_pylist()
    known = sorted({v for v in values if v is not None}, key=str)
    if len(known) < 2:
        return column
    flipped = []
    for value in values:
        others = [k for k in known if k != value]
        flipped.append(others[int(generator.integers(len(others)))])
    return pa.array(flipped, column.type)


def score_planted(found: Evidence) -> dict[str, dict[str, np.ndarray]]:
    """Anomaly scores of the clean and of the planted records, under each model that knows the columns."""
    assert found.challenger is not None and found.records is not None
    models = {"challenger": found.challenger}
    columns = set(found.challenger.encoding.columns)
    if found.champion is not None and set(found.champion.encoding.columns) <= set(found.records.column_names):
        models["champion"] = found.champion
        columns &= set(found.champion.encoding.columns)
    tables = plant(found.records, found.challenger, columns=sorted(columns))
    return {
        kind: {name: model.score(table).anomaly_score for name, model in models.items()}
        for kind, table in {"clean": found.records, **tables}.items()
    }
