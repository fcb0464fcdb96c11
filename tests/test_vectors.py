"""Feature tables: a column of vectors is one column with a normalised density, also with few rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.covariance import ledoit_wolf

from flows.cli import main
from vae_core import explanation, generation, sources, storage, training
from vae_core.arrow import vector_array, vectors, without_vector
from vae_core.detector import VAEDetector
from vae_core.errors import InputError
from vae_core.scoring import FittedModel
from vae_core.vectors import VectorDensity

ROWS, WIDTH = 90, 120


def features(rows: int = ROWS, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    """Vectors of which a few hidden causes explain most, as in a network's last layer."""
    mixing = np.random.default_rng(1).normal(size=(5, width))
    r = np.random.default_rng(seed)
    return (r.normal(size=(rows, 5)) @ mixing + 0.3 * r.normal(size=(rows, width)) + 2).astype(np.float32)


def column(x: np.ndarray, missing: np.ndarray | None = None) -> pa.Array:
    return vector_array(x if missing is None else np.where(missing[:, None], np.nan, x))


def fitted(table: pa.Table, **settings: Any) -> FittedModel:
    chosen = training.Settings(**{"steps": 60, **settings})
    return training.fit(lambda: iter(table.to_batches()), settings=chosen)


@pytest.fixture(scope="module")
def model() -> FittedModel:
    missing = np.zeros(ROWS, bool)
    missing[:20] = True
    grades = np.random.default_rng(3).normal(size=ROWS)
    return fitted(pa.table({"features": column(features(), missing), "grade": grades}))


@pytest.mark.parametrize(("rows", "width"), [(30, 50), (200, 12), (5, 3), (40, 1)])
def test_the_density_is_scikit_learns_shrunk_gaussian(rows: int, width: int) -> None:
    x = np.random.default_rng(0).normal(size=(rows, width)) @ np.random.default_rng(1).normal(
        size=(width, width)
    )
    x = x.astype(np.float32)
    known = VectorDensity.fit(x)
    new = np.r_[x, x + 3].astype(np.float32)
    values, nats, missing = known.encode(column(new))
    gaussian = -0.5 * (np.square(values) + np.log(2 * np.pi)).sum(1)
    covariance, shrinkage = ledoit_wolf(x.astype(np.float64))
    expected = multivariate_normal(x.mean(0, dtype=np.float64), covariance).logpdf(new.astype(np.float64))
    np.testing.assert_allclose(gaussian + nats - width * known.log_scale, expected, rtol=1e-9)
    assert known.shrinkage == pytest.approx(shrinkage if width > 1 else 0)
    assert not missing.any()


def test_its_entropy_is_that_of_one_standard_normal_variable() -> None:
    known = VectorDensity.fit(features())
    drawn = known.decode(
        np.random.default_rng(0).normal(size=(4000, known.components)), np.random.default_rng(1)
    )
    values, nats, _ = known.encode(column(drawn))
    log_density = -0.5 * (np.square(values) + np.log(2 * np.pi)).sum(1) + nats
    error = 4 * log_density.std() / np.sqrt(len(drawn))
    assert -log_density.mean() == pytest.approx(0.5 * np.log(2 * np.pi * np.e), abs=error)


def test_drawn_vectors_have_the_shrunk_covariance() -> None:
    x = features(60, 8)
    known = VectorDensity.fit(x)
    k = known.components
    drawn = known.decode(np.random.default_rng(0).normal(size=(60_000, k)), np.random.default_rng(1))
    covariance, _ = ledoit_wolf(x.astype(np.float64))
    np.testing.assert_allclose(np.cov(drawn.T), covariance, atol=0.02 * covariance.max())


def test_one_factor_for_all_numbers_changes_nothing() -> None:
    x = features()
    some = [fitted(pa.table({"f": column(x * np.float32(c))}), steps=20) for c in (1, 1024)]
    new = features(seed=5)
    one, other = (
        m.score(pa.table({"f": column(new * np.float32(c))})) for m, c in zip(some, (1, 1024), strict=True)
    )
    np.testing.assert_allclose(one.bound, other.bound, rtol=1e-6)
    difference = some[0].encoding.log_jacobian - some[1].encoding.log_jacobian
    assert difference == pytest.approx(WIDTH * np.log(1024))


