"""The flow `train`: read, fit, register."""

# No postponed annotations here: Prefect reads the types of a flow's parameters where it loads the flow.
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from flows import descriptions, judgements, notifications, promotion, steps
from flows.dataset_file import Notify
from flows.ingest import read
from flows.intervals import Schedule, every_of
from flows.orchestration import log_training, network_stage, publish_training, stage, tell_failure, warn
from flows.registry import ModelVersion, check_name
from flows.scratch import scratch
from vae_core.errors import Refused

look_up = network_stage(steps.trained_before)
register = network_stage(steps.register)


@stage
def fit(data: Any, folder: Path, kinds: dict[str, str], settings: dict[str, Any]) -> Path:
    return steps.fit(data, folder, kinds=kinds, settings=settings, progress=log_training())


@network_stage
def judged(version: ModelVersion, data: Any) -> dict[str, Any]:
    """Promote the version if the checks pass; a refusal is an answer, not a failure."""
    try:
        told = promotion.promote(version.name, version.version, data=data)
        return {"promoted": True, "champion": told["champion"], "refused": None}
    except Refused as refusal:
        warn()(str(refusal))
        return {"promoted": False, "champion": None, "refused": str(refusal)}


@flow(
    name="train",
    flow_run_name="train {name}",
    persist_result=False,
    on_failure=[tell_failure],
    on_crashed=[tell_failure],
)
def train_flow(
    path: str,
    name: str,
    dataset: str | None = None,
    ids: list[str] | None = None,
    start: str | None = None,
    until: str | None = None,
    time: str | None = None,
    kinds: dict[str, str] | None = None,
    null_values: list[str] | None = None,
    on_schema: steps.OnSchema = "warn",
    encoding: str = "utf-8",
    delimiter: str | None = None,
    images: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    retrain: bool = False,
    keep_anomalies: bool = False,
    every: str | None = None,
    cron: str | None = None,
    timezone: str | None = None,
    delay: str | None = None,
    window: str | None = None,
    promote: bool = False,
    notify: Notify | None = None,
) -> dict[str, Any]:
    """Train a model on a table and register it; the same data and settings again find their version.

    With `every` or `cron` (a scheduled run) and `window`, on the records of the last `window` before the end
    of the schedule's interval. With `promote` the checks decide whether it becomes champion.
    """
    if (every or cron) and window and until is None:
        _, end = Schedule(every, cron, timezone or "UTC", delay).interval(flow_run.scheduled_start_time)
        start, until = (end - every_of(window)).isoformat(), end.isoformat()
    check_name(name)
    kinds, settings = kinds or {}, settings or {}
    data = read(
        path,
        dataset=dataset,
        ids=ids or [],
        start=start,
        until=until,
        time=time,
        null_values=null_values or [],
        on_schema=on_schema,
        encoding=encoding,
        delimiter=delimiter,
        images=images,
    )
    data = judgements.without_confirmed(data, keep=keep_anomalies)
    version = None if retrain else look_up(data, name=name, kinds=kinds, settings=settings, challenge=promote)
    reused = version is not None
    if version is None:
        with scratch() as folder:
            fitted = fit(data, folder, kinds, settings)
            version = register(fitted, data, name=name, kinds=kinds, settings=settings, challenge=promote)
    result = descriptions.of_training(version, data, reused=reused)
    for warning in result["warnings"][len(data.warnings) :]:  # reading has told of the data's own
        warn()(warning)
    if promote:
        result["promotion"] = judged(version, data)
        notifications.tell_promotion(notify, result, warn=warn())
    publish_training(result)
    return result
