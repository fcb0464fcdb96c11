"""The verbs as plain functions: what the Prefect tasks wrap and the command line calls.

They take and return plain values, know nothing of Prefect, and raise InputError or Refused for what a user
can mend. A whole command (`train`, `score`) is the same sentence of verbs that its flow says with tasks.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from flows import collector, datasets, descriptions, judgements, last_known, namesakes, registry, together
from flows.choices import check_decision, check_device, member_names
from flows.intervals import end_of, instant
from flows.registry import ModelVersion, home
from flows.scratch import scratch, sweep
from vae_core import engines
from vae_core.errors import InputError, Refused, one_line

TRAINING_KEY = "elborank.training"
EXAMPLE_ROWS = 5
SHOWN = 10  # records of the ranking that a scoring command shows
OnSchema = Literal["warn", "stop"]
OnDrift = Literal["warn", "fail"]


def ingest(
    path: str,
    *,
    store: str | None = None,
    dataset: str | None = None,
    ids: Sequence[str] = (),
    start: str | None = None,
    until: str | None = None,
    time: str | None = None,
    types: Mapping[str, str] | None = None,
    columns: Mapping[str, str] | None = None,
    only_keys: Sequence[str] = (),
    null_values: Sequence[str] = (),
    on_schema: str = "warn",
    encoding: str = "utf-8",
    delimiter: str | None = None,
    allow_empty: bool = False,
    images: Mapping[str, Any] | None = None,
    progress: Any = None,
) -> Any:
    """Raw files -> a dataset folder (`vae_core.sources.Dataset`); the same content is found again.

    `types` are of single columns, `columns` all that a model takes; of these the `only_keys` are no features,
    and their type is free. `images` are the options of
    `vae_core.images.ingest`: size, fit, colour, column, or a model's shape.
    """
    from vae_core import sources, stores

    if store is not None and stores.is_remote(store):
        raise InputError(
            "--store takes a folder of this machine, no address", file=store, fix="Name a folder"
        )
    told = {**(columns or {}), **(types or {})}
    if stores.is_remote(path):
        path = str(stores.fetch(path, home() / "inputs"))
    if sources.is_dataset(path):
        typed = {name: kind for name, kind in told.items() if name not in only_keys}
        return datasets.open_as_asked(path, ids, start, until, typed, images)
    from flows import pictures

    if pictures.are_meant(path, images, is_table=bool(told)):
        options = {"name": dataset or datasets.dataset_name(path), "ids": tuple(ids), "progress": progress}
        return pictures.ingest(path, store, images, timed=bool(start or until), **options)
    return sources.ingest(
        path,
        Path(store) if store else home() / "datasets",
        name=dataset or datasets.dataset_name(path),
        ids=tuple(ids),
        columns=columns,
        only_keys=only_keys,
        types=types,
        start=instant(start, "--from"),
        until=instant(until, "--until"),
        time=time,
        null_values=tuple(null_values) or sources.DEFAULT_NULLS,
        on_schema=on_schema,
        encoding=encoding,
        delimiter=delimiter,
        allow_empty=allow_empty,
        progress=progress,
    )


def train(path: str, *, name: str, progress: Any = None, **options: Any) -> dict[str, Any]:
    """Read, fit, register: the model's version and what is worth knowing of it."""
    registry.check_name(name)
    settings, kinds = options.pop("settings", {}), options.pop("kinds", {})
    retrain, keep = options.pop("retrain", False), options.pop("keep_anomalies", False)
    with collector.paused():
        _settings(settings)
    data = judgements.without_confirmed(ingest(path, **options), keep=keep)
    known = None if retrain else trained_before(data, name=name, kinds=kinds, settings=settings)
    together.tell(known is None)
    if known is not None:
        return descriptions.of_training(known, data, reused=True)
    with scratch() as folder:
        fitted = fit(data, folder, kinds=kinds, settings=settings, progress=progress)
        version = register(fitted, data, name=name, kinds=kinds, settings=settings)
    return descriptions.of_training(version, data, reused=False)


