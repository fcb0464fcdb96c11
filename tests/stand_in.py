"""A cheap deterministic model for tests of units, ranking and publishing, and a job with it as a process.

Nothing here imports torch, so that its processes start quickly.

It scores x^2 / 2, rounded on request (so that records tie), with a closed-form p-value, and tells one reason.
`python -m tests.stand_in DATASET OUTPUT [SETTING=VALUE ...]` scores a dataset and prints the report's folder.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa

from vae_core import job, sources
from vae_core.report import Decision
from vae_core.work import REASONS


@dataclass
class StandIn:
    """Standard normal in column x: bound = -x^2 / 2; a null x is a missing cell, without a p-value."""

    digits: int = 12
    pause: float = 0.0  # seconds a unit takes

    def score(self, table: pa.Table) -> SimpleNamespace:
        time.sleep(self.pause)
        x = table["x"].to_numpy()
        missing = np.isnan(x)
        surprise = np.round(np.where(missing, 0.0, x) ** 2 / 2, self.digits)
        zeros = np.zeros(len(x))
        p = np.where(missing, np.nan, [math.erfc(math.sqrt(s)) for s in surprise])
        return SimpleNamespace(
            anomaly_score=surprise,
            bound=-surprise,
            elbo=0.25 - surprise - (x_kl := np.where(missing, 0.0, 0.5)),
            reconstruction=0.25 - surprise,
            kl=x_kl,
            elbo_se=zeros,
            p_value=p,
            n_missing=missing.astype(np.int32),
            n_out_of_range=(np.abs(np.nan_to_num(x)) > 3).astype(np.int32),
            n_unseen=zeros.astype(np.int32),
        )


def load(folder: Path, digest: str, **settings: float) -> StandIn:
    """What `storage.load` is to a real model."""
    return StandIn(**settings)  # type: ignore[arg-type]


def explain(model: StandIn, table: pa.Table, *, top: int) -> pa.Table:
    """One reason a record, x, and the rest."""
    bound = model.score(table).bound
    reasons = [
        [{"feature": "x", "value": str(x), "expected": "0", "low": "-1", "high": "1", "value_number": x,
          "nats": float(nats) - 1.0, "typical": -0.5}]
        for x, nats in zip(table["x"].to_pylist(), bound, strict=True)
    ]  # fmt: skip
    why = [f"x {x}, expected 0" for x in table["x"].to_pylist()]
    rest, tilt = np.ones(table.num_rows), np.zeros(table.num_rows)
    return pa.table({"why": why, "reasons": pa.array(reasons, REASONS), "rest_nats": rest, "tilt_nats": tilt})


def make_table(rows: int, *, random_state: int = 0) -> pd.DataFrame:
    """Keys that are not in order, standard normal x with some far ones, missing ones and copies."""
    generator = np.random.default_rng(random_state)
    x = generator.normal(size=rows)
    x[:: max(1, rows // 7)] += 6
    x[generator.random(rows) < 0.02] = np.nan
    copies = generator.integers(0, rows, rows // 10)
    x[copies] = x[generator.integers(0, rows, rows // 10)]
    keys = generator.permutation(rows)
    return pd.DataFrame({"key": [f"k{key}" for key in keys], "x": x})


def make_dataset(folder: Path, *, rows: int = 3000, files: int = 3, random_state: int = 0) -> Path:
    """A real dataset folder, ingested from Parquet files."""
    raw = folder / "raw"
    raw.mkdir(parents=True)
    table = make_table(rows, random_state=random_state)
    for number, part in enumerate(np.array_split(np.arange(rows), files)):
        table.iloc[part].to_parquet(raw / f"part-{number}.parquet", index=False)
    return sources.ingest(raw, folder / "store", name="numbers", ids=["key"]).folder


def make_job(dataset: Path, output: Path, **settings: object) -> job.Job:
    """A job with the stand-in; settings of Job, or `digits` and `pause` of the model."""
    chosen = dict(settings)
    model = {name: chosen.pop(name) for name in ("digits", "pause") if name in chosen}
    defaults: dict[str, object] = {
        "model_name": "stand-in",
        "model_version": "1",
        "model_digest": f"digits {model.get('digits')}",  # a pause changes no score
        "model_facts": {"likelihoods": {"x": "gaussian"}, "members": {"vae": 1.0}, "draws": 1},
        "rows_per_unit": 300,
        "explained": 50,
        "load": partial(load, **model) if model else load,
        "explain": explain,
    }
    return job.Job(dataset, output / "no-model-folder", output, **(defaults | chosen))  # type: ignore[arg-type]


def scored_files(dataset: Path, staging: Path, **settings: object) -> list[Path]:
    """The units' files of a dataset, scored by the stand-in."""
    one = make_job(dataset, staging, **settings)
    plan = job.prepare(one)
    list(job.score(plan))
    return [job.scored_file(plan.staging, unit.id) for unit in plan.units]


def main(dataset: str, output: str, *settings: str) -> None:
    """Run the job; `workers`, `replace` and `as_of` (a day in January 2013) are for `job.run`."""
    given = {name: float(value) for name, value in (setting.split("=") for setting in settings)}
    workers, replace = int(given.pop("workers", 1)), bool(given.pop("replace", 0))
    more: dict[str, object] = {name: int(v) if v == int(v) else v for name, v in given.items()}
    if "as_of" in more:
        more["as_of"] = datetime(2013, 1, int(given["as_of"]), tzinfo=UTC)
    if "top_k" in more:
        more["decision"] = Decision(top_k=int(given["top_k"]))
        del more["top_k"]
    outcome = job.run(make_job(Path(dataset), Path(output), **more), workers=workers, replace=replace)
    print("published" if outcome.fresh else "nothing to do", outcome.folder, flush=True)


__all__ = ["StandIn", "explain", "load", "main", "make_dataset", "make_job", "scored_files"]

if __name__ == "__main__":
    main(*sys.argv[1:])
