"""What a worker does with one unit: read its records, score them, write one file; later explain some of them.

A unit's file gets its name only when it is whole, and beside it a small JSON file with its SHA-256 and the
code that made it. A unit with both, and with the right sum, is done: a run that was killed takes it up. A
unit done twice, by two workers or two runs, gives the same bytes under the same name.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vae_core import __version__, drift, publishing, sources
from vae_core.errors import InputError
from vae_core.first_rows import first_rows_file, how_many, keep, kept
from vae_core.ranking import MERGED_ROWS, Key, sort_records, up_to
from vae_core.turning import BLOCKS

__all__ = [
    "IMAGE_SCORED",
    "NO_P_VALUE", "REASONS", "SCORED", "WHY", "Cut", "ExplainUnit", "ModelChoice", "ScoreUnit", "UnitResult",
    "counts_of", "explained_file", "scored_file",
]  # fmt: skip

EXPLAINED_AT_ONCE = 2048  # records: reasons are wide while they are made

SCORED = pa.schema(
    [
        ("record_id", pa.string()),
        ("anomaly_score", pa.float64()),
        ("bound", pa.float64()),
        ("elbo", pa.float64()),
        ("reconstruction", pa.float64()),
        ("kl", pa.float64()),
        ("elbo_se", pa.float64()),  # null: one draw has no spread
        ("p_value", pa.float64()),  # null: none
        ("n_missing", pa.int32()),
        ("n_out_of_range", pa.int32()),
        ("n_unseen", pa.int32()),
        ("source", pa.string()),
        ("row", pa.int64()),
        ("_offset", pa.int32()),  # the record's place within the unit
        # The score by each block of draws alone, less anomaly_score; null: one block has no other.
        *((name, pa.float32()) for name in BLOCKS),
    ]
)
IMAGE_SCORED = [("elbo_excess", pa.float64()), ("complexity_bits", pa.float64()), ("part", pa.string())]
REASONS = pa.list_(
    pa.struct(
        [(name, pa.string()) for name in ("feature", "value", "expected", "low", "high")]
        + [(name, pa.float64()) for name in ("value_number", "nats", "typical")]
    )
)
EXPLAINED = pa.schema(
    [
        *(SCORED.field(name) for name in ("record_id", "anomaly_score", "source", "row")),
        ("why", pa.string()),
        ("reasons", REASONS),
        ("rest_nats", pa.float64()),
        ("tilt_nats", pa.float64()),
    ]
)
WHY = ("why", "reasons", "rest_nats", "tilt_nats")  # what an explanation tells of each record

Load = Callable[[Path, str], Any]  # (model folder, its digest) -> a model with .score(table)
Explain = Callable[..., pa.Table]  # (model, table, top=...) -> the columns WHY


@dataclass(frozen=True)
class UnitResult:
    """One finished unit: its file's rows and SHA-256, and how many of its records met something new."""

    id: str
    rows: int
    sha256: str
    missing: int = 0  # records with a missing cell
    out_of_range: int = 0  # records with a value outside the training range
    unseen: int = 0  # records with an unseen category
    counts: str | None = None  # SHA-256 of the file of its counts for drift; None: the model keeps no profile
    first_rows: str | None = None  # SHA-256 of the file of its first records as they were read; None: none
    taken_up: bool = False  # found finished, from an earlier run


NO_P_VALUE = -1.0  # a limit that no p-value is under


@dataclass(frozen=True)
class Cut:
    """Which records get reasons: those ranked up to `last`, and those with a p-value up to `p_value`."""

    last: Key
    p_value: float

    def chosen(self, scored: pa.Table) -> np.ndarray:
        """Row numbers in a sorted table."""
        by_rank = np.arange(scored.num_rows) < up_to(scored, self.last)
        by_p = scored["p_value"].to_numpy() <= self.p_value  # null is nan here, and nan <= x is False
        return np.flatnonzero(by_rank | by_p)


def scored_file(staging: Path, unit_id: str) -> Path:
    """Where a unit's scores lie: sorted as the report is."""
    return staging / "units" / f"unit-{unit_id}.parquet"


def counts_file(scored: Path) -> Path:
    """Where a unit's counts for drift lie: beside its scores."""
    return scored.with_suffix(".counts.npy")


def counts_of(staging: Path, results: Iterable[UnitResult]) -> np.ndarray | None:
    """The counts of all units added up; None where the model keeps no profile, or there are no units."""
    total: np.ndarray | None = None
    for result in results:
        if result.counts is not None:
            own = np.load(counts_file(scored_file(staging, result.id)), allow_pickle=False)
            total = own if total is None else total + own
    return total


def explained_file(staging: Path, unit_id: str) -> Path:
    """Where the reasons of a unit's chosen records lie: sorted as the report is."""
    return staging / "reasons" / f"unit-{unit_id}.parquet"