def fit(
    data: Any, folder: Path, *, kinds: Mapping[str, str], settings: Mapping[str, Any], progress: Any = None
) -> Path:
    """Train on a dataset and save the model inside `folder`; nothing is saved when the loss is not finite.

    Interrupted, the same training goes on where it was, from checkpoints under `.elborank/`.
    """
    with collector.paused():
        from vae_core import sources, storage, training

    chosen = _settings(settings)
    resumable = {"progress": progress, "checkpoint": _checkpoint(data, kinds, settings)}
    try:
        if data.image is not None:
            from flows import pictures

            return pictures.fit(data, folder, settings=chosen, **resumable)
        model = training.fit(
            lambda: sources.batches(data),
            ids=data.ids,
            time=data.time,
            kinds=dict(kinds) or None,
            settings=chosen,
            stream=lambda number: sources.shuffled(data, chosen.random_state * 1_000_003 + number),
            **resumable,
        )
    except training.TrainingStopped as stopped:
        raise InputError(f"training stopped: {stopped}") from stopped
    place = folder / registry.MODEL_FOLDER
    storage.save(model, place)
    return place


def register(
    folder: Path,
    data: Any,
    *,
    name: str,
    kinds: Mapping[str, str],
    settings: Mapping[str, Any],
    challenge: bool = False,
) -> ModelVersion:
    """Log a saved model with its parameters, curve and data's digest, as the next version of `name`."""
    from vae_core import page, storage
    from vae_core.card import card, finite

    model = storage.load(folder)
    summary, digest = model.summary, storage.model_digest(folder)
    version = registry.register(
        folder,
        name=name,
        sha256=digest,
        card=page.model_page(finite(card(model)), name=name, sha256=digest),
        columns=model.encoding.columns,
        example=_example(data, model.encoding.columns),
        params={
            **model.settings,
            "dataset": data.name,
            "dataset_digest": data.digest,
            "kinds": json.dumps(kinds),
        },
        history=summary.get("history", []),
        pictures=folder.with_name("pictures"),
        metrics={k: v for k, v in summary.items() if isinstance(v, float)},
        tags={
            TRAINING_KEY: training_key(data, kinds=kinds, settings=settings),
            "dataset": data.name,
            "dataset_digest": data.digest,
            "dataset_folder": str(Path(data.folder).absolute()),
            **({} if summary.get("heldout_is") == "fit" else {"heldout_elbo": repr(summary["heldout_elbo"])}),
            "rows": str(data.rows),
        },
        once=TRAINING_KEY,
        challenge=challenge,
    )
    shutil.rmtree(_checkpoint(data, kinds, settings), ignore_errors=True)
    return version


