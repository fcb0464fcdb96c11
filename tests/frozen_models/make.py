"""Freeze a small model of this release: python -m tests.frozen_models.make v0.2

Writes <release>/model, a model folder, and <release>/expected.parquet, what it says of the first 60 tumours.
A frozen folder is never written again: what it shows is that later releases read it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vae_core import storage, training
from vae_core.explanation import explain

HERE = Path(__file__).resolve().parent
TUMOURS = HERE.parents[1] / "data" / "breast_cancer" / "breast_cancer.parquet"
COLUMNS = [
    "record_id",
    "mean_radius",
    "mean_texture",
    "radius_error",
    "worst_area",
    "worst_concavity",
    "label",
]
ROWS = 60


def records() -> pa.Table:
    """Five measurements, and whether the tumour is malignant, as a boolean column."""
    return pq.read_table(TUMOURS, columns=COLUMNS)


def freeze(release: str) -> Path:
    folder = HERE / release
    settings = training.Settings(steps=40, hidden=(8,), latent=2, members=2, draws=8)
    model = training.fit(lambda: iter(records().to_batches()), settings=settings)
    storage.save(model, folder / "model")
    some = records().slice(0, ROWS)
    scores = model.score(some)
    names = ("bound", "elbo", "reconstruction", "kl", "p_value")
    expected = {name: getattr(scores, name) for name in names}
    pq.write_table(
        pa.table(expected | {"why": explain(model, some).column("why")}), folder / "expected.parquet"
    )
    return folder


if __name__ == "__main__":
    print(freeze(*sys.argv[1:]))
