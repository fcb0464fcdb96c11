"""The registered model as others meet it: MLflow's pyfunc, on what pandas reads, with no package of ours."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from packaging.requirements import Requirement

from flows import registry, steps, tracking
from tests import shop
from vae_core.errors import InputError

NUMBERS = [
    "anomaly_score",
    "bound",
    "elbo",
    "reconstruction",
    "kl",
    "elbo_se",
    "p_value",
    "rest_nats",
    "tilt_nats",
]
COUNTS = ["n_missing", "n_out_of_range", "n_unseen"]
OF_A_REPORT = {"rank", "q_value", "flagged", "source", "row", "model_version", "as_of"}  # not of a record


@pytest.fixture
def stored(in_shop: shop.Shop) -> Path:
    """The folder that MLflow keeps: MLmodel, code, requirements, and our own model's folder."""
    return registry.resolve("models:/shop@champion").folder.parent.parent


@pytest.fixture
def predict(stored: Path) -> Any:
    import mlflow

    return mlflow.pyfunc.load_model(str(stored)).predict


@pytest.fixture
def report(in_shop: shop.Shop, tmp_path: Path) -> pd.DataFrame:
    """The published report on the last week, by record."""
    scored = steps.score("sales.csv", model="models:/shop@champion", start=shop.TRAINED_UNTIL, **at(tmp_path))
    return pq.read_table(Path(scored["folder"]) / "report.parquet").to_pandas().set_index("record_id")


def at(output: Path) -> dict[str, Any]:
    return {"output": str(output), "as_of": None, "replace": False, "workers": 1, "members": None}


def last_week(**options: Any) -> pd.DataFrame:
    """As pandas reads a CSV file: times are text."""
    frame = pd.read_csv("sales.csv", **options)
    return frame[pd.to_datetime(frame["hour"]) >= pd.Timestamp(shop.TRAINED_UNTIL, tz="UTC")]


def agree(predicted: pd.DataFrame, report: pd.DataFrame) -> None:
    """The same bits, record by record."""
    there = report.loc[predicted["record_id"]]
    for name in NUMBERS + COUNTS:
        if name in (
            "rest_nats",
            "tilt_nats",
        ):  # null in the report below the explained records; here all have reasons
            continue
        np.testing.assert_array_equal(predicted[name], there[name], err_msg=name)
    assert list(predicted["why"]) == list(there["why"])


def test_predict_gives_the_reports_figures_bit_by_bit(
    in_shop: shop.Shop, predict: Any, report: pd.DataFrame
) -> None:
    frame = last_week()
    predicted = predict(frame)
    assert list(predicted.index) == list(frame.index)
    assert set(predicted.columns) == set(report.reset_index().columns) - OF_A_REPORT
    agree(predicted, report)
    assert predicted.sort_values("anomaly_score")["record_id"].iloc[-1] == shop.STRANGE


def test_what_pandas_makes_of_the_types_changes_no_figure(
    in_shop: shop.Shop, predict: Any, report: pd.DataFrame
) -> None:
    agree(predict(last_week(dtype_backend="numpy_nullable")), report)
    agree(predict(last_week(dtype=str)), report)
    agree(predict(last_week(parse_dates=["hour"]).sample(frac=1, random_state=1)), report)
    agree(predict(last_week().astype({"card": "int64"})), report)


def test_columns_without_any_value_are_missing_and_nothing_else(
    in_shop: shop.Shop, predict: Any, report: pd.DataFrame
) -> None:
    frame = last_week().astype({"kind": object})
    frame["kind"], frame["price"] = None, np.nan
    predicted = predict(frame)
    assert (predicted["n_missing"] == 2).all()
    assert np.isfinite(predicted["anomaly_score"]).all()


def test_reasons_and_rest_add_up_to_the_bound(in_shop: shop.Shop, predict: Any) -> None:
    predicted = predict(last_week())
    nats = [sum(reason["nats"] for reason in reasons) for reasons in predicted["reasons"]]
    np.testing.assert_allclose(
        np.array(nats) + predicted["rest_nats"], predicted["bound"], rtol=1e-9, atol=1e-9
    )


def test_a_cell_that_does_not_fit_is_named(in_shop: shop.Shop, predict: Any) -> None:
    frame = last_week().astype({"weight": object}).reset_index(drop=True)
    frame.loc[2, "weight"] = "heavy"
    with pytest.raises(InputError, match='column "weight", row 3: "heavy" is not a number'):
        predict(frame)


def served(model: Any, body: str | bytes, mime: str) -> pd.DataFrame:
    """What `mlflow models serve` answers to a request, without the socket."""
    from mlflow.pyfunc import scoring_server

    answer = scoring_server.invocations(body, mime, model, model.metadata.get_input_schema())
    assert answer.status == 200
    return pd.DataFrame(json.loads(answer.response)["predictions"])


@pytest.mark.parametrize("key", ["dataframe_split", "dataframe_records", "instances", "inputs", "parquet"])
def test_mlflows_server_takes_json_and_parquet(
    in_shop: shop.Shop, stored: Path, report: pd.DataFrame, key: str
) -> None:
    import mlflow

    model = mlflow.pyfunc.load_model(str(stored))
    frame = last_week().reset_index(drop=True).astype({"card": object})
    frame.loc[3, ["weight", "card", "kind"]] = None
    orient: Any = {"dataframe_split": "split", "inputs": "list"}.get(key, "records")
    if key == "parquet":
        answer = served(model, frame.to_parquet(), "application/vnd.apache.parquet")
    else:
        rows = frame.astype(object).where(frame.notna(), None).to_dict(orient=orient)
        answer = served(model, json.dumps({key: rows, "params": {"top": 1}}), "application/json")
        assert answer["reasons"].map(len).max() == 1
    assert answer["n_missing"].tolist() == [3 * (row == 3) for row in range(len(frame))]
    whole = answer.drop(index=3)
    np.testing.assert_allclose(whole["bound"], report.loc[whole["record_id"], "bound"], rtol=1e-12)


