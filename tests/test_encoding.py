"""Tables to model values and back: nothing is clipped, nothing unexpected is free, every way leads back."""

from __future__ import annotations

import datetime
import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from vae_core.columns import RARE_MISSING, Column
from vae_core.encoding import TableEncoding
from vae_core.errors import InputError

ROWS = 500
START = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)


def shop(rows: int = ROWS, seed: int = 0) -> pa.Table:
    """A table with a column of each kind; `gaps` is missing in a fifth of the rows, the rest in none."""
    r = np.random.default_rng(seed)
    gaps = [None if u < 0.2 else u for u in r.random(rows)]
    return pa.table(
        {
            "price": r.gamma(2.0, 10.0, rows),
            "count": r.poisson(3.0, rows),
            "gaps": pa.array(gaps, pa.float64()),
            "paid": pa.array(r.random(rows) < 0.4),
            "flag": r.integers(0, 2, rows),
            "tree": r.choice(["oak", "ash", "elm"], rows).tolist(),
            "zone": pa.array(r.integers(1, 5, rows)),
            "shop": ["main street"] * rows,
            "floor": [2] * rows,
            "note": pa.nulls(rows, pa.string()),
            "time": pa.array(
                [START + datetime.timedelta(hours=i) for i in range(rows)], pa.timestamp("us", "UTC")
            ),
            "key": [f"key-{i}" for i in range(rows)],
        }
    )


def fitted(table: pa.Table | None = None, **options: Any) -> TableEncoding:
    table = shop() if table is None else table
    if "zone" in table.column_names:  # said, since unrelated columns that are not are set apart
        declared = {"zone": "category", "tree": "category", "paid": "boolean", "flag": "boolean"}
        options.setdefault("kinds", {n: kind for n, kind in declared.items() if n in table.column_names})
    return TableEncoding.fit(table.to_batches(max_chunksize=100), **options)


def changed(table: pa.Table, name: str, value: Any) -> pa.Table:
    """The table with every cell of a column replaced."""
    place = table.column_names.index(name)
    type_ = table.schema.field(name).type
    return table.set_column(place, name, pa.array([value] * len(table), type_))


@pytest.fixture(scope="module")
def encoding() -> TableEncoding:
    return fitted()


def test_features_follow_the_kinds(encoding: TableEncoding) -> None:
    names = [(encoding.described[f.column].name, f.likelihood) for f in encoding.features]
    assert names == [
        ("price", "gaussian"),
        ("count", "whole"),
        ("gaps", "gaussian"),
        ("paid", "bernoulli"),
        ("flag", "bernoulli"),
        ("tree", "categorical"),
        ("zone", "categorical"),
    ]
    assert encoding.left_out == {"key": "identifier"}
    assert encoding.time == "time"


def test_real_and_whole_columns_are_standardised_by_training(encoding: TableEncoding) -> None:
    table = shop()
    encoded = encoding.encode(table)
    for j, name in ((0, "price"), (1, "count")):
        values = np.asarray(table.column(name), dtype=float)
        np.testing.assert_allclose(encoded.values[:, j], (values - values.mean()) / values.std(), atol=1e-9)
    assert encoding.features[1].scale == pytest.approx(1 / np.std(table.column("count").to_numpy()))


def test_training_rows_lie_between_0_and_1_but_for_the_tails(encoding: TableEncoding) -> None:
    values, mask = encoding.transform(shop())
    assert values.shape == (ROWS, 5 + 3 + 4) and mask.shape == values.shape
    assert ((values >= 0) & (values <= 1)).mean() > 0.995


@pytest.mark.parametrize("preset", ["default", "lecture"])
@pytest.mark.parametrize("value", [-1e3, 1e4, 1e12, -1.7e308])
def test_a_value_out_of_range_maps_outside_and_is_counted(preset: str, value: float) -> None:
    table = shop()
    encoding = fitted(preset=preset)
    beyond = changed(table, "price", value)
    scaled = encoding.transform(beyond)[0][:, 0]
    column = encoding.described[0]
    assert (scaled < 0).all() if value < 0 else (scaled > 1).all()
    np.testing.assert_allclose(scaled, (value / 2 - column.low / 2) / (column.high / 2 - column.low / 2))
    before, after = encoding.encode(table), encoding.encode(beyond)
    assert np.isfinite(after.values).all()
    inside = before.n_out_of_range - (np.abs(encoding.transform(table)[0][:, 0] - 0.5) > 0.5)
    assert (after.n_out_of_range == inside + 1).all()


def test_values_far_out_keep_their_order_and_stay_finite(encoding: TableEncoding) -> None:
    far = [30.0, 1e3, 1e6, 1e15, 1e30, 1e32, 1e40, 1e100, 1e300, 1.7e308]
    for signed in (far, [-x for x in far]):
        table = shop(len(far)).set_column(0, "price", pa.array(signed))
        values = encoding.encode(table).values[:, 0]
        assert np.isfinite(values).all()
        assert (np.diff(values) * np.sign(signed[0]) > 0).all()


