"""The flow `ingest`: raw files into a typed dataset."""

# No postponed annotations here: Prefect reads the types of a flow's parameters where it loads the flow.
from typing import Any

from prefect import flow

from flows import descriptions, steps
from flows.orchestration import stage

read = stage(steps.ingest)


@flow(name="ingest", flow_run_name="ingest {path}", persist_result=False)
def ingest_flow(
    path: str,
    store: str | None = None,
    dataset: str | None = None,
    ids: list[str] | None = None,
    start: str | None = None,
    until: str | None = None,
    time: str | None = None,
    types: dict[str, str] | None = None,
    null_values: list[str] | None = None,
    on_schema: steps.OnSchema = "warn",
    encoding: str = "utf-8",
    delimiter: str | None = None,
    images: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Read raw files into a dataset; returns its name, folder, columns and counts."""
    data = read(
        path,
        store=store,
        dataset=dataset,
        ids=ids or [],
        start=start,
        until=until,
        time=time,
        types=types,
        null_values=null_values or [],
        on_schema=on_schema,
        encoding=encoding,
        delimiter=delimiter,
        images=images,
    )
    return descriptions.of_dataset(data)
