"""A key that is no feature of the model names its record, and stays as it stands whatever training had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from flows import judgements, reading, registry, steps
from vae_core import sources
from vae_core.records import only_keys

AS_TRAINED: dict[str, Any] = {"columns": {"id": "int64", "x": "double"}, "ids": ["id"], "only_keys": ["id"]}


def ingested(folder: Path, **options: Any) -> sources.Dataset:
    return sources.ingest(folder / "in", folder / "store", **{**AS_TRAINED, **options})


def files(folder: Path, **ids: Any) -> Path:
    """CSV and Parquet files with these keys: a_csv=[...] is a.csv."""
    (folder / "in").mkdir(exist_ok=True)
    for file, own in ids.items():
        frame = pd.DataFrame({"id": own, "x": np.arange(len(own)) + 0.5})
        if file.endswith("_csv"):
            frame.to_csv(folder / "in" / file.replace("_", "."), index=False)
        else:
            frame.to_parquet(folder / "in" / file.replace("_", "."))
    return folder


def keys(dataset: sources.Dataset) -> list[str]:
    return [key for batch in sources.batches(dataset) for key in batch["_record_id"].to_pylist()]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_keys_that_are_written_differently_are_different_records(tmp_path: Path, ending: str) -> None:
    written = ["0012", "12", "+13", "13", "2007-B", "12.0", "9" * 30]
    dataset = ingested(files(tmp_path, **{f"a_{ending}": written}))
    assert keys(dataset) == written
    assert (dataset.quarantined, dataset.columns) == (0, {"id": "string", "x": "double"})


@pytest.mark.parametrize(
    ("trained", "ids", "found"),
    [
        ("int64", {"a_csv": ["12", "13"]}, ["12", "13"]),
        ("int64", {"a_parquet": [12.0, 1e10]}, ["12", "10000000000"]),
        ("double", {"a_parquet": [12, 10**10]}, ["12", "1e+10"]),
        ("double", {"a_parquet": [2**53, 2**53 + 1]}, [str(2**53), str(2**53 + 1)]),
        ("string", {"a_parquet": [12, 13]}, ["12", "13"]),
        ("string", {"a_csv": [" 12", "12"]}, [" 12", "12"]),
        ("int64", {"a_csv": ["12"], "b_csv": ["012"]}, ["12", "012"]),
        ("int64", {"a_csv": ["12.0", "13.0"]}, ["12", "13"]),  # as pandas writes them beside a missing one
        ("int64", {"a_csv": ["12.0", "12"]}, ["12.0", "12"]),
        ("int64", {"a_parquet": [12], "b_parquet": ["012"]}, ["12", "012"]),
        ("int64", {"a_parquet": [12.0, 12.5]}, ["12", "12.5"]),
        ("int64", {"a_csv": ["2024-01-01", "2024-01-02"]}, ["2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z"]),
    ],
)
def test_keys_read_as_in_training_where_that_merges_none(
    tmp_path: Path, trained: str, ids: dict[str, Any], found: list[str]
) -> None:
    assert keys(ingested(files(tmp_path, **ids), columns={"id": trained, "x": "double"})) == found


def test_a_key_that_is_a_feature_has_the_models_type(tmp_path: Path) -> None:
    dataset = ingested(files(tmp_path, a_csv=["12", "2007-B"]), only_keys=[])
    assert (keys(dataset), dataset.quarantined) == (["12"], 1)


def frame(ids: list[object]) -> pd.DataFrame:
    x = np.random.default_rng(0).normal(size=len(ids))
    y = 2 * x + np.random.default_rng(1).normal(size=len(ids)) / 10
    return pd.DataFrame({"id": ids, "x": x, "y": y})


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> registry.ModelVersion:
    """A model of records with the keys 1000 to 1299."""
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "ELBORANK_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    frame(list(range(1000, 1300))).to_csv("ids.csv", index=False)
    steps.train("ids.csv", name="ids", ids=["id"], settings={"steps": 20})
    return registry.resolve("models:/ids@champion")


def scored(path: str, **options: Any) -> dict[str, Any]:
    plain = {"output": "reports", "as_of": None, "replace": False, "workers": 1, "members": None}
    return steps.score(path, model="models:/ids@champion", **plain, **options)


def test_records_with_strange_keys_are_ranked_explained_and_judged(trained: registry.ModelVersion) -> None:
    odd: list[object] = ["0012", "12", "+13", "2007-B"]
    frame([*odd, *range(2000, 2056)]).to_csv("new.csv", index=False)
    first = scored("new.csv")
    assert (first["ranked"], first["quarantined"], first["published"]) == (60, 0, True)
    assert {row["record_id"] for row in reading.report(first["folder"], top=60)["records"]} >= set(odd)
    assert reading.explain(first["folder"], "0012")["record_id"] == "0012"
    assert judgements.add(first["folder"], "2007-B", "anomaly")["record_id"] == "2007-B"
    again = scored("new.csv")
    assert (again["folder"], again["published"]) == (first["folder"], False)


def test_a_dataset_with_text_keys_can_be_scored_by_a_model_of_numbered_ones(
    trained: registry.ModelVersion,
) -> None:
    frame([f"K{n}" for n in range(60)]).to_csv("new.csv", index=False)
    dataset = steps.ingest("new.csv", ids=["id"])
    assert scored(str(dataset.folder))["ranked"] == 60


def test_training_records_are_known_again_among_others_with_text_keys(trained: registry.ModelVersion) -> None:
    known = pd.read_csv("ids.csv", dtype={"id": str})
    other = frame([f"K{n}" for n in range(50)])
    pd.concat([known, other]).to_csv("both.csv", index=False)
    report = pq.read_table(Path(scored("both.csv")["folder"]) / "report.parquet").to_pandas()
    strange = report["record_id"].str.startswith("K")
    assert report["p_value"][strange].notna().all()
    alone = pq.read_table(Path(scored("ids.csv")["folder"]) / "report.parquet").to_pandas()
    expected = alone.set_index("record_id")["p_value"].isna()
    assert expected.sum() > 200
    found = report[~strange].set_index("record_id")["p_value"].isna()
    assert (found == expected.loc[found.index]).all()


def test_the_served_model_names_records_by_their_keys_as_they_stand(trained: registry.ModelVersion) -> None:
    from flows.pyfunc_model import ReportColumns
    from vae_core import storage

    served = ReportColumns()
    served.model = storage.load(trained.folder)
    odd: list[object] = ["0012", "12", "2007-B"]
    assert served.predict(None, frame(odd))["record_id"].tolist() == odd
    assert served.predict(None, frame([7, 8]))["record_id"].tolist() == ["7", "8"]
    assert served.predict(None, frame([7.0, 8.5]))["record_id"].tolist() == ["7", "8.5"]


def test_only_a_key_without_another_use_is_free(tmp_path: Path) -> None:
    from vae_core import training

    n = 200
    noise = np.random.default_rng(0)
    table = frame(list(range(n))).assign(
        shop=noise.choice(["a", "b"], n), hour=pd.date_range("2024-01-01", periods=n, freq="h", tz="UTC")
    )
    table.to_parquet(tmp_path / "a.parquet")
    ids = ["id", "shop", "hour"]
    dataset = sources.ingest(tmp_path / "a.parquet", tmp_path / "store", ids=ids)
    model = training.fit(
        lambda: sources.batches(dataset), ids=ids, settings=training.Settings(steps=2, hidden=(4,))
    )
    assert only_keys(model.encoding) == ("id",)
