"""The file that MLflow keeps with a model and runs to load it: `predict(DataFrame)` gives the report's columns.

It lies alone in the model's folder, beside a copy of `vae_core`: it may import that, the listed requirements and
nothing else. Rank, q-value and flag are properties of a whole report, not of a record, and are left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pyarrow as pa
from mlflow.pyfunc import PythonModel

from vae_core import explanation, frames, storage

SCORES = (
    "anomaly_score",
    "bound",
    "elbo",
    "reconstruction",
    "kl",
    "elbo_se",
    "p_value",
    "n_missing",
    "n_out_of_range",
    "n_unseen",
)


class ReportColumns(PythonModel):
    """A fitted model behind MLflow's interface; its folder's hashes are verified before anything is parsed."""

    def load_context(self, context: Any) -> None:
        self.model = storage.load(Path(context.artifacts["model"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Record-wise report columns, in the input's order; `params={"top": 3}` limits the reasons of a record."""
        encoding = self.model.encoding
        table = frames.table_of(model_input, encoding.columns)
        scores = self.model.score(table)
        reasons = explanation.explain(self.model, table, top=int((params or {}).get("top", 5)))
        columns: dict[str, Any] = {"record_id": frames.record_ids(table, encoding.ids)}
        columns |= {name: getattr(scores, name) for name in SCORES}
        columns |= {name: reasons.column(name).to_pylist() for name in ("why", "reasons", "rest_nats")}
        return pd.DataFrame(columns, index=model_input.index)


mlflow.models.set_model(ReportColumns())