def test_mlflows_server_answers_a_cell_that_does_not_fit_with_our_reason(
    in_shop: shop.Shop, stored: Path
) -> None:
    import mlflow

    model = mlflow.pyfunc.load_model(str(stored))
    records = json.loads(last_week().head(3).to_json(orient="records"))
    records[1]["weight"] = "abc"
    with pytest.raises(mlflow.exceptions.MlflowException) as caught:
        served(model, json.dumps({"dataframe_records": records}), "application/json")
    assert 'column "weight", row 2: "abc" is not a number.' in caught.value.message
    assert caught.value.get_http_status_code() == 400
    del records[1]
    for top in (0, -1):
        with pytest.raises(mlflow.exceptions.MlflowException, match="at least one reason"):
            served(
                model, json.dumps({"dataframe_records": records, "params": {"top": top}}), "application/json"
            )


def test_no_images_give_no_rows() -> None:
    from flows.pyfunc_model import ReportColumns
    from vae_core.detector import VAEDetector

    model = ReportColumns()
    pixels = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    with pytest.warns(UserWarning, match="held-out"):
        model.model = VAEDetector(steps=2).fit(pixels).model_
    none = model.predict(None, pd.DataFrame({"image": []}))
    assert len(none) == 0 and {"record_id", "bound", "elbo_excess", "why", "reasons"} <= set(none.columns)


def test_the_stored_model_holds_no_pickle_and_no_requirement_of_ours(stored: Path) -> None:
    files = [path for path in stored.rglob("*") if path.is_file()]
    assert not [
        path for path in files if path.suffix in (".pkl", ".pickle", ".joblib", ".pt", ".pth", ".bin")
    ]
    assert not [path for path in files if path.read_bytes()[:2] in (b"\x80\x04", b"\x80\x05")]
    lines = (stored / "requirements.txt").read_text().split()
    assert all(re.fullmatch(r"[a-z-]+==[0-9.]+", line) for line in lines)
    assert {line.split("==")[0] for line in lines} == set(tracking.REQUIREMENTS)
    assert "elborank" not in (stored / "conda.yaml").read_text() + (stored / "python_env.yaml").read_text()


def test_it_predicts_where_only_its_requirements_are_installed(
    in_shop: shop.Shop, stored: Path, report: pd.DataFrame, tmp_path: Path
) -> None:
    place = only_requirements(stored / "requirements.txt", tmp_path / "site")
    last_week().to_csv(tmp_path / "new.csv", index=False)
    code = (
        "import sys, mlflow, pandas as pd;"
        "model = mlflow.pyfunc.load_model(sys.argv[1]);"
        "made = model.predict(pd.read_csv(sys.argv[2])).drop(columns='reasons');"
        "made.to_json(sys.argv[3], double_precision=15);"
        "import vae_core; print(vae_core.__file__);"
        "print([n for n in ('prefect', 'typer', 'flows', 'sklearn.ensemble') if n in sys.modules])"
    )
    done = bare(place, tmp_path, "-c", code, stored, tmp_path / "new.csv", tmp_path / "out.json")
    where, others = done.stdout.splitlines()[-2:]
    assert Path(where).is_relative_to(stored) and others == "[]"
    predicted = pd.read_json(tmp_path / "out.json")
    np.testing.assert_allclose(predicted["bound"], report.loc[predicted["record_id"], "bound"], rtol=1e-12)


def test_mlflow_models_predict_takes_a_csv_file(
    in_shop: shop.Shop, stored: Path, report: pd.DataFrame, tmp_path: Path
) -> None:
    place = only_requirements(stored / "requirements.txt", tmp_path / "site")
    last_week().to_csv(tmp_path / "new.csv", index=False)
    arguments = ["-m", stored, "-i", tmp_path / "new.csv", "-t", "csv", "-o", tmp_path / "out.json"]
    bare(place, tmp_path, "-m", "mlflow", "models", "predict", "--env-manager", "local", *arguments)
    predicted = pd.DataFrame(json.loads((tmp_path / "out.json").read_text())["predictions"])
    np.testing.assert_allclose(predicted["bound"], report.loc[predicted["record_id"], "bound"], rtol=1e-12)


def bare(place: Path, folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python with this one folder of packages and nothing else, away from the checkout."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(place), "HOME": str(folder)}
    environment |= {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(
        [sys.executable, "-S", "-B", *map(str, arguments)],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


def only_requirements(listed: Path, place: Path) -> Path:
    """A folder of packages that holds the listed requirements and what these require, by links: what
    `pip install -r` would have put into a fresh environment."""
    place.mkdir()
    waiting, known = [Requirement(line) for line in listed.read_text().split()], set()
    while waiting:
        wanted = waiting.pop()
        if wanted.name.lower() in known:
            continue
        known.add(wanted.name.lower())
        found = distribution(wanted.name)
        link(found, place)
        needs = [Requirement(text) for text in found.requires or []]
        waiting += [need for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return place


def link(found: Distribution, place: Path) -> None:
    for name in {file.parts[0] for file in found.files or [] if file.parts[0] not in ("..", "__pycache__")}:
        if not (place / name).exists():
            (place / name).symlink_to(Path(str(found.locate_file(name))))
