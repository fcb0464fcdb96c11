"""The flow `generate`: new records from a registered model."""

# No postponed annotations here: Prefect reads the types of a flow's parameters where it loads the flow.
from typing import Annotated, Any

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from flows import outputs, synthetic
from flows.dataset_file import Notify
from flows.intervals import Schedule
from flows.orchestration import stage, tell_failure
from flows.score import resolve

write = stage(synthetic.write_sample)


@flow(
    name="generate",
    flow_run_name="generate {n} of {model}",
    persist_result=False,
    on_failure=[tell_failure],
    on_crashed=[tell_failure],
)
def generate_flow(
    model: str,
    n: Annotated[int, Field(ge=1)],
    output: str,
    mean: bool = False,
    missing: bool = False,
    seed: int = 0,
    data: str | None = None,
    like: str | None = None,
    peer: bool = False,
    replace: bool = False,
    every: str | None = None,
    cron: str | None = None,
    timezone: str | None = None,
    delay: str | None = None,
    notify: Notify | None = None,
) -> dict[str, Any]:
    """Write n new records, and how far each column lies from the training data.

    A scheduled run (`every` or `cron`) puts the start of its interval into the file's name.
    """
    if every or cron:
        first, _ = Schedule(every, cron, timezone or "UTC", delay).interval(flow_run.scheduled_start_time)
        output = synthetic.of_interval(output, first)
        if outputs.exists(output) and not replace:
            return {"output": output, "published": False}
    chosen = {"mean": mean, "missing": missing, "seed": seed, "data": data, "like": like, "peer": peer}
    return write(resolve(model), n, output, **chosen, replace=replace)
