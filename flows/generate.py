"""The flow `generate`: new records from a registered model."""

# No postponed annotations here: Prefect reads the types of a flow's parameters where it loads the flow.
from typing import Annotated, Any

from prefect import flow
from pydantic import Field

from flows import synthetic
from flows.orchestration import stage
from flows.score import resolve

write = stage(synthetic.write_sample)


@flow(name="generate", flow_run_name="generate {n} of {model}", persist_result=False)
def generate_flow(
    model: str,
    n: Annotated[int, Field(ge=1)],
    output: str,
    mean: bool = False,
    missing: bool = False,
    seed: int = 0,
    data: str | None = None,
    replace: bool = False,
) -> dict[str, Any]:
    """Write n new records, and how far each column lies from the training data."""
    return write(resolve(model), n, output, mean=mean, missing=missing, seed=seed, data=data, replace=replace)