def test_a_score_depends_on_its_vector_alone(model: FittedModel) -> None:
    table = pa.table({"features": column(features(150, seed=4)), "grade": np.zeros(150)})
    together = model.score(table).bound
    order = np.random.default_rng(0).permutation(150)
    np.testing.assert_array_equal(model.score(table.take(pa.array(order))).bound, together[order])
    np.testing.assert_array_equal(model.score(table.slice(77, 1)).bound, together[77:78])


def test_a_saved_model_scores_the_same_bits(model: FittedModel, tmp_path: Path) -> None:
    storage.save(model, tmp_path / "model")
    table = pa.table({"features": column(features(20, seed=4)), "grade": np.zeros(20)})
    np.testing.assert_array_equal(
        storage.load(tmp_path / "model").score(table).bound, model.score(table).bound
    )
    assert (tmp_path / "model" / "encoding.json").stat().st_size < 5000


def test_a_reason_is_one_line_and_the_reasons_add_up(model: FittedModel) -> None:
    strange = features(3, seed=4)
    strange[0] += 30 * np.random.default_rng(8).normal(size=WIDTH).astype(np.float32)
    table = pa.table({"features": column(strange, np.array([False, False, True])), "grade": np.zeros(3)})
    told = explanation.explain(model, table, top=5)
    bound = model.score(table).bound
    for row, entry in enumerate(told.to_pylist()):
        assert sum(r["nats"] for r in entry["reasons"]) + entry["rest_nats"] == pytest.approx(bound[row])
    first = told["why"][0].as_py()
    assert (
        first.startswith("features ") and "spreads from the mean, expected 1: -" in first and len(first) < 120
    )
    assert model.score(table).n_missing.tolist() == [0, 0, 1]
    assert model.score(table).n_out_of_range.sum() == 0


def test_the_largest_numbers_are_ranked_and_finite(model: FittedModel) -> None:
    x = np.stack([np.full(WIDTH, v, np.float32) for v in (0, 1e3, 1e20, 3e38)])
    bound = model.score(pa.table({"features": column(x), "grade": np.zeros(4)})).bound
    assert np.isfinite(bound).all() and (np.diff(bound) < 0).all()


def test_new_records_hold_vectors_and_are_no_anomalies(model: FittedModel) -> None:
    table = generation.sample(model, 200, missing=True)
    assert table.schema.field("features").type == pa.list_(pa.float32(), WIDTH)
    assert 20 < without_vector(table["features"]).sum() < 80  # training: 20 of 90
    found = model.score(table)
    assert np.median(found.p_value) > 0.2
    means = vectors(generation.sample(model, 200, mean=True)["features"])
    drawn = vectors(generation.sample(model, 200)["features"])
    assert drawn.var() > means.var()


def test_ingest_keeps_vectors_and_quarantines_what_is_none(tmp_path: Path) -> None:
    rows = [[1.0, 2.0, 3.0]] * 5 + [None, [1.0, 2.0], [1.0, None, 3.0], [1.0, 2.0, float("nan")]]
    rows += [[1.0, 2.0, float("inf")], [1e300, 0.0, 0.0], []]
    lists = {"a": pa.list_(pa.float64()), "b": pa.large_list(pa.float32())}
    for name, kind in lists.items():
        pq.write_table(pa.table({"id": range(12), "f": pa.array(rows, kind)}), tmp_path / f"{name}.parquet")
        data = sources.ingest(tmp_path / f"{name}.parquet", tmp_path / "store", ids=["id"])
        assert data.columns == {"id": "int64", "f": "vector[3]"}
        assert (data.rows, data.quarantined) == (6, 6)
        kept = pa.Table.from_batches(sources.batches(data))
        assert kept["f"].to_pylist()[:5] == rows[:5]
        assert without_vector(kept["f"]).tolist() == [False] * 5 + [True]
        reasons = pq.read_table(Path(data.folder) / "quarantine.parquet")["reason"].to_pylist()
        assert reasons == [
            "the vector has 2 numbers, not 3",
            "number 2 of the vector is missing",
            "number 3 of the vector is missing",
            "number 3 of the vector is not finite",
            "number 1 of the vector is not finite",
            "the vector has 0 numbers, not 3",
        ]


