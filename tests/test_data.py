"""The data that come along are what their ABOUT.md says, errors and gaps included."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_breast_cancer

DATA = Path(__file__).resolve().parent.parent / "data"
READINGS = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")
FOLDERS = sorted(path.parent for path in DATA.glob("*/ABOUT.md"))


@pytest.fixture(scope="module")
def weather() -> pd.DataFrame:
    return pq.read_table(sorted((DATA / "nyc_weather").glob("*.parquet"))).to_pandas()


def documented_checksums(folder: Path) -> dict[str, str]:
    """File name -> sha256, from the fenced lines of ABOUT.md."""
    block = (folder / "ABOUT.md").read_text(encoding="utf-8").split("```")[1]
    return {name: digest for digest, name in (line.split() for line in block.strip().splitlines())}


@pytest.fixture(scope="module")
def prepare() -> ModuleType:
    """The script that made the data: it lives beside them, outside the packages."""
    spec = importlib.util.spec_from_file_location("prepare_data", DATA / "prepare.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_file_has_the_checksum_that_its_about_page_states(folder: Path) -> None:
    found = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.glob("*.parquet")}
    assert found == documented_checksums(folder)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_an_about_page_names_source_licence_anomalies_and_every_column(folder: Path) -> None:
    text = (folder / "ABOUT.md").read_text(encoding="utf-8")
    for part in ("**Source**", "**Licence**", "**What counts as an anomaly.**"):
        assert part in text
    schema = pq.read_schema(next(iter(sorted(folder.glob("*.parquet")))))
    for name in schema.names:
        forms = {name, name.replace("mean_", ""), name.replace("_error", ""), name.replace("worst_", "")}
        assert any(form in text for form in forms), name


def test_the_breast_cancer_table_is_rebuilt_from_scikit_learn_byte_for_byte(
    prepare: ModuleType, tmp_path: Path
) -> None:
    rebuilt = tmp_path / "breast_cancer.parquet"
    prepare.write_table(prepare.breast_cancer(), rebuilt)
    assert rebuilt.read_bytes() == (DATA / "breast_cancer" / rebuilt.name).read_bytes()


def test_malignant_is_the_anomaly() -> None:
    table = pq.read_table(DATA / "breast_cancer" / "breast_cancer.parquet").to_pandas()
    published = load_breast_cancer()
    assert list(published.target_names) == ["malignant", "benign"]
    np.testing.assert_array_equal(table["label"], published.target == 0)
    assert table["label"].sum() == 212
    assert table["record_id"].is_unique


def test_each_month_of_weather_holds_its_own_hours_in_one_schema() -> None:
    files = sorted((DATA / "nyc_weather").glob("*.parquet"))
    assert [file.stem for file in files] == [f"2013-{month:02d}" for month in range(1, 13)]
    expected = pa.schema(
        [("origin", pa.string()), ("time_hour", pa.timestamp("us", "UTC"))]
        + [(name, pa.float64()) for name in READINGS]
    )
    for file in files:
        table = pq.read_table(file)
        assert table.schema.equals(expected)
        assert set(table["time_hour"].to_pandas().dt.strftime("%Y-%m")) == {file.stem}


def test_the_instrument_error_is_still_there(weather: pd.DataFrame) -> None:
    impossible = weather[weather["wind_speed"] > 100]
    assert len(impossible) == 1
    hour = impossible.iloc[0]
    assert hour["origin"] == "EWR"
    assert hour["time_hour"] == pd.Timestamp("2013-02-12T08:00:00Z")
    assert hour["wind_speed"] == 1048.36058
    assert weather["wind_speed"].nlargest(2).iloc[1] == pytest.approx(42.6, abs=0.05)


def test_the_gaps_of_the_weather_are_those_documented(weather: pd.DataFrame) -> None:
    missing = weather.isna().sum()
    assert missing[missing > 0].to_dict() == {
        "temp": 1,
        "dewp": 1,
        "humid": 1,
        "wind_dir": 460,
        "wind_speed": 4,
        "wind_gust": 20778,
        "pressure": 2729,
    }
    hours = pd.date_range("2013-01-01T06:00Z", "2013-12-30T23:00Z", freq="h")
    absent = {origin: set(hours.difference(part["time_hour"])) for origin, part in weather.groupby("origin")}
    assert {origin: len(gone) for origin, gone in absent.items()} == {"EWR": 27, "JFK": 24, "LGA": 24}
    assert len(set.intersection(*absent.values())) == 16
    assert not weather.duplicated(["origin", "time_hour"]).any()
    assert len(weather) == 3 * len(hours) - 75 == 26115