def test_order_holds_far_below_a_column_whose_mean_is_huge() -> None:
    encoding = fitted(pa.table({"x": 1e40 + 1e25 * np.random.default_rng(0).normal(size=200)}))
    values = encoding.encode(pa.table({"x": [-1e300, -1e41, 0.0, 1e38, 1e40]})).values[:, 0]
    assert (np.diff(values) > 0).all()


def test_an_unseen_category_is_other_and_counted(encoding: TableEncoding) -> None:
    encoded = encoding.encode(changed(shop(), "tree", "yew"))
    assert (encoded.values[:, 5] == 0).all()
    assert (encoded.n_unseen == 1).all()
    assert encoded.mask[:, 5].all()
    assert (encoding.encode(shop()).n_unseen == 0).all()


@pytest.mark.parametrize("value", [-1, 2, 7])
def test_a_boolean_column_counts_what_is_neither_true_nor_false(encoding: TableEncoding, value: int) -> None:
    encoded = encoding.encode(changed(shop(), "flag", value))
    before = encoding.encode(shop())
    assert (encoded.n_out_of_range == before.n_out_of_range + 1).all()
    assert not np.isin(encoded.values[:, 4], (0, 1)).any()


def test_half_true_is_not_true() -> None:
    encoding = fitted(pa.table({"b": [0.0, 1.0] * 50, "x": np.arange(100.0)}), kinds={"b": "boolean"})
    encoded = encoding.encode(pa.table({"b": [0.5, 0.0, 1.0], "x": [1.0, 2.0, 3.0]}))
    assert encoded.n_out_of_range.tolist() == [1, 0, 0]
    assert encoded.values[0, 0] > 1


@pytest.mark.parametrize("name", ["price", "count", "paid", "tree", "zone"])
def test_an_unexpected_missing_cell_is_masked_counted_and_costs_its_rarity(
    encoding: TableEncoding, name: str
) -> None:
    before, after = encoding.encode(shop()), encoding.encode(changed(shop(), name, None))
    place = list(encoding.columns).index(name)
    features = [j for j, f in enumerate(encoding.features) if f.column == place]
    assert not after.mask[:, features].any()
    assert (after.values[:, features] == 0).all()
    assert (after.n_missing == before.n_missing + 1).all()
    # No missing cell among 500 rows
    assert after.fixed[:, place] == pytest.approx(-2 * math.log(ROWS + 2))
    column = encoding.described[place]
    width = math.log(column.spread) if column.kind == "whole" else 0.0  # a mass over the step's width
    assert before.fixed[:, place] == pytest.approx(math.log(1 - 1 / (ROWS + 2) ** 2) + width)


def test_a_missing_cell_where_many_are_missing_costs_nothing_and_is_counted(encoding: TableEncoding) -> None:
    after = encoding.encode(changed(shop(), "gaps", None))
    assert not after.mask[:, 2].any()
    assert (after.fixed[:, 2] == 0).all()
    assert (after.n_missing == 1).all()


@pytest.mark.parametrize(("missing", "rare"), [(0, True), (9, True), (10, False), (900, False)])
def test_missing_cells_cost_where_fewer_than_one_in_a_hundred_was_missing(missing: int, rare: bool) -> None:
    assert RARE_MISSING == 0.01
    values = np.random.default_rng(0).normal(size=1000)
    values[:missing] = np.nan
    encoding = fitted(pa.table({"x": values, "y": np.arange(1000.0)}))
    cost = encoding.encode(pa.table({"x": [math.nan, 0.0], "y": [1.0, 1.0]})).fixed[:, 0]
    rate = (missing + 0.5) / 1001 if missing else 1 / 1002**2  # Jeffreys' prior; a law may be broken
    assert cost.tolist() == pytest.approx([math.log(rate), math.log(1 - rate)] if rare else [0, 0])


def test_missingness_is_a_mass_that_sums_to_1(encoding: TableEncoding) -> None:
    there, gone = (
        encoding.encode(shop()).fixed[0, 0],
        encoding.encode(changed(shop(), "price", None)).fixed[0, 0],
    )
    assert math.exp(there) + math.exp(gone) == pytest.approx(1)


def test_nan_and_null_encode_alike(encoding: TableEncoding) -> None:
    nan, null = (encoding.encode(changed(shop(), "price", value)) for value in (math.nan, None))
    for name in ("values", "mask", "fixed", "n_missing", "n_out_of_range", "n_unseen"):
        np.testing.assert_array_equal(getattr(nan, name), getattr(null, name))


