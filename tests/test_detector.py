"""VAEDetector keeps scikit-learn's promises, finds what is strange, and says what is wrong with its input."""

from __future__ import annotations

import datetime
import decimal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from vae_core import storage
from vae_core.detector import VAEDetector, as_table

ROWS = 300
# scikit-learn's checks that are expected to fail, each with its reason. None is.
EXPECTED_FAILURES: dict[str, str] = {}


def quick(**options: Any) -> VAEDetector:
    return VAEDetector(**({"steps": 20, "hidden": (8,), "members": 1, "draws": 4} | options))


@parametrize_with_checks([quick(steps=3)], expected_failed_checks=lambda estimator: EXPECTED_FAILURES)
def test_scikit_learns_estimator_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def numbers(rows: int = ROWS, seed: int = 0) -> np.ndarray:
    r = np.random.default_rng(seed)
    x = r.normal(size=(rows, 3))
    x[:, 2] += 2 * x[:, 0]
    return x


def frame(rows: int = ROWS, seed: int = 0) -> pd.DataFrame:
    """Mixed kinds, as pandas has them."""
    r = np.random.default_rng(seed)
    price = r.gamma(2.0, 10.0, rows)
    return pd.DataFrame(
        {
            "price": price,
            "count": r.poisson(price / 5),
            "paid": r.random(rows) < 0.4,
            "tree": r.choice(["oak", "ash", "elm"], rows),
            "zone": pd.Categorical(r.integers(1, 5, rows)),
            "grade": pd.Categorical(r.choice([0.5, 1.5], rows)),
            "when": pd.date_range("2024-01-01", periods=rows, freq="h"),
            "gaps": np.where(r.random(rows) < 0.2, np.nan, price + r.normal(size=rows)),
            "some": pd.array(np.where(r.random(rows) < 0.1, None, 3), dtype="Int64"),
            "cost": [decimal.Decimal(int(p * 100)) / 100 for p in price],
            "day": [datetime.date(2024, 1, 1) + datetime.timedelta(days=i) for i in range(rows)],
            "key": [f"k{i}" for i in range(rows)],
        }
    )


@pytest.fixture(scope="module")
def mixed() -> VAEDetector:
    return quick(steps=150).fit(frame())


