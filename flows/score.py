"""The flow `score`: one model version, one dataset, one report."""

# No postponed annotations here: Prefect reads the types of a flow's parameters where it loads the flow.
from typing import Annotated, Any, Literal

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from flows import choices, datasets, last_known, namesakes, notifications, reading, registry, scheduled, steps
from flows.dataset_file import Notify
from flows.ingest import read
from flows.intervals import Schedule, end_of
from flows.orchestration import log_units, network_stage, publish_report, stage, tell_failure, warn
from flows.standing import Standing

resolve = network_stage(registry.resolve)

Share = Annotated[float, Field(gt=0, lt=1)]


@stage
def rank(model: registry.ModelVersion, data: Any, options: dict[str, Any]) -> dict[str, Any]:
    return steps.rank(model, data, **options, progress=log_units())


def run_name() -> str:
    """`score nyc-weather`, with the start of the interval where there is one."""
    given = flow_run.parameters
    name = given.get("dataset") or datasets.dataset_name(given["path"])
    return f"score {name} {given.get('as_of') or ''}".strip()


@flow(
    name="score",
    flow_run_name=run_name,
    persist_result=False,
    on_failure=[tell_failure],
    on_crashed=[tell_failure],
)
def score_flow(
    path: str,
    model: str,
    output: str = "reports",
    dataset: str | None = None,
    start: str | None = None,
    until: str | None = None,
    as_of: str | None = None,
    fdr: Share | None = None,
    alpha: Share | None = None,
    top_k: Annotated[int, Field(ge=0)] | None = None,
    replace: bool = False,
    workers: Annotated[int, Field(ge=1)] = 1,
    engine: Literal["local", "ray"] = "local",
    device: Literal["auto", "cpu", "cuda"] = "cpu",
    draws: Annotated[int, Field(ge=1)] | None = None,
    members: str | None = None,
    rank_by: str | None = None,
    hide_values: bool = False,
    null_values: list[str] | None = None,
    on_schema: steps.OnSchema = "warn",
    on_drift: steps.OnDrift = "warn",
    encoding: str = "utf-8",
    delimiter: str | None = None,
    images: dict[str, Any] | None = None,
    every: str | None = None,
    cron: str | None = None,
    timezone: str | None = None,
    delay: str | None = None,
    only_interval: bool = False,
    allow_empty: bool = False,
    notify: Notify | None = None,
) -> dict[str, Any]:
    """Rank a table and publish its report.

    With `every` or `cron` (a scheduled run) the report stands for the schedule's last whole interval; with
    `only_interval` it holds only that interval's records. A report that the interval has already stands.
    """
    if (every or cron) and as_of is None:
        due = Schedule(every, cron, timezone or "UTC", delay).interval(flow_run.scheduled_start_time)
        chosen = scheduled.of_interval(due, only=only_interval)
        as_of, allow_empty = chosen["as_of"], chosen.get("allow_empty", allow_empty)
        start, until = chosen.get("start", start), chosen.get("until", until)
        standing = Standing(output, dataset or datasets.dataset_name(path))
        kept = None if replace else standing.report_for(due, only=only_interval)
        if kept is not None:
            publish_report(kept)
            return kept
    decision = choices.check_decision(fdr=fdr, alpha=alpha, top_k=top_k)
    choices.check_device(device, engine)
    choices.member_names(members)
    version, warnings = last_known.resolve(model, resolve)
    for warning in warnings:
        warn()(warning)
    data = read(
        path,
        **steps.as_the_model_reads(version, images),
        dataset=dataset,
        start=start,
        until=until,
        null_values=null_values or [],
        on_schema=on_schema,
        encoding=encoding,
        delimiter=delimiter,
        allow_empty=allow_empty,
    )
    options = {
        "output": output,
        "as_of": as_of,
        "interval_end": end_of(as_of, start, until),
        "decision": decision,
        "replace": replace,
        "workers": workers,
        "engine": engine,
        "device": device,
        "draws": draws,
        "members": members,
        "rank_by": rank_by,
        "hide_values": hide_values,
        "allow_empty": allow_empty,
        "on_drift": on_drift,
        "origin": namesakes.origin(path, dataset),
    }
    result = rank(version, data, options)
    for warning in result["warnings"][len(data.warnings) :]:  # reading has told of the data's own
        warn()(warning)
    result["warnings"] = warnings + result["warnings"]
    publish_report(result)
    notifications.tell(notify, result, warn=warn())
    reading.refuse_drift(result)
    return result
