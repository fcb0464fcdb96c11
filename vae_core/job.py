"""A scoring job, from a dataset and a model to a published report: prepare, score, rank, publish.

`run` does all of it. The stages are functions of their own, so that a flow can wrap each in a task; whoever
calls them holds `publishing.lock(plan.staging)` around the last three.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from vae_core import __version__, drift, publishing, report, sources
from vae_core.card import CARD, card, finite
from vae_core.engines import map_units, one_crew
from vae_core.errors import InputError
from vae_core.report import Decision
from vae_core.work import (
    Explain,
    ExplainUnit,
    Load,
    ModelChoice,
    ScoreUnit,
    UnitResult,
    counts_of,
    explain_table,
    explained_file,
    load_model,
    scored_file,
)

__all__ = ["Job", "Outcome", "Plan", "cut", "prepare", "publish", "rank", "run", "score"]


CELLS_PER_UNIT = 1 << 22  # what a worker holds of its unit at once


@dataclass(frozen=True)
class Job:
    """What to score, by what, into where. `model_facts` goes into the manifest: likelihoods, members, ..."""

    dataset: Path
    model: Path
    output: Path
    model_name: str = "model"
    model_version: str = ""
    model_digest: str | None = None  # default: what the model's folder says
    model_facts: dict[str, Any] | None = None  # default: what the model itself says
    as_of: datetime | None = None  # start of the interval that the report stands for
    interval_end: datetime | None = None  # its end, where only its records are ranked: told in the manifest
    decision: Decision = field(default_factory=Decision)
    draws: int | None = None  # default: the model's own
    members: tuple[str, ...] | None = None  # default: all that the model has
    rank_by: str | None = None  # default: the model's own score; "elbo": the pure bound
    device: str = "cpu"  # that scores: cpu, cuda (a GPU), auto (a GPU where there is one)
    explained: int = 10_000  # so many records from the top get reasons, and all that are flagged
    reasons: int = 5  # of a record
    pictured: int = 20  # so many images from the top get a pixel map
    hide_values: bool = False  # the report's page tells columns, keys and nats, but no value of a record
    allow_empty: bool = False  # an interval without records has a report without rows
    rows_per_unit: int | None = None  # default: by the number of columns
    load: Load = load_model
    explain: Explain = explain_table


@dataclass(frozen=True)
class Plan:
    """A job made definite: its input opened, its hash known, its folders named."""

    job: Job
    data: sources.Dataset
    units: tuple[sources.Unit, ...]
    model_digest: str
    inputs: dict[str, Any]  # all that decides what the report holds
    run: str  # the hash of these
    final: Path
    staging: Path
    published: Path | None  # this very report, if it is there: nothing to do


@dataclass(frozen=True)
class Outcome:
    """Where the report is, what its manifest says, and whether this run published it or found it."""

    folder: Path
    manifest: dict[str, Any]
    fresh: bool


def run(
    job: Job,
    *,
    engine: str = "local",
    workers: int = 1,
    replace: bool = False,
    on_done: Callable[[UnitResult], None] | None = None,
    on_explained: Callable[[UnitResult], None] | None = None,
    on_wait: Callable[[], None] | None = None,
) -> Outcome:
    """Score a dataset and publish the report; killed at any moment and run again, it gives the same report.

    `on_done` is called for each unit when it is scored, `on_explained` when its reasons are there, `on_wait`
    when another run of the same job holds the place. Raises Refused when another report is published there,
    InputError for what the user can mend.
    """
    plan = prepare(job, replace=replace)
    if plan.published is None:
        with publishing.lock(plan.staging, on_wait=on_wait):
            plan = prepare(job, replace=replace)  # another run may have published it meanwhile
            if plan.published is None:
                with publishing.nothing_left(plan.staging), one_crew():
                    results = score(plan, engine=engine, workers=workers, on_done=on_done)
                    manifest = rank(plan, results, engine=engine, workers=workers, on_done=on_explained)
                    folder = publish(plan, manifest, replace=replace)
                return Outcome(folder, publishing.read_manifest(folder), fresh=True)
    assert plan.published is not None
    publishing.tidy(plan.staging)  # after a run that was killed when it had published
    return Outcome(plan.published, publishing.read_manifest(plan.published), fresh=False)


def _on_its_device(job: Job) -> Job:
    """The job with "cpu" or "cuda" for its device: what decides the last digits of the report."""
    if job.device == "cpu":
        return job
    from vae_core import devices  # torch takes seconds to import

    return replace(job, device=devices.kind(job.device))


def cut(data: sources.Dataset, rows_per_unit: int | None = None) -> tuple[sources.Unit, ...]:
    """The units of a dataset, in order: of 65,536 records, or fewer where a record is wide."""
    fitting, fewest = CELLS_PER_UNIT // data.cells, 256 if data.image is None else 16
    return tuple(sources.plan(data, rows_per_unit or max(fewest, min(65_536, fitting))))


def prepare(job: Job, *, replace: bool = False) -> Plan:
    """Open the input, cut it into units, and find out whether there is anything to do. Writes nothing."""
    job = _on_its_device(job)
    data = sources.open_dataset(job.dataset)
    if data.rows == 0 and not job.allow_empty:
        raise InputError(
            f"there is no record to score: {data.quarantined} are in quarantine, "
            f"{data.outside} outside the interval",
            file=data.folder,
        )
    digest = job.model_digest or _digest(job.model)
    inputs = _inputs(job, data, digest)
    identity = publishing.run_hash(inputs)
    final = publishing.final_folder(Path(job.output), data.name, identity, job.as_of)
    staging = publishing.staging_folder(final, identity)
    published = publishing.published(final, identity)
    if published is None:
        publishing.check_place(final, identity, replace=replace)
    return Plan(job, data, cut(data, job.rows_per_unit), digest, inputs, identity, final, staging, published)


def score(
    plan: Plan,
    *,
    engine: str = "local",
    workers: int = 1,
    on_done: Callable[[UnitResult], None] | None = None,
) -> list[UnitResult]:
    """Score every unit that is not finished yet, and return the results of all, in order."""
    _make(scored_file(plan.staging, "").parent)
    device = plan.job.device  # reasons, of few records, are the processor's
    work = ScoreUnit(str(plan.data.folder), replace(_choice(plan), device=device), str(plan.staging))
    options: dict[str, Any] = {"engine": engine, "workers": workers, "gpu": device == "cuda"}
    done = map_units(plan.units, work, on_done=on_done, **options)
    return sorted(done, key=lambda result: result.id)


def rank(
    plan: Plan,
    results: Iterable[UnitResult],
    *,
    engine: str = "local",
    workers: int = 1,
    on_done: Callable[[UnitResult], None] | None = None,
) -> dict[str, Any]:
    """Rank all records, give reasons to the first and the flagged, write the report; return its manifest."""
    job, results = plan.job, list(results)
    for folder in ("ranking", publishing.OUTGOING):
        _make(plan.staging / folder, empty=True)
    _make(explained_file(plan.staging, "").parent)
    with publishing.writing(plan.staging):
        files = [scored_file(plan.staging, unit.id) for unit in plan.units]
        ranking = report.rank(files, plan.staging / "ranking", job.decision, explained=job.explained)
    _all_there(plan, results, ranking.rows)
    place = str(plan.data.folder), _choice(plan), str(plan.staging)
    work = ExplainUnit(*place, ranking.cut, job.reasons, job.explain)
    told = list(map_units(plan.units, work, engine=engine, workers=workers, on_done=on_done))
    with publishing.writing(plan.staging):
        outgoing = plan.staging / publishing.OUTGOING
        marks = report.Marks(job.model_name, job.model_version, job.as_of, facts := _facts(plan))
        reasons = [explained_file(plan.staging, unit.id) for unit in plan.units]
        report.write(ranking, reasons, outgoing / report.REPORT, marks)
        shutil.copyfile(plan.data.quarantine, outgoing / report.QUARANTINE)
        moved = _write_drift(plan, results, outgoing / drift.DRIFT)
        if plan.data.image is not None and job.pictured and ranking.rows:
            _draw(plan, files, outgoing)
        manifest = _manifest(plan, results, ranking, facts, explained=sum(result.rows for result in told))
        manifest |= {"drift": moved}
        _write_page(plan, manifest, outgoing)
    return manifest


def _write_drift(plan: Plan, results: list[UnitResult], path: Path) -> dict[str, Any] | None:
    """The drift table from all units' counts, and its summary; None where the model keeps no profile."""
    counts = counts_of(plan.staging, results)
    profile = None if counts is None else drift.profile_of(_choice(plan).model())
    if counts is None or profile is None:
        return None
    found = drift.table(profile, counts)
    pq.write_table(found, path, compression="zstd", write_page_checksum=True)
    return drift.summary(found)


