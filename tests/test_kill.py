"""A real model's scoring job, killed at random moments, ends in one and the same report."""

from __future__ import annotations

import sys
from pathlib import Path

import duckdb
import pandas as pd
import pytest

from tests import shop
from tests.bench.kill import kill_again_and_again
from vae_core import job, sources, storage, training


@pytest.mark.slow
def test_a_killed_job_and_the_same_one_again_publish_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # on a busy machine two threads wait for each other
    shop.sales().to_csv(tmp_path / "sales.csv", index=False)
    data = sources.ingest(tmp_path / "sales.csv", tmp_path / "store", ids=["sale"])
    settings = training.Settings(steps=30, members=1)
    storage.save(
        training.fit(lambda: sources.batches(data), ids=["sale"], settings=settings), tmp_path / "model"
    )
    command = [sys.executable, "-m", "tests.test_kill", str(data.folder), str(tmp_path)]
    here = Path(__file__).resolve().parents[1]
    hit, _ = kill_again_and_again(command, here, tmp_path / "reports", kills=2)
    assert hit >= 1
    ranked = pd.read_parquet(next((tmp_path / "reports").glob("*/run=*/report.parquet")))
    assert sorted(ranked["record_id"]) == sorted(shop.sales()["sale"])
    sums = """SELECT max(abs(elbo - (reconstruction - kl))) < 1e-9, count(reasons) >= 20,
              max(abs(list_sum(list_transform(reasons, lambda x: x.nats)) + rest_nats - bound)) < 1e-9
              FROM ranked"""
    assert duckdb.sql(sums).fetchall() == [(True, True, True)]


def main(dataset: str, folder: str) -> None:
    """The job of the test, in units small enough to be killed between them."""
    where = Path(folder)
    job.run(job.Job(Path(dataset), where / "model", where / "reports", rows_per_unit=100, explained=20))


if __name__ == "__main__":
    main(*sys.argv[1:])