@pytest.mark.parametrize(("name", "value"), [("shop", "high street"), ("floor", 3)])
def test_a_constant_column_that_changed_costs_and_is_counted(
    encoding: TableEncoding, name: str, value: Any
) -> None:
    before, after = encoding.encode(shop()), encoding.encode(changed(shop(), name, value))
    place = list(encoding.columns).index(name)
    assert (after.n_unseen == before.n_unseen + 1).all()
    # With even odds for a law, what would break it after 500 rows has the probability 1 / 502^2: a change,
    # and a missing cell
    broken = 1 / (ROWS + 2) ** 2
    there = math.log(1 - broken)
    assert after.fixed[:, place] == pytest.approx(math.log(broken) + there)
    assert before.fixed[:, place] == pytest.approx(2 * there)


def test_a_constant_column_that_is_missing_costs_and_is_counted(encoding: TableEncoding) -> None:
    place = list(encoding.columns).index("shop")
    after = encoding.encode(changed(shop(), "shop", None))
    assert (after.n_missing - encoding.encode(shop()).n_missing == 1).all()
    assert (after.n_unseen == 0).all()
    assert after.fixed[:, place] == pytest.approx(-2 * math.log(ROWS + 2))


def test_the_odds_of_a_law_are_those_of_its_prior() -> None:
    n = 40
    column = Column("x", "int64", rows=n, lawful=True)
    rate = np.linspace(0, 1, 200_001)
    by_rate = np.trapezoid(0.5 * (1 - rate) ** n, rate)  # evidence of a rate that is uniform beforehand
    odds_of_none = by_rate / (0.5 + by_rate)
    next_one = np.trapezoid(0.5 * (1 - rate) ** n * rate, rate) / by_rate
    assert math.exp(column.never) == pytest.approx(odds_of_none * next_one, rel=1e-6)
    assert math.exp(replace(column, lawful=False).never) == pytest.approx(next_one, rel=1e-6)


def test_huge_whole_constants_differ_in_their_last_digit() -> None:
    big = 2**53
    encoding = fitted(pa.table({"k": [big + 1] * 50, "x": np.arange(50.0)}))
    assert encoding.encode(pa.table({"k": [big + 1, big, big + 2], "x": [1.0] * 3})).n_unseen.tolist() == [
        0,
        1,
        1,
    ]


@pytest.mark.parametrize("empty", [pa.nulls(60, pa.float64()), pa.array([math.nan] * 60)])
def test_a_value_in_a_column_that_had_none_costs_and_is_counted(empty: pa.Array) -> None:
    encoding = fitted(pa.table({"e": empty, "x": np.arange(60.0)}))
    encoded = encoding.encode(pa.table({"e": [None, math.nan, 4.0], "x": [1.0] * 3}))
    assert encoded.n_unseen.tolist() == [0, 0, 1]
    assert encoded.n_missing.tolist() == [0, 0, 0]
    assert encoded.fixed[:, 0] == pytest.approx([math.log(1 - 62**-2)] * 2 + [-2 * math.log(62)])


@pytest.mark.parametrize("preset", ["default", "lecture"])
@pytest.mark.parametrize("likelihood", [None, "bernoulli", "continuous_bernoulli"])
def test_decode_brings_back_units_types_and_categories(preset: str, likelihood: str | None) -> None:
    table = shop()
    encoding = fitted(preset=preset, likelihood=likelihood)
    encoded = encoding.encode(table)
    assert_same_cells(encoding.decode(encoded.values, encoded.mask), table)


def test_inverse_transform_brings_back_units_types_and_categories(encoding: TableEncoding) -> None:
    values, mask = encoding.transform(shop())
    assert_same_cells(encoding.inverse_transform(values, mask), shop())


def assert_same_cells(back: pa.Table, table: pa.Table) -> None:
    assert back.column_names == ["price", "count", "gaps", "paid", "flag", "tree", "zone", "shop", "floor"]
    for name in back.column_names:
        assert back.schema.field(name).type == table.schema.field(name).type
        found, expected = back.column(name).to_pylist(), table.column(name).to_pylist()
        if name in ("price", "gaps"):
            assert [x is None for x in found] == [x is None for x in expected]
            found = [x for x in found if x is not None]
            assert found == pytest.approx([x for x in expected if x is not None], rel=1e-12)
        else:
            assert found == expected


@pytest.mark.parametrize("preset", ["default", "lecture"])
def test_an_unseen_category_comes_back_as_other_in_text_and_as_missing_in_numbers(preset: str) -> None:
    encoding = fitted(preset=preset)
    encoded = encoding.encode(changed(changed(shop(), "tree", "yew"), "zone", 99))
    back = encoding.decode(encoded.values, encoded.mask)
    assert set(back.column("tree").to_pylist()) == {"other"}
    assert set(back.column("zone").to_pylist()) == {None}