def training_key(data: Any, *, kinds: Mapping[str, str], settings: Mapping[str, Any]) -> str:
    """One hash for all that decides what a training gives: data, key, kinds, settings and code."""
    import vae_core

    what = [
        data.digest,
        list(data.ids),
        data.time,
        dict(data.columns),
        dict(kinds),
        _settings(settings).to_json(),
        *([list(data.left_out)] if data.left_out else []),
    ]
    digest = hashlib.sha256(json.dumps([*what, vae_core.__version__], sort_keys=True).encode())
    for file in sorted(Path(vae_core.__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _checkpoint(data: Any, kinds: Mapping[str, str], settings: Mapping[str, Any]) -> Path:
    return home() / "training" / training_key(data, kinds=kinds, settings=settings)[:16]


def trained_before(
    data: Any,
    *,
    name: str,
    kinds: Mapping[str, str],
    settings: Mapping[str, Any],
    challenge: bool = False,
) -> ModelVersion | None:
    """The registered version that this very training gave, or None.

    One that was made by a run which died before it gave the version its alias gets it now, and what that run
    left behind goes.
    """
    found = registry.find(name, TRAINING_KEY, training_key(data, kinds=kinds, settings=settings))
    if found is None:
        return None
    sweep()
    return registry.give_alias(found, challenge=challenge)


def check_settings(options: Mapping[str, Any]) -> Any:
    """Settings of training, on any machine; an unknown one or a bad value is the user's to mend."""
    from vae_core import devices
    from vae_core.training import Settings

    unknown = set(options) - {f.name for f in fields(Settings)}
    if unknown:
        raise InputError(f"there is no training setting {one_line(', '.join(sorted(unknown)))}")
    devices.check(str(options.get("device", "auto")))
    try:
        return Settings(**options)
    except ValueError as error:
        raise InputError(str(error)) from error


def _settings(options: Mapping[str, Any]) -> Any:
    """The same for this machine."""
    from vae_core import devices

    chosen = check_settings(options)
    devices.for_training(chosen.device, 0)
    return chosen


def _example(data: Any, columns: Iterable[str]) -> Any:
    """A few records as JSON can hold them, for those who want to call the model."""
    from vae_core import sources

    first = next(sources.batches(data, columns=list(columns), rows=EXAMPLE_ROWS))
    if data.image is not None:
        from flows import pictures

        return pictures.example(data, first)
    frame = first.select(list(columns)).to_pandas()
    for name, kind in data.columns.items():
        if kind == "timestamp":
            frame[name] = frame[name].dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    return frame


def score(path: str, *, model: str, progress: Any = None, **options: Any) -> dict[str, Any]:
    """Resolve the model once, read the data as it expects them, rank: what was published, and its top."""
    with collector.paused():  # nearly all that is imported is imported here
        decision = check_decision(**{k: options.pop(k, None) for k in ("fdr", "alpha", "top_k")})
        ranking = {k: options.pop(k) for k in ("output", "as_of", "replace", "workers", "members")}
        ranking |= {"allow_empty": options.get("allow_empty", False), "rank_by": options.pop("rank_by", None)}
        further = ("engine", "device", "draws", "on_drift", "hide_values")
        ranking |= {k: options.pop(k) for k in further if k in options}
        ranking["interval_end"] = end_of(ranking["as_of"], options.get("start"), options.get("until"))
        check_device(ranking.get("device", "cpu"), ranking.get("engine", "local"))
        member_names(ranking["members"])
        engines.get_ready(ranking.get("engine", "local"), ranking["workers"])
        version, warnings = last_known.resolve(model)
        reads = as_the_model_reads(version, options.pop("images", None))
    data = ingest(path, **reads, **options)
    ranking["origin"] = namesakes.origin(path, options.get("dataset"))
    result = rank(version, data, **ranking, decision=decision, progress=progress)
    return result | {"warnings": warnings + result["warnings"]}


def as_the_model_reads(version: ModelVersion, images: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The options of ingest that the model decides: types, key and time column; of images their shape."""
    from vae_core import records, storage

    encoding = storage.load(version.folder).encoding
    if encoding.preset == "images":
        return {"ids": encoding.ids, "images": {**(images or {}), "shape": encoding.shape.to_json()}}
    named = {"ids": encoding.ids, "only_keys": records.only_keys(encoding), "time": encoding.time}
    return {"columns": encoding.columns, **named}


def generate(model: str, *, n: int, output: str, **options: Any) -> dict[str, Any]:
    """New records from a model, in a file, with their distances to the training data."""
    from flows import synthetic

    return synthetic.write_sample(registry.resolve(model), n, output, **options)


def rank(
    version: ModelVersion,
    data: Any,
    *,
    output: str,
    decision: Any,
    as_of: str | None = None,
    interval_end: str | None = None,
    replace: bool = False,
    workers: int = 1,
    engine: str = "local",
    device: str = "cpu",
    draws: int | None = None,
    members: str | None = None,
    rank_by: str | None = None,
    on_drift: str = "warn",
    hide_values: bool = False,
    allow_empty: bool = False,
    origin: str | None = None,
    progress: Any = None,
) -> dict[str, Any]:
    """Score every unit, rank, explain, publish; or find that this very report is there already.

    Strong drift with `on_drift="fail"` is for the caller to refuse (`reading.refuse_drift`).
    """
    from flows import remote
    from vae_core import job

    done, total = 0, len(job.cut(data))

    def count(_result: Any) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    what = job.Job(
        dataset=Path(data.folder),
        model=version.folder,
        output=remote.local_output(output),
        model_name=version.name,
        model_version=version.version,
        model_digest=version.sha256,
        as_of=instant(as_of, "--as-of"),
        interval_end=instant(interval_end, "the interval's end"),
        decision=decision,
        draws=draws,
        allow_empty=allow_empty,
        rank_by=rank_by,
        device=device,
        hide_values=hide_values,
        members=member_names(members),
    )
    beside = namesakes.warning(origin, output, data.name)
    try:
        outcome = remote.run(what, output, engine=engine, workers=workers, replace=replace, on_done=count)
    except engines.WorkerDied as died:
        raise InputError(str(died)) from died
    except Refused as refused:
        raise Refused(" ".join([str(refused), *beside])) from refused
    result = descriptions.of_scoring(
        outcome, data, shown=SHOWN, fail=on_drift == "fail", hide_values=hide_values
    )
    if outcome.fresh:
        namesakes.note(origin, output, data.name, outcome.address)
        result["warnings"] += beside
    return result
