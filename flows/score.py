"""The flow `score`: one model version, one dataset, one report."""

# No postponed annotations here: Prefect reads the types of a flow's parameters where it loads the flow.
from typing import Annotated, Any

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from flows import deployments, registry, steps
from flows.ingest import read
from flows.orchestration import log_units, network_stage, publish_report, stage

resolve = network_stage(registry.resolve)

Share = Annotated[float, Field(gt=0, lt=1)]


@stage
def rank(model: registry.ModelVersion, data: Any, options: dict[str, Any]) -> dict[str, Any]:
    return steps.rank(model, data, **options, progress=log_units())


def run_name() -> str:
    """`score nyc-weather`, with the start of the interval where there is one."""
    given = flow_run.parameters
    name = given.get("dataset") or steps.dataset_name(given["path"])
    return f"score {name} {given.get('as_of') or ''}".strip()


@flow(name="score", flow_run_name=run_name, persist_result=False)
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
    members: str | None = None,
    null_values: list[str] | None = None,
    on_schema: steps.OnSchema = "warn",
    encoding: str = "utf-8",
    delimiter: str | None = None,
    every: str | None = None,
    cron: str | None = None,
    only_interval: bool = False,
) -> dict[str, Any]:
    """Rank a table and publish its report.

    With `every` or `cron` (a scheduled run) the report stands for the schedule's last whole interval; with
    `only_interval` it holds only that interval's records.
    """
    if every or cron:
        first, end = deployments.interval(flow_run.scheduled_start_time, every, cron)
        as_of = as_of or first.isoformat()
        if only_interval:
            start, until = first.isoformat(), end.isoformat()
    decision = steps.check_decision(fdr=fdr, alpha=alpha, top_k=top_k)
    version = resolve(model)
    data = read(
        path,
        **steps.as_the_model_reads(version),
        dataset=dataset,
        start=start,
        until=until,
        null_values=null_values or [],
        on_schema=on_schema,
        encoding=encoding,
        delimiter=delimiter,
    )
    options = {
        "output": output,
        "as_of": as_of,
        "decision": decision,
        "replace": replace,
        "workers": workers,
        "members": members,
    }
    result = rank(version, data, options)
    publish_report(result)
    return result