def test_the_encoding_survives_json(encoding: TableEncoding) -> None:
    for original in (
        encoding,
        fitted(preset="lecture"),
        fitted(ids=["key"], likelihood="continuous_bernoulli"),
    ):
        document = json.loads(json.dumps(original.to_json(), allow_nan=False))
        again = TableEncoding.from_json(document)
        assert again.to_json() == original.to_json()
        assert again.features == original.features
        a, b = original.encode(shop()), again.encode(shop())
        np.testing.assert_array_equal(a.values, b.values)
        np.testing.assert_array_equal(a.context, b.context)
        np.testing.assert_array_equal(a.fixed, b.fixed)


def test_rows_encode_alike_whatever_stands_beside_them(encoding: TableEncoding) -> None:
    table = shop(seed=3)
    whole = encoding.encode(table)
    for part in (slice(0, 1), slice(17, 130)):
        piece = encoding.encode(table.slice(part.start, part.stop - part.start))
        np.testing.assert_array_equal(piece.values, whole.values[part])
        np.testing.assert_array_equal(piece.fixed, whole.fixed[part])


def test_columns_are_found_by_name_in_any_order(encoding: TableEncoding) -> None:
    table = shop().append_column("new", pa.array(np.zeros(ROWS)))
    names = [*reversed(table.column_names)]
    np.testing.assert_array_equal(encoding.encode(table.select(names)).values, encoding.encode(shop()).values)


def test_a_missing_column_is_named(encoding: TableEncoding) -> None:
    with pytest.raises(InputError, match=r'column "price": is missing'):
        encoding.encode(shop().drop_columns(["price"]))


def test_the_identity_that_ingest_adds_is_no_feature() -> None:
    table = shop().append_column("_record_id", pa.array([f"r{i}" for i in range(ROWS)]))
    assert "_record_id" not in fitted(table).columns


def test_a_missing_timestamp_has_no_context_and_is_counted(encoding: TableEncoding) -> None:
    after = encoding.encode(changed(shop(), "time", None))
    assert (after.context == 0).all()
    assert (after.n_missing == encoding.encode(shop()).n_missing + 1).all()


def test_of_two_timestamps_one_is_context_and_the_other_is_said_to_be_left_out() -> None:
    table = shop().append_column("later", shop().column("time"))
    assert fitted(table).time == "time"
    assert fitted(table, time="later").left_out["time"] == "a second timestamp"
    with pytest.raises(InputError, match=r'column "price": is not a timestamp'):
        fitted(table, time="price")


def test_a_wide_table_encodes() -> None:
    values = np.random.default_rng(0).normal(size=(60, 1500))
    table = pa.table({f"c{j}": values[:, j] for j in range(1500)})
    encoding = fitted(table)
    encoded = encoding.encode(table)
    assert encoded.values.shape == (60, 1500)
    np.testing.assert_allclose(encoded.values.std(0), 1)


def test_a_table_of_one_row_encodes_itself_as_ordinary() -> None:
    table = shop(1)
    encoding = fitted(table, kinds=None)
    encoded = encoding.encode(table)
    assert (encoded.n_out_of_range == 0).all() and (encoded.n_unseen == 0).all()
    assert np.isfinite(encoded.values).all()


def test_a_table_without_variation_is_refused_with_its_columns() -> None:
    with pytest.raises(InputError, match=r"no column can be learnt from: a \(constant\), b \(empty\)"):
        fitted(pa.table({"a": [1.0, 1.0], "b": pa.nulls(2, pa.string())}))


def test_a_complete_records_density_in_the_users_units_needs_one_constant(encoding: TableEncoding) -> None:
    """log p(x) = log p(u) - sum of log spreads, of real columns and of whole numbers (a mass on one step)."""
    spreads = [np.std(np.asarray(shop().column(n).drop_null(), float)) for n in ("price", "gaps", "count")]
    assert encoding.log_jacobian == pytest.approx(-sum(math.log(s) for s in spreads))


def test_a_column_of_another_unit_encodes_to_the_same_values() -> None:
    table = shop()
    grams = table.set_column(0, "price", pa.array(table.column("price").to_numpy() * 1024))
    np.testing.assert_array_equal(fitted(table).encode(table).values, fitted(grams).encode(grams).values)


def test_the_lectures_encoding_is_min_max_and_one_hot() -> None:
    encoding = fitted(preset="lecture")
    encoded = encoding.encode(shop())
    price = np.asarray(shop().column("price"))
    np.testing.assert_allclose(encoded.values[:, 0], (price - price.min()) / (price.max() - price.min()))
    assert {f.likelihood for f in encoding.features} == {"bernoulli"}
    assert len(encoding.features) == 5 + 3 + 4
    assert encoded.values.min() == 0 and encoded.values.max() == 1
    np.testing.assert_array_equal(encoded.values[:, 5:8].sum(1), 1)