def test_vectors_are_no_keys_and_empty_lists_are_left_out(tmp_path: Path) -> None:
    pq.write_table(pa.table({"f": column(features(3, 2)), "x": [1.0, 2.0, 3.0]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r'column "f".* no keys'):
        sources.ingest(tmp_path / "a.parquet", tmp_path / "store", ids=["f"])
    pq.write_table(
        pa.table({"f": pa.array([[], None], pa.list_(pa.float64())), "x": [1.0, 2.0]}), tmp_path / "b.parquet"
    )
    data = sources.ingest(tmp_path / "b.parquet", tmp_path / "store")
    assert data.columns == {"x": "double"} and "empty or missing" in data.warnings[0]


def test_the_lectures_preset_says_what_to_do_with_vectors() -> None:
    with pytest.raises(InputError, match=r'column "f".*Gaussian.*label'):
        fitted(pa.table({"f": column(features())}), preset="lecture")


def test_the_detector_takes_a_column_of_arrays() -> None:
    frame = pd.DataFrame({"f": list(features()), "x": np.arange(ROWS) % 7 * 1.5})
    detector = VAEDetector(steps=40).fit(frame)
    strange = frame.iloc[:2].assign(f=[np.full(WIDTH, 50.0, np.float32), frame["f"][1]])
    low, high = detector.score_samples(strange)
    assert low < high
    assert detector.sample(3)["f"].map(len).tolist() == [WIDTH] * 3
    with pytest.raises(ValueError, match=r"column 'f', row 1: the vector has 2 numbers"):
        VAEDetector().fit(frame.iloc[:4].assign(f=[[1.0], [1.0, 2.0], [3.0], [4.0]]))


def test_a_feature_table_by_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    x = features(150, seed=2)
    x[7] = 40
    ids = [f"part {i}" for i in range(len(x))]
    pq.write_table(pa.table({"part": ids, "features": column(x)}), "parts.parquet")
    known = np.arange(len(x)) != 7
    pq.write_table(pa.table({"part": ids, "features": column(x)}).filter(pa.array(known)), "normal.parquet")
    assert main(["train", "normal.parquet", "--name", "parts", "--id", "part", "--steps", "40"]) == 0
    assert "features" not in capsys.readouterr().out  # not left out
    assert main(["score", "parts.parquet", "--model", "models:/parts@champion", "--output", "report"]) == 0
    capsys.readouterr()
    report = next(Path("report").rglob("report.html")).parent
    assert main(["report", str(report)]) == 0
    told = capsys.readouterr().out
    assert "part 7" in told and max(map(len, told.splitlines())) <= 80
    assert main(["explain", str(report), "part 7"]) == 0
    assert "spreads from the mean" in capsys.readouterr().out.replace("\n", " ")
    assert main(["generate", "--model", "models:/parts@champion", "--n", "5", "--output", "new.parquet"]) == 0
    assert pq.read_table("new.parquet")["features"].type == pa.list_(pa.float32(), WIDTH)
    capsys.readouterr()
    assert main(["generate", "--model", "models:/parts@champion", "--n", "5", "--output", "new.csv"]) == 2


@pytest.mark.parametrize("width", [3, 50, 120, 257])
def test_the_bits_depend_neither_on_place_nor_threads_nor_on_how_directions_lie_in_memory(width: int) -> None:
    x = features(90, width)
    known = VectorDensity.fit(x)
    again = VectorDensity.from_arrays({k: np.ascontiguousarray(v) for k, v in known.arrays().items()})
    order = np.random.default_rng(0).permutation(len(x))
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found += [(known.encode(column(x))), again.encode(column(x))]
            values, nats, _ = known.encode(column(x[order]))
            assert np.array_equal(values, found[0][0][order]) and np.array_equal(nats, found[0][1][order])
    finally:
        torch.set_num_threads(before)
    for values, nats, _ in found:
        assert np.array_equal(values, found[0][0]) and np.array_equal(nats, found[0][1])