def _write_page(plan: Plan, manifest: dict[str, Any], folder: Path) -> None:
    """The model card, and the report as one HTML file, drawn from what lies in `folder`."""
    from vae_core.page import PAGE, build

    model = _choice(plan).model()
    if hasattr(model, "calibration"):
        publishing.write_json(folder / CARD, finite(card(model)))
    page = build(folder, manifest, hide_values=plan.job.hide_values)
    (folder / PAGE).write_text(page, encoding="utf-8")


def _draw(plan: Plan, scored: list[Path], folder: Path) -> None:
    """Maps of the images ranked first, beside the report."""
    from vae_core.images.gallery import draw  # only images need it

    with pq.ParquetFile(folder / report.REPORT) as written:
        top = next(written.iter_batches(batch_size=plan.job.pictured, columns=["record_id", "source", "row"]))
    draw(_choice(plan).model(), plan.data, plan.units, scored, top, folder / "images")


def publish(plan: Plan, manifest: dict[str, Any], *, replace: bool = False) -> Path:
    """Make the report visible, whole, under its name; sweep away what long-dead runs have left beside it."""
    folder = publishing.publish(plan.staging, plan.final, manifest, replace=replace)
    publishing.sweep(plan.final.parent)
    return folder


def _inputs(job: Job, data: sources.Dataset, digest: str) -> dict[str, Any]:
    """All that decides what the report holds: another value here is another report."""
    chosen: dict[str, Any] = {"rank_by": job.rank_by} if job.rank_by else {}
    if data.image is not None:
        chosen["pictured"] = job.pictured
    if job.hide_values:
        chosen["hide_values"] = True
    if job.device != "cpu":
        chosen["device"] = job.device  # its rounding is its own
    if job.draws is not None:
        chosen["noise"] = "pairs"  # other numbers of draws than the model's own were once drawn otherwise
    return chosen | {
        "schema_version": report.SCHEMA_VERSION,
        "dataset": data.name,
        "input": data.digest,
        "model": digest,
        "model_name": job.model_name,
        "model_version": job.model_version,
        "as_of": publishing.utc_text(job.as_of) if job.as_of else None,
        "decision": job.decision.as_dict(),
        "draws": job.draws,
        "members": list(job.members) if job.members else None,
        "explained": job.explained,
        "reasons": job.reasons,
    }