@pytest.fixture(scope="module")
def tumours() -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray]:
    """Half of the benign ones to train on; the rest, and the malignant ones, with their labels."""
    path = Path(__file__).parent.parent / "data" / "breast_cancer" / "breast_cancer.parquet"
    table = pq.read_table(path).to_pandas()
    label = table.pop("label").to_numpy()
    features = table.drop(columns="record_id")
    benign = np.random.default_rng(0).permutation(np.flatnonzero(label == 0))
    test = np.r_[benign[len(benign) // 2 :], np.flatnonzero(label == 1)]
    return features.iloc[benign[: len(benign) // 2]], features.iloc[test], label[test]


@pytest.mark.parametrize("seed", [0, 1])
def test_malignant_tumours_are_less_likely_than_benign_ones(
    tumours: tuple[pd.DataFrame, pd.DataFrame, np.ndarray], seed: int
) -> None:
    """Isolation Forest's AUROC here is about .95 and chance .5."""
    train, test, label = tumours
    detector = VAEDetector(random_state=seed, steps=300).fit(train)
    strange = -detector.score_samples(test)
    assert roc_auc_score(label, strange) > 0.93
    assert average_precision_score(label, strange) > 0.9
    assert roc_auc_score(label, -detector.elbo(test)) > 0.9


def test_the_lectures_preset_is_a_detector_too(
    tumours: tuple[pd.DataFrame, pd.DataFrame, np.ndarray],
) -> None:
    train, test, label = tumours
    detector = VAEDetector(preset="lecture", steps=300).fit(train)
    assert set(detector.model_.summary["likelihoods"].values()) == {"bernoulli"}
    assert roc_auc_score(label, -detector.score_samples(test)) > 0.8
    np.testing.assert_array_equal(detector.elbo(test), detector.score_samples(test))


def test_low_is_anomalous_and_all_scores_agree(mixed: VAEDetector) -> None:
    X = frame(seed=1)
    X.loc[7, "price"] = 1e4
    scores = mixed.score_samples(X)
    assert scores.argmin() == 7
    np.testing.assert_array_equal(mixed.decision_function(X), scores - mixed.offset_)
    np.testing.assert_array_equal(mixed.predict(X), np.where(scores < mixed.offset_, -1, 1))
    assert mixed.predict(X)[7] == -1
    np.testing.assert_array_equal(mixed.elbo(X), mixed.model_.score(as_table(X)).elbo)


@pytest.mark.parametrize("alpha", [0.01, 0.1, 0.4])
def test_about_a_share_alpha_of_new_normal_records_is_called_an_outlier(alpha: float) -> None:
    detector = quick(alpha=alpha).fit(numbers(3000))
    share = (detector.predict(numbers(3000, seed=1)) == -1).mean()
    assert share == pytest.approx(alpha, abs=0.02 + 0.3 * alpha)


def test_mixed_kinds_are_taken_as_pandas_has_them(mixed: VAEDetector) -> None:
    assert mixed.model_.encoding.kinds == {
        "price": "real",
        "count": "whole",
        "paid": "boolean",
        "tree": "category",
        "zone": "category",
        "grade": "category",
        "when": "timestamp",
        "gaps": "real",
        "some": "constant",
        "cost": "real",
        "day": "timestamp",
        "key": "identifier",
    }
    assert list(mixed.feature_names_in_) == list(frame().columns)


def test_a_kind_may_be_named() -> None:
    detector = quick(kinds={"count": "category", "gaps": "label"}).fit(frame())
    assert detector.model_.encoding.kinds["count"] == "category"
    X = frame()
    X["gaps"] = 1e9
    np.testing.assert_array_equal(detector.score_samples(X), detector.score_samples(frame()))


def test_an_array_a_list_and_a_frame_of_the_same_numbers_score_alike() -> None:
    X = numbers()
    named = pd.DataFrame(X, columns=["a", "b", "c"])
    from_array, from_frame = quick().fit(X), quick().fit(named)
    expected = from_array.score_samples(X)
    np.testing.assert_array_equal(from_array.score_samples(X.tolist()), expected)
    np.testing.assert_array_equal(from_frame.score_samples(named), expected)
    with pytest.warns(UserWarning, match="fitted without feature names"):
        np.testing.assert_array_equal(from_array.score_samples(named), expected)
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        np.testing.assert_array_equal(from_frame.score_samples(X), expected)
    numbered = pd.DataFrame(X)
    np.testing.assert_array_equal(quick().fit(numbered).score_samples(numbered), expected)


def test_the_same_seed_gives_the_same_bits_and_another_one_others() -> None:
    X = numbers()
    first, again, other = (quick(random_state=seed).fit(X).score_samples(X) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(
        quick(random_state=np.random.RandomState(5)).fit(X).score_samples(X),
        quick(random_state=np.random.RandomState(5)).fit(X).score_samples(X),
    )


def test_fitting_touches_no_global_seed() -> None:
    import torch

    np.random.seed(1)  # noqa: NPY002  (what must not be touched)
    torch.manual_seed(1)
    before = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    quick().fit(numbers()).sample(3)
    assert (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before  # noqa: NPY002


def test_the_input_is_left_as_it_was() -> None:
    X, copy = frame(), frame()
    quick().fit(X).score_samples(X)
    pd.testing.assert_frame_equal(X, copy)


def test_it_works_in_a_pipeline_and_as_a_clone() -> None:
    X = numbers()
    pipeline = make_pipeline(StandardScaler(), PCA(2), quick()).fit(X)
    assert pipeline.predict(X).shape == (ROWS,)
    twin = clone(pipeline).fit(X)
    np.testing.assert_array_equal(twin.score_samples(X), pipeline.score_samples(X))
    assert not hasattr(clone(pipeline[-1]), "model_")


def test_a_grid_search_chooses_by_held_out_bound() -> None:
    X = numbers()

    search = GridSearchCV(quick(), {"steps": [1, 60], "latent": [1, 2]}, cv=2).fit(X)
    assert search.best_params_["steps"] == 60
    assert search.best_estimator_.model_.vae.architecture.latent == search.best_params_["latent"]


def test_parameters_are_stored_as_given_and_can_be_set() -> None:
    detector = quick()
    given = detector.get_params()
    detector.fit(numbers())
    assert detector.get_params() == given
    detector.set_params(latent=1, columns_weight=0.0, kernel_weight=0.0, draws=8)
    model = detector.fit(numbers()).model_
    assert model.vae.architecture.latent == 1
    assert model.weights == {"vae": 1.0}
    assert model.noise.shape[0] * model.noise.shape[1] == 8
    with pytest.raises(ValueError, match="Invalid parameter 'layers'"):
        detector.set_params(layers=3)


def test_samples_come_as_the_training_data_did(mixed: VAEDetector) -> None:
    X, made = frame(), mixed.sample(40)
    assert list(made.columns) == [name for name in X.columns if name not in ("key", "day")]
    for name in ("price", "count", "paid", "tree", "zone", "grade", "gaps"):
        assert made[name].dtype == X[name].dtype
    assert made["when"].dt.tz is None
    assert made["when"].between(X["when"].min(), X["when"].max()).all()
    assert (
        set(made["tree"]) <= {"oak", "ash", "elm"}
        and not made["zone"].isna().any()
        and not made["grade"].isna().any()
    )
    pd.testing.assert_frame_equal(made, mixed.sample(40))
    assert not made.equals(mixed.sample(40, random_state=1))
    assert mixed.sample(5, mean=True).shape == (5, 10)
    assert quick().fit(numbers()).sample(7).shape == (7, 3)
    assert np.isfinite(mixed.score_samples(made.assign(key="new", day=X["day"][0])[X.columns])).all()


def test_explanations_name_the_planted_cell(mixed: VAEDetector) -> None:
    X = frame(seed=1)
    X.loc[7, "price"] = 1e4
    explained = mixed.explain(X, top=3)
    assert len(explained) == ROWS
    assert explained["why"][7].startswith("price 10000, expected ")
    assert explained["reasons"][7][0]["feature"] == "price"
    nats = [sum(reason["nats"] for reason in reasons) for reasons in explained["reasons"]]
    np.testing.assert_allclose(nats + explained["rest_nats"], mixed.score_samples(X), atol=1e-6)


def test_explanations_keep_the_index_of_the_records(mixed: VAEDetector) -> None:
    explained = mixed.explain(frame(seed=1).loc[[20, 10]])
    assert explained.index.tolist() == [20, 10]
    assert quick().fit(numbers()).explain(numbers(3)).index.tolist() == [0, 1, 2]


def test_a_saved_detectors_model_scores_the_same(mixed: VAEDetector, tmp_path: Path) -> None:
    storage.save(mixed.model_, tmp_path / "model")
    loaded = storage.load(tmp_path / "model")
    np.testing.assert_array_equal(
        -loaded.score(as_table(frame())).anomaly_score, mixed.score_samples(frame())
    )


WITHOUT_LOCKS = """
import sys
from pathlib import Path

sys.modules["fcntl"] = None  # as on Windows

import numpy as np
import pandas as pd
from vae_core import errors, sources, storage
from vae_core.detector import VAEDetector, as_table

folder = Path(sys.argv[1])
x = pd.DataFrame(np.random.default_rng(0).normal(size=(200, 3)), columns=["a", "b", "c"])
detector = VAEDetector(steps=20).fit(x)
storage.save(detector.model_, folder / "model")
assert storage.load(folder / "model").score(as_table(x)).bound.shape == (200,)
(folder / "x.csv").write_text("a\\n1\\n2\\n")
try:
    sources.ingest(folder / "x.csv", folder / "store")
except errors.InputError as refused:
    print(refused)
"""


def test_the_library_does_without_file_locks_and_ingest_says_that_it_cannot(tmp_path: Path) -> None:
    script = [sys.executable, "-c", WITHOUT_LOCKS, str(tmp_path)]
    ended = subprocess.run(script, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "ingest needs file locks, which this system lacks" in ended.stdout


def test_types_may_change_as_long_as_no_value_is_lost(mixed: VAEDetector) -> None:
    X = frame()
    expected = mixed.score_samples(X)
    for name, changed in {
        "count": X["count"].astype(float),
        "paid": X["paid"].astype(int),
        "zone": X["zone"].astype(float),
        "tree": pd.Categorical(X["tree"]),
        "price": X["price"].astype(object),
        "when": X["when"].dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo"),
    }.items():
        np.testing.assert_array_equal(mixed.score_samples(X.assign(**{name: changed})), expected)


def test_unseen_values_score_and_cost(mixed: VAEDetector) -> None:
    X = frame()
    expected = mixed.score_samples(X)
    for name, value in {
        "tree": "yew",
        "zone": 9,
        "some": 4,
        "paid": 7,
        "price": None,
        "count": np.nan,
    }.items():
        assert (mixed.score_samples(X.assign(**{name: value})) < expected).mean() > 0.9


@pytest.mark.parametrize("rows", [2, 5, 49])
def test_very_few_rows_can_be_learnt_from_with_a_warning(rows: int) -> None:
    with pytest.warns(UserWarning, match=f"X has {rows} records, too few to hold some out") as told:
        detector = quick().fit(numbers(rows))
    assert len(told) == 1
    assert np.isfinite(detector.score_samples(numbers(50))).all()
    assert detector.score_samples(numbers(rows)).mean() > detector.score_samples(numbers(rows) + 100).mean()


@pytest.mark.parametrize("kind", ["category", "boolean", "whole", "real"])
def test_columns_of_one_kind_alone_can_be_learnt_from(kind: str) -> None:
    r = np.random.default_rng(0)
    values = {
        "category": r.choice(["oak", "ash"], 80),
        "boolean": r.random(80) < 0.5,
        "whole": r.poisson(3, 80),
        "real": r.normal(size=80),
    }[kind]
    X = pd.DataFrame({"a": values, "b": values})
    for preset in ("default", "lecture"):
        detector = quick(preset=preset).fit(X)
        assert set(detector.model_.encoding.kinds.values()) == {kind}
        assert np.isfinite(detector.score_samples(X)).all()
        assert detector.sample(3).shape == (3, 2)


def test_a_wide_table_can_be_learnt_from() -> None:
    X = np.random.default_rng(0).normal(size=(65, 1500))
    X[:, ::2] = X[:, :1]
    new = X[60:]  # a changed copy of a training record hears that record's kernel, the record itself does not
    strange = new.copy()
    strange[:, 0] = -strange[:, 0] - 3
    detector = quick(steps=5).fit(X[:60])
    assert (detector.score_samples(strange) < detector.score_samples(new)).all()


def test_constant_and_empty_columns_beside_others_are_no_obstacle() -> None:
    X = np.c_[numbers(), np.full(ROWS, 2.0), np.full(ROWS, np.nan)]
    detector = quick().fit(X)
    other = X[:1].copy()
    other[0, 3:] = 3.0
    drop = detector.score(X[:1]) - detector.score(other)
    assert drop == pytest.approx(2 * np.log((ROWS + 2) ** 2 - 1), abs=0.1)
    assert detector.score_samples(other)[0] < detector.score_samples(X[:1])[0] - drop


@pytest.mark.parametrize("value", [1e3, 1e20, -1e150, 1.7e308])
@pytest.mark.parametrize("preset", ["default", "lecture"])
def test_no_finite_value_gives_a_score_that_is_not(preset: str, value: float) -> None:
    detector = quick(preset=preset).fit(numbers())
    X = numbers(3)
    X[1, 0] = value
    scores = detector.score_samples(X)
    assert np.isfinite(scores).all() and scores.argmin() == 1
