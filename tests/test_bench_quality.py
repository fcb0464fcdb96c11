"""The quality bench: the same rows for every method, the label unseen, failures reported."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.bench import keel, quality
from tests.bench.methods import Numbers, components_for, method

DATA = Path(__file__).resolve().parent.parent / "data"


def labelled(n: int, anomalies: int, name: str = "made") -> quality.Labelled:
    label = np.zeros(n, np.int64)
    label[:anomalies] = 1
    return quality.Labelled(name, pd.DataFrame({"row": np.arange(n, dtype=float)}), label)


def test_the_bench_runs_on_the_table_that_comes_along_and_saves_what_it_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "results" / "quality.json"
    arguments = [str(DATA / "breast_cancer"), "--methods", "ppca", "knn", "iforest", "--output", str(output)]
    assert quality.main(arguments) == 0
    saved = json.loads(output.read_text(encoding="utf-8"))
    assert saved["complete"]
    assert {(row["protocol"], row["method"]) for row in saved["summary"]} == {
        (protocol, name) for protocol in ("semi", "unsup", "new") for name in ("ppca", "knn", "iforest")
    }
    printed = capsys.readouterr().out
    for row in saved["results"]:
        assert row["failed"] is None
        assert f"{row['auroc']:.3f} / {row['average_precision']:.3f}" in printed
        assert row["auroc"] > (0.9 if row["protocol"] == "semi" else 0.6)


def test_a_method_that_fails_is_reported_and_changes_the_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = pd.DataFrame({"x": np.linspace(0, 1, 40), "label": [1] * 4 + [0] * 36})
    frame.loc[7, "x"] = np.inf
    frame.to_parquet(tmp_path / "broken.parquet")
    output = tmp_path / "quality.json"
    assert (
        quality.main([str(tmp_path), "--methods", "knn", "--protocols", "unsup", "--output", str(output)])
        == 1
    )
    assert "failed: knn on broken, unsup: ValueError" in capsys.readouterr().out
    assert json.loads(output.read_text(encoding="utf-8"))["summary"][0]["failed"] == 1


def test_a_large_table_is_thinned_with_its_share_of_anomalies() -> None:
    thinned = quality.drawn(labelled(12_000, 1_200), seed=0)
    assert len(thinned.label) == quality.MOST_ROWS
    assert thinned.label.sum() == 500
    assert quality.drawn(labelled(12_000, 24), seed=0).label.sum() == quality.FEWEST_ANOMALIES
    assert quality.drawn(labelled(12_000, 7), seed=0).label.sum() == 7
    again = quality.drawn(labelled(12_000, 1_200), seed=0)
    pd.testing.assert_frame_equal(thinned.features, again.features)


def test_semi_fits_half_the_normal_records_and_scores_all_the_rest() -> None:
    train, test, label = quality.split(labelled(101, 11), "semi", seed=0)
    assert len(train) == 45
    assert train["row"].min() >= 11, "no anomaly is fitted"
    assert label.sum() == 11
    assert sorted([*train["row"], *test["row"]]) == list(range(101))


def test_new_fits_half_of_everything_and_scores_the_other_half() -> None:
    train, test, label = quality.split(labelled(101, 11), "new", seed=0)
    assert (train["row"] < 11).sum() == 5
    assert label.sum() == 6
    assert sorted([*train["row"], *test["row"]]) == list(range(101))
    normal = quality.split(labelled(101, 11), "semi", seed=0)[0]
    assert set(normal["row"]) == set(train["row"][train["row"] >= 11]), "the same normal records as in semi"


def test_baselines_see_mixed_columns_as_numbers() -> None:
    train = pd.DataFrame(
        {
            "size": [1.0, 3.0, None],
            "kind": ["a", "b", None],
            "flag": [True, False, True],
            "same": [5.0, 5.0, 5.0],
            "void": [None, None, None],
        }
    )
    x = Numbers(train)(train)
    assert x.shape == (3, 5), "size, kind = a, kind = b, flag, same; the empty column is gone"
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-12)
    unseen = Numbers(train, "minmax")(
        pd.DataFrame({"size": [2.0], "kind": ["c"], "flag": [False], "same": [5.0], "void": [1]})
    )
    np.testing.assert_array_equal(unseen, [[0.5, 0, 0, 0, 0]])


def test_components_hold_nine_tenths_of_the_variance() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(4000, 4)) * np.sqrt([80.0, 15.0, 4.0, 1.0])
    assert components_for(x) == 2
    assert components_for(x[:, :1]) == 1


def test_a_setting_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="VAEDetector has no latents"):
        method("elborank:latents=8")
    with pytest.raises(ValueError, match="none of elborank"):
        method("autoencoder")


def test_a_table_of_keel_gets_its_label_and_its_missing_cells() -> None:
    lines = "1, a, <null>, negative\n2,b,3,positive\n3,?,4, positive\n"
    frame = keel.labelled(lines, "any")
    assert frame["label"].tolist() == [0, 1, 1]
    assert frame["c1"].tolist()[:2] == ["a", "b"]
    assert frame[["c1", "c2"]].isna().to_numpy().tolist() == [[False, True], [False, False], [True, False]]
    many = "".join(f"{n},{n % 3 == 0}\n" for n in range(90))
    thinned = keel.labelled(many, keel.BALANCED[0])
    assert (thinned["label"] == 0).sum() == 60
    assert thinned["label"].sum() == 60 // keel.ONE_IN
