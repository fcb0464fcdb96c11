"""The file that MLflow keeps with a model and runs to load it: `predict(DataFrame)` gives the report's
columns.

It lies alone in the model's folder, beside a copy of `vae_core`: it may import that, the listed requirements
and nothing else. Rank, q-value and flag are properties of a whole report, not of a record, and are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST
from mlflow.pyfunc import PythonModel

from vae_core import storage
from vae_core.errors import InputError
from vae_core.images.cells import pixel_table
from vae_core.images.encoding import COLUMN, ImageEncoding, as_table
from vae_core.records import only_keys
from vae_core.sources import cells, records
from vae_core.work import WHY, explain_table

OF_IMAGES = ("elbo_excess", "complexity_bits", "part")

NUMBERS = (
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


class Unfit(MlflowException, InputError):
    """An InputError that MLflow's server passes on, with status 400; of others it hides the reason."""

    def __init__(self, problem: InputError) -> None:
        super().__init__(str(problem), error_code=BAD_REQUEST)


class ReportColumns(PythonModel):
    """A fitted model behind MLflow's interface; its folder's hashes are verified before it is parsed."""

    def load_context(self, context: Any) -> None:
        self.model = storage.load(Path(context.artifacts["model"]))

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Record-wise report columns, in the input's order; `params={"top": 3}` limits the reasons.

        Cells are read as ingest reads them. Raises InputError for a missing column and for a cell that does
        not fit: here is no quarantine.
        """
        top = int((params or {}).get("top", 5))
        try:
            if top < 1:
                raise InputError(f"top is {top}", fix="Ask for at least one reason")
            table = self._table(model_input)
        except InputError as problem:
            raise Unfit(problem) from problem
        made = self._columns(table, top=top)
        return made.iloc[: len(model_input)].set_axis(model_input.index)

    def _columns(self, table: pa.Table, *, top: int) -> pd.DataFrame:
        encoding = self.model.encoding
        ids = encoding.ids if set(encoding.ids) <= set(table.column_names) else ()
        rows = pa.array(np.arange(1, table.num_rows + 1))
        sources = pa.repeat(pa.scalar("", pa.string()), table.num_rows)
        values = {name: table.column(name).combine_chunks() for name in ids}
        scores = self.model.score(table)
        reasons = explain_table(self.model, table, top=top)
        columns: dict[str, Any] = {"record_id": records.record_ids(values, ids, sources, rows).to_pylist()}
        columns |= {name: getattr(scores, name) for name in NUMBERS}
        columns |= {name: getattr(scores, name) for name in OF_IMAGES if hasattr(scores, name)}
        columns |= {name: reasons.column(name).to_pylist() for name in WHY}
        return pd.DataFrame(columns)

    def _table(self, frame: pd.DataFrame) -> pa.Table:
        """The records as the model takes them; images are the bytes of their files, or these in base64."""
        encoding = self.model.encoding
        if isinstance(encoding, ImageEncoding):
            if COLUMN not in frame.columns:
                raise InputError("is missing", column=COLUMN, fix="The model was trained with images")
            if not len(frame):  # not a batch that can be encoded: what is made of a black image, less its row
                shape = encoding.shape
                black = np.zeros((1, shape.height, shape.width, shape.channels), shape.dtype)
                return as_table(black)
            return pixel_table(frame[COLUMN], encoding.shape)
        return typed_table(frame, encoding.columns, only_keys(encoding))


def typed_table(frame: pd.DataFrame, columns: dict[str, str], keys: Sequence[str] = ()) -> pa.Table:
    """A pandas frame with these columns in these types, but for `keys`, which stay as they stand; rows in
    messages are counted from 1."""
    arrays = {}
    for name, kind in columns.items():
        if name not in frame.columns:
            raise InputError("is missing", column=name, fix="The model was trained with it")
        array = _arrow(frame[name], kind)
        found = cells.typed(array, "string" if name in keys and _is_text(array) else kind, NULLS)
        if found.faults and name in keys:
            found = cells.typed(array, cells.natural(array.type) or kind, NULLS)
        if found.faults:
            fault = found.faults[0]
            raise InputError(fault.reason, column=name, row=fault.place + 1)
        arrays[name] = found.values
    return pa.table(arrays)


def _arrow(series: pd.Series, kind: str) -> pa.Array:
    """A column as pandas read it, as an array that ingest's conversions know."""
    if series.isna().all():
        return pa.nulls(len(series))
    if isinstance(series.dtype, pd.DatetimeTZDtype):
        series = series.dt.tz_convert(None)  # UTC; pyarrow 25 asks pandas 3 for it in a way that warns
    try:
        array = pa.Array.from_pandas(series)
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # mixed objects: their texts say what they are
        array = _texts(series)
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    return array if cells.convertible(array.type, kind) else _texts(series)


def _is_text(array: pa.Array) -> bool:
    return cells.natural(array.type) == "string"


def _texts(series: pd.Series) -> pa.Array:
    return pa.array(
        [None if missing else str(value) for value, missing in zip(series, series.isna(), strict=True)]
    )


NULLS = pa.array([""])

mlflow.models.set_model(ReportColumns())