def load_model(folder: Path, digest: str) -> Any:
    """The fitted model in a folder, whose digest must be the one that the run has begun with."""
    from vae_core import storage  # torch takes seconds to import: only who scores needs it

    found = storage.model_digest(folder)
    if found != digest:
        raise InputError("was changed while it was being used", file=folder, fix="Run the same command again")
    return storage.load(folder)


def explain_table(model: Any, table: pa.Table, *, top: int) -> pa.Table:
    """Reasons for each record of a table, by the model's own explanation."""
    from vae_core import explanation
    from vae_core.images import explanation as of_images
    from vae_core.images.model import ImageModel

    if isinstance(model, ImageModel):
        return of_images.explain(model, table, top=top)
    return explanation.explain(model, table, top=top)


@dataclass(frozen=True)
class ModelChoice:
    """Which model scores: its folder and digest; with other draws or fewer members, on a GPU, if asked to."""

    folder: str
    digest: str
    draws: int | None = None
    members: tuple[str, ...] | None = None
    rank_by: str | None = None
    device: str = "cpu"
    load: Load = load_model

    def model(self) -> Any:
        """The model, loaded once a process."""
        return _loaded(self)


@lru_cache(maxsize=1)
def _loaded(choice: ModelChoice) -> Any:
    model = choice.load(Path(choice.folder), choice.digest)
    if choice.draws is not None:
        model = model.with_draws(choice.draws)
    members = choice.members
    if choice.rank_by is not None:
        if hasattr(model, "ranked_by"):
            model = model.ranked_by(choice.rank_by)
        elif choice.rank_by == "elbo":
            members = members or ("vae",)
        else:
            fix = "Say elbo, or leave --rank-by out"
            raise InputError(f'a table is not ranked by "{choice.rank_by}"', file=choice.folder, fix=fix)
    if members is not None:
        try:
            model = model.with_members(list(members))
        except ValueError as problem:
            raise InputError(
                str(problem), file=choice.folder, fix="Name members that the model has"
            ) from problem
    return model if choice.device == "cpu" else model.on(choice.device)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Torch in one thread. The products are small: on a busy machine a second thread took 4 to 8 times the
    processor time, waiting; more cores are for more workers."""
    torch = sys.modules.get("torch")
    if torch is None:  # the model does without
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class ScoreUnit:
    """Scores one unit into its file. Picklable: it holds paths; the model is loaded in the worker."""

    dataset_folder: str
    choice: ModelChoice
    staging: str

    def __call__(self, unit: sources.Unit) -> UnitResult:
        path, made_by = (
            scored_file(Path(self.staging), unit.id),
            [asdict(unit), __version__, "counts", "blocks", "tiles of 256"],
        )
        done = finished(path, made_by)
        if done is not None:
            return done
        table = sources.read(sources.open_dataset(self.dataset_folder), unit)
        model = self.choice.model()
        profile = drift.profile_of(model)
        with _one_thread():
            scores = model.score(table)
            scored = sort_records(_checked(_table(table, scores)))
        counts = None if profile is None else profile.count(table, scores)
        first_rows = keep(table, scored["_offset"], first_rows_file(path))
        return write_unit(path, unit.id, scored, made_by, counts, first_rows)


@dataclass(frozen=True)
class ExplainUnit:
    """Writes the reasons of the records of a unit that the cut chooses, which it may have to read again."""

    dataset_folder: str
    choice: ModelChoice
    staging: str
    cut: Cut
    top: int = 5
    explain: Explain = explain_table

    def __call__(self, unit: sources.Unit) -> UnitResult:
        path = explained_file(Path(self.staging), unit.id)
        made_by = [asdict(unit), __version__, "tilt", repr(self.cut)]  # JSON has no infinity
        done = finished(path, made_by)
        if done is not None:
            return done
        columns = ["record_id", "anomaly_score", "source", "row", "p_value", "_offset"]
        scored = pq.read_table(scored_file(Path(self.staging), unit.id), columns=columns)
        chosen = self.cut.chosen(scored)
        reasons = EXPLAINED.empty_table()
        if len(chosen):
            reasons = self._reasons(self._as_read(unit, scored, chosen), scored.take(chosen))
        return write_unit(path, unit.id, reasons, made_by)

    def _as_read(self, unit: sources.Unit, scored: pa.Table, chosen: np.ndarray) -> pa.Table:
        """The records of these rows of a sorted unit: kept when it was scored, or read again."""
        if chosen[-1] < how_many(scored.num_rows):
            first = first_rows_of(scored_file(Path(self.staging), unit.id))
            if first is not None and chosen[-1] < first.num_rows:
                return first.take(chosen)
        table = sources.read(sources.open_dataset(self.dataset_folder), unit)
        return table.take(scored["_offset"].take(chosen))

    def _reasons(self, table: pa.Table, scored: pa.Table) -> pa.Table:
        model = self.choice.model()
        chunks = [
            table.slice(first, EXPLAINED_AT_ONCE) for first in range(0, table.num_rows, EXPLAINED_AT_ONCE)
        ]
        with _one_thread():
            told = pa.concat_tables([self.explain(model, chunk, top=self.top) for chunk in chunks])
        keys = scored.select(["record_id", "anomaly_score", "source", "row"])
        for name in WHY:
            keys = keys.append_column(EXPLAINED.field(name), told[name].cast(EXPLAINED.field(name).type))
        return keys


def finished(path: Path, made_by: list[Any]) -> UnitResult | None:
    """The result of a unit that is already there, whole, and made from the same rows by the same code."""
    marker = path.with_suffix(".json")
    try:
        note = json.loads(marker.read_text())
        result = UnitResult(**note["result"])
        whole = (
            note["made_by"] == json.loads(json.dumps(made_by))
            and publishing.sha256_of(path) == result.sha256
            and (result.counts is None or publishing.sha256_of(counts_file(path)) == result.counts)
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None  # not there, or cut off, or damaged: to be done again
    return replace(result, taken_up=True) if whole else None


def first_rows_of(scored: Path) -> pa.Table | None:
    """The first records of a unit as they were read; None where there are none, or not what was kept."""
    try:
        digest = json.loads(scored.with_suffix(".json").read_text())["result"]["first_rows"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None if digest is None else kept(first_rows_file(scored), digest)


def write_unit(
    path: Path,
    unit_id: str,
    table: pa.Table,
    made_by: list[Any],
    counts: np.ndarray | None = None,
    first_rows: str | None = None,
) -> UnitResult:
    """Write a unit's sorted rows whole, with its counts beside them, and leave the note that says so.

    The folder must exist. Nothing waits for the disk: what a power cut leaves half written is not what the
    note's checksums say, and is made again (`finished`).
    """
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    with publishing.writing(path.parent):
        pq.write_table(
            table,
            temporary,
            row_group_size=MERGED_ROWS,
            compression="none",  # numbers of full precision hardly shrink, and are soon read again
            use_dictionary=["source"],
            write_statistics=False,
            write_page_checksum=True,
        )
        digest = publishing.sha256_of(temporary)
        publishing.commit(temporary, path, flushed=False)
        counted = None if counts is None else _write_counts(counts, counts_file(path))
        missing, strange, unseen = (
            _having(table, name) for name in ("n_missing", "n_out_of_range", "n_unseen")
        )
        result = UnitResult(unit_id, table.num_rows, digest, missing, strange, unseen, counted, first_rows)
        note = {"made_by": made_by, "result": asdict(result)}
        publishing.write_json(path.with_suffix(".json"), note, flushed=False)
    return result


def _write_counts(counts: np.ndarray, path: Path) -> str:
    """Write a unit's counts whole; their SHA-256."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    with temporary.open("wb") as file:
        np.save(file, counts, allow_pickle=False)
    digest = publishing.sha256_of(temporary)
    publishing.commit(temporary, path, flushed=False)
    return digest