def _choice(plan: Plan) -> ModelChoice:
    """The job's model, as the workers load it."""
    job = plan.job
    return ModelChoice(str(job.model), plan.model_digest, job.draws, job.members, job.rank_by, load=job.load)


def _digest(model: Path) -> str:
    from vae_core import storage

    if not (Path(model) / "manifest.json").is_file():
        raise InputError("is not a model folder", file=model, fix="Train one: elborank train")
    return storage.model_digest(model)


def _facts(plan: Plan) -> dict[str, Any]:
    """What the manifest says of the model beside its name."""
    if plan.job.model_facts is not None:
        return plan.job.model_facts
    model = _choice(plan).model()
    return {
        "likelihoods": model.summary.get("likelihoods", {}),
        "log_jacobian": model.summary.get("log_jacobian"),  # of a complete record, into the user's units
        "members": model.weights,
        "draws": int(model.noise.shape[0] * model.noise.shape[1]),
    }


def _all_there(plan: Plan, results: list[UnitResult], ranked: int) -> None:
    """Every record that was read is ranked or in quarantine; else nothing is published."""
    scored = sum(result.rows for result in results)
    if not ranked == scored == plan.data.rows:
        raise RuntimeError(
            f"{plan.data.rows} records were to be ranked, {scored} were scored and {ranked} ranked: "
            f"nothing is published. Delete {plan.staging} and run the same command again."
        )


def _manifest(
    plan: Plan, results: list[UnitResult], ranking: report.Ranking, facts: dict[str, Any], *, explained: int
) -> dict[str, Any]:
    """What the report is made of. No clock: the same run gives the same bytes."""
    job, data = plan.job, plan.data
    return {
        "schema_version": report.SCHEMA_VERSION,
        "code_version": __version__,
        "run": plan.run,
        "as_of": publishing.utc_text(job.as_of) if job.as_of else None,
        **({"interval_end": publishing.utc_text(job.interval_end)} if job.interval_end else {}),
        "dataset": {"name": data.name, "digest": data.digest, "columns": data.columns, "ids": list(data.ids)},
        "model": {
            "name": job.model_name,
            "version": job.model_version,
            "sha256": plan.model_digest,
            **facts,
        },
        "settings": {
            "draws": job.draws,
            "members": plan.inputs["members"],
            **({"rank_by": job.rank_by} if job.rank_by else {}),
            **({"hide_values": True} if job.hide_values else {}),
            **({"device": job.device} if job.device != "cpu" else {}),
            "explained": job.explained,
            "reasons": job.reasons,
        },
        "decision": job.decision.as_dict(),
        "counts": {
            "read": data.rows + data.quarantined + data.outside,
            "ranked": ranking.rows,
            "quarantined": data.quarantined,
            "outside_the_interval": data.outside,
            "flagged": ranking.flagged,
            "flags_lost": ranking.turned[0] if ranking.turned else None,  # by another block of draws
            "flags_gained": ranking.turned[1] if ranking.turned else None,
            "explained": explained,
            "with_p_value": ranking.with_p_value,
            "with_missing_cells": sum(result.missing for result in results),
            "n_out_of_range": sum(result.out_of_range for result in results),
            "n_unseen": sum(result.unseen for result in results),
        },
    }


def _make(folder: Path, *, empty: bool = False) -> None:
    with publishing.writing(folder):
        if empty and folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob("*.tmp-*"):  # of a run that was killed: this one holds the lock
            path.unlink(missing_ok=True)
