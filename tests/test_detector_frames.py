"""How VAEDetector takes what pandas holds, what predict flags, and what samples look like."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from tests.test_detector import frame, numbers, quick
from vae_core.frames import with_dtypes


@pytest.mark.parametrize("trained", [int, float, "float64 with missing", "Float64"])
def test_a_category_is_the_same_however_pandas_holds_its_number(trained: Any) -> None:
    r = np.random.default_rng(0)
    x = frame().assign(code=r.choice([1, 2, 3], len(frame())))
    own = x["code"].astype(float).where(r.random(len(x)) > 0.1) if "missing" in str(trained) else x["code"]
    own = own if "missing" in str(trained) else own.astype(trained)
    detector = quick().fit(x.assign(code=own.astype("category")))
    expected = detector.score_samples(x.assign(code=x["code"].astype("category")))
    for other in (x["code"], x["code"].astype(float), x["code"].astype(float).astype("category")):
        np.testing.assert_array_equal(detector.score_samples(x.assign(code=other)), expected)
    made = detector.sample(20)["code"]
    assert made.dtype == own.astype("category").dtype
    assert made.notna().all()


def test_a_category_of_yes_and_no_takes_0_and_1() -> None:
    x = frame()
    detector = quick().fit(x.assign(paid=x["paid"].astype("category")))
    np.testing.assert_array_equal(
        detector.score_samples(x.assign(paid=x["paid"].astype(int))), detector.score_samples(x)
    )


def test_categories_may_be_dates_and_numbers_of_any_length() -> None:
    x = frame()
    day = pd.Series(pd.to_datetime(["2020-01-01", "2020-02-01"])).sample(len(x), replace=True, random_state=0)
    big = pd.Series([10**30, 2 * 10**30], dtype=object).sample(len(x), replace=True, random_state=1)
    x = x.assign(day=day.astype("category").to_numpy(), big=big.to_numpy())
    x["day"] = pd.Categorical(day)
    detector = quick().fit(x)
    assert detector.model_.encoding.kinds["day"] == detector.model_.encoding.kinds["big"] == "category"
    plain = x.assign(day=day.to_numpy())
    np.testing.assert_array_equal(detector.score_samples(plain), detector.score_samples(x))


@pytest.mark.parametrize(("rows", "place"), [(200, 1), (400, 2), (2000, 10)])
def test_predict_flags_what_has_a_p_value_of_at_most_alpha(rows: int, place: int) -> None:
    detector = quick().fit(numbers(rows))
    held_out = np.sort(-detector.model_.calibration.scores)
    assert place == int(0.05 * (len(held_out) + 1))
    assert detector.offset_ == held_out[place - 1]
    new = numbers(3000, seed=1)
    as_low = (held_out[None, :] <= detector.score_samples(new)[:, None]).sum(1)
    p = (1 + as_low) / (1 + len(held_out))  # of a conformal test
    np.testing.assert_array_equal(detector.predict(new) == -1, p <= 0.05)


def test_too_few_held_out_records_for_alpha_are_told() -> None:
    with pytest.warns(UserWarning, match="10 held-out records are too few for a p-value of 0.05"):
        detector = quick().fit(numbers(100))
    assert detector.offset_ == -detector.model_.calibration.scores.max()


def test_samples_of_an_array_have_all_its_columns() -> None:
    x = np.c_[np.full(300, np.nan), numbers(300)]
    detector = quick().fit(x)
    made = detector.sample(3)
    assert made.shape == (3, 4)
    assert np.isnan(made[:, 0]).all()
    assert np.isfinite(detector.score_samples(made)).all()
    assert detector.sample(3, random_state=np.random.default_rng(1)).shape == (3, 4)


WHOLE = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "Int8", "Int64", "UInt16"]


def test_samples_have_the_types_of_training() -> None:
    r = np.random.default_rng(0)
    count, real = r.poisson(20, 400), r.normal(size=400)
    columns = {name: pd.Series(count).astype(name) for name in [*WHOLE, "int32[pyarrow]"]}
    columns |= {n: pd.Series(real).astype(n) for n in ["float16", "float32", "float64", "Float32", "Float64"]}
    columns |= {name: pd.Series(count > 20).astype(name) for name in ["bool", "boolean", "bool[pyarrow]"]}
    columns["string"] = pd.Series(r.choice(["oak", "ash"], 400)).astype("string")
    columns["gaps"] = pd.Series(count).astype("Int64").where(r.random(400) > 0.1)
    x = pd.DataFrame(columns)
    detector = quick().fit(x)
    for made in (detector.sample(50), detector.sample(1, mean=True)):
        assert made.dtypes.to_dict() == x.dtypes.to_dict()
        assert made.notna().all(axis=None)
    assert np.isfinite(detector.score_samples(detector.sample(50))).all()


ZONED = ["datetime64[ns, Europe/Berlin]", "timestamp[ms, tz=America/New_York][pyarrow]"]


@pytest.mark.parametrize("kind", ["datetime64[s]", "datetime64[ns]", "timestamp[us][pyarrow]", *ZONED])
def test_sampled_times_have_the_zone_and_the_unit_of_training(kind: str) -> None:
    hours = pd.Series(pd.date_range("2024-01-01", periods=400, freq="h", tz="UTC"))
    own = (hours if kind in ZONED else hours.dt.tz_localize(None)).astype(kind)
    x = pd.DataFrame({"a": numbers(400)[:, 0], "b": numbers(400)[:, 1], "when": own})
    made = quick().fit(x).sample(50)["when"]
    assert made.dtype == own.dtype
    assert own.min() <= made.min() and made.max() <= own.max()


def test_times_beyond_a_units_years_stay_what_they_are() -> None:
    table = pa.table({"when": pa.array([7 * 10**16], pa.timestamp("us", "UTC"))})  # in the year 4188
    zoned = pd.DatetimeTZDtype("ns", "Europe/Berlin")
    made = with_dtypes(table.to_pandas(), table, {"when": zoned})["when"]
    assert (str(made.dtype), made[0].year) == ("datetime64[us, Europe/Berlin]", 4188)


@pytest.mark.parametrize("wrong", [-1, 2.5, "3", True, None])
def test_what_is_no_count_is_one_clear_error(wrong: Any) -> None:
    detector = quick().fit(frame())
    told = f"is a whole number of at least [01]; got {wrong!r}$"
    with pytest.raises(ValueError, match="^top " + told):
        detector.explain(frame()[:2], top=wrong)
    with pytest.raises(ValueError, match="^n_samples " + told):
        detector.sample(wrong)
    assert len(detector.sample(np.int64(2))) == 2
    assert detector.explain(frame()[:2], top=np.int8(1))["reasons"].map(len).max() == 1


def test_values_that_do_not_fit_into_a_narrow_type_stay_what_they_are() -> None:
    names = ["int8", "uint8", "Int8", "int8[pyarrow]", "uint16", "bool", "boolean"]
    table = pa.table({name: [3, -1, 130, 2**40] for name in names} | {"float32": [1.0, 2.0, 3.0, 1e39]})
    drawn = table.to_pandas()
    dtypes = {name: pd.Series([], dtype=name).dtype for name in table.column_names}
    pd.testing.assert_frame_equal(with_dtypes(drawn, table, dtypes), drawn)
    inside = with_dtypes(drawn[:1], table[:1], dtypes).drop(columns=["bool", "boolean"])
    assert inside.dtypes.to_dict() == {name: dtypes[name] for name in inside}
    assert (inside == drawn[:1][list(inside)]).all(axis=None)


def test_unsigned_numbers_beyond_64_bits_with_a_sign_are_text_or_one_clear_error() -> None:
    x = frame()
    hashes = np.random.default_rng(0).integers(2**62, 2**64, len(x), dtype="uint64")
    ids = quick().fit(x.assign(hash=hashes))
    assert ids.model_.encoding.columns["hash"] == "string"
    assert np.isfinite(ids.score_samples(x.assign(hash=np.uint64(7)))).all()
    two = x.assign(hash=np.where(hashes > 2**63, np.uint64(2**63), np.uint64(2**64 - 1)))
    made = quick(kinds={"hash": "category"}).fit(two).sample(20)["hash"]
    assert made.dtype == np.uint64 and made.isin(two["hash"]).all()
    hashes[:], hashes[3] = 5, 2**63
    with pytest.raises(ValueError, match=r"'hash'.* row 3: 9223372036854775808 is beyond the .* text$"):
        quick().fit(x.assign(hash=hashes))


def test_what_is_neither_true_nor_false_is_told_as_it_stands() -> None:
    x = frame()
    x["even"] = np.arange(len(x)) % 2 == 0
    told = quick().fit(x).explain(x[:3].assign(even=[0, 1, 7]))
    entries = [{reason["feature"]: reason for reason in row} for row in told["reasons"]]
    assert entries[2]["even"]["value"] == "7" and "even 7, expected " in told["why"][2]
    assert {row["even"]["value"] for row in entries[:2] if "even" in row} <= {"true", "false"}


def test_kinds_take_the_names_that_the_frame_has() -> None:
    x = pd.DataFrame(np.round(numbers() * 5))
    assert quick(kinds={0: "real"}).fit(x).model_.encoding.kinds["0"] == "real"
    x.columns = pd.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", 1)])
    assert quick(kinds={("a", 2): "real"}).fit(x).model_.encoding.kinds["('a', 2)"] == "real"


def test_a_second_fit_leaves_nothing_of_the_first() -> None:
    images = np.random.default_rng(0).random((60, 8, 8))
    detector = quick().fit(frame()).fit(images)
    assert not hasattr(detector, "feature_names_in_")
    assert detector.sample(2).shape == (2, 8, 8)


@pytest.mark.parametrize("names", [[2013, 2014, 2015], [("a", 1), ("a", 2), ("b", 1)]])
def test_columns_whose_names_are_no_texts_are_not_taken_by_position(names: list[Any]) -> None:
    x = pd.DataFrame(numbers()[:, :3])
    x.columns = pd.Index(names)
    detector = quick().fit(x)
    scores = detector.score_samples(x)
    assert scores.shape == (len(x),)
    for other in (x.iloc[:, [1, 0, 2]], x.set_axis([1, 2, 3], axis=1)):
        with pytest.raises(ValueError, match="feature names should match those that were passed during fit"):
            detector.score_samples(other)
    np.testing.assert_array_equal(detector.score_samples(x.to_numpy()), scores)


def test_an_arrow_table_is_taken_as_the_frame_that_it_becomes() -> None:
    x = frame().drop(columns=[name for name, dtype in frame().dtypes.items() if dtype == "category"])
    table = pa.Table.from_pandas(x, preserve_index=False)
    ours, theirs = quick().fit(table), quick().fit(table.to_pandas())
    assert list(ours.model_.encoding.columns) == x.columns.tolist()
    np.testing.assert_array_equal(ours.score_samples(table), theirs.score_samples(table.to_pandas()))
    assert ours.explain(table.slice(0, 2))["why"].tolist() == theirs.explain(x[:2])["why"].tolist()