def _having(table: pa.Table, name: str) -> int:
    """Records with at least one such cell (a table of reasons has none of these columns)."""
    return int(np.count_nonzero(table[name].to_numpy())) if name in table.column_names else 0


def _table(table: pa.Table, scores: Any) -> pa.Table:
    """The thin table of a unit: who the records are, and what scoring says of them."""
    columns: dict[str, Any] = {
        "record_id": table["_record_id"],
        "source": table["_source"],
        "row": table["_row"],
        "_offset": np.arange(table.num_rows, dtype=np.int32),
    }
    by_block = getattr(scores, "by_block", np.empty((0, 0)))
    whole = by_block.shape == (table.num_rows, len(BLOCKS))
    for b, name in enumerate(BLOCKS):
        columns[name] = by_block[:, b] if whole else pa.nulls(table.num_rows, pa.float32())
    schema = SCORED
    for name, kind in IMAGE_SCORED if hasattr(scores, "part") else []:
        schema = schema.append(pa.field(name, kind))
    for name in schema.names:
        if name not in columns:
            columns[name] = pa.array(getattr(scores, name), from_pandas=name in ("p_value", "elbo_se"))
    return pa.table({name: columns[name] for name in schema.names}).cast(schema)


def _checked(scored: pa.Table) -> pa.Table:
    """A score that is no number has no rank: NaN sorts first in some libraries and last in others."""
    wrong = np.flatnonzero(~np.isfinite(scored["anomaly_score"].to_numpy()))
    if wrong.size:
        first = scored.slice(int(wrong[0]), 1).to_pylist()[0]
        raise InputError(
            f'record "{first["record_id"]}" got the anomaly score {first["anomaly_score"]}, which has no rank'
            + (f" (and {wrong.size - 1} more of its unit)" if wrong.size > 1 else ""),
            file=first["source"],
            row=first["row"],
            fix="Leave the record out, or train again: the model's weights may be damaged",
        )
    return scored
