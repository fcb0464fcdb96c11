"""The flow `train`: read, fit, register."""

# No postponed annotations here: Prefect reads the types of a flow's parameters where it loads the flow.
import tempfile
from pathlib import Path
from typing import Any

from prefect import flow

from flows import descriptions, steps
from flows.ingest import read
from flows.orchestration import log_training, network_stage, publish_training, stage
from flows.registry import check_name

look_up = network_stage(steps.trained_before)
register = network_stage(steps.register)


@stage
def fit(data: Any, folder: Path, kinds: dict[str, str], settings: dict[str, Any]) -> Path:
    return steps.fit(data, folder, kinds=kinds, settings=settings, progress=log_training())


@flow(name="train", flow_run_name="train {name}", persist_result=False)
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
    settings: dict[str, Any] | None = None,
    retrain: bool = False,
) -> dict[str, Any]:
    """Train a model on a table and register it; the same data and settings again find their version."""
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
    )
    version = None if retrain else look_up(data, name=name, kinds=kinds, settings=settings)
    reused = version is not None
    if version is None:
        with tempfile.TemporaryDirectory(prefix="elborank-") as folder:
            fitted = fit(data, Path(folder), kinds, settings)
            version = register(fitted, data, name=name, kinds=kinds, settings=settings)
    result = descriptions.of_training(version, data, reused=reused)
    publish_training(result)
    return result
