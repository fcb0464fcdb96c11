"""What a column is taken for, and what one streaming pass learns of it, against numpy on the whole column."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_core.columns import KINDS, SAMPLE_ROWS, Column, describe, numbers, survey
from vae_core.errors import InputError

ROWS = 400


def one(values: Any, type_: pa.DataType | None = None, *, kind: str | None = None) -> Column:
    """The description of a table's only column."""
    table = pa.table({"x": pa.array(values, type_)})
    return describe(table.to_batches(), kinds={"x": kind} if kind else None)[0]


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def days(count: int) -> list[datetime.datetime]:
    start = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    return [start + datetime.timedelta(days=i) for i in range(count)]


EXAMPLES: Mapping[str, tuple[Any, str]] = {
    "measurements": (generator().normal(size=ROWS), "real"),
    "two real values": (np.tile([0.0, 1.0], ROWS // 2), "real"),
    "counts": (generator().poisson(3.0, ROWS), "whole"),
    "whole numbers with gaps, all different": (generator().permutation(ROWS) * 3, "whole"),
    "row numbers": (np.arange(ROWS), "identifier"),
    "row numbers, shuffled, from 1000": (1000 + generator().permutation(ROWS), "identifier"),
    "percentages that span as much as there are rows": (
        np.r_[0, ROWS - 1, generator().integers(0, ROWS, ROWS - 2)],
        "whole",
    ),
    "truth": (generator().random(ROWS) < 0.3, "boolean"),
    "0 and 1": (generator().integers(0, 2, ROWS), "boolean"),
    "0 and 2": (2 * generator().integers(0, 2, ROWS), "whole"),
    "three names": (generator().choice(["oak", "ash", "elm"], ROWS).tolist(), "category"),
    "names, all different": ([f"tree-{i}" for i in range(ROWS)], "identifier"),
    "sentences": ([f"the tree of row {i} is tall" for i in range(ROWS)], "text"),
    "days": (days(ROWS), "timestamp"),
    "one number": (np.full(ROWS, 2.5), "constant"),
    "one whole number": (np.full(ROWS, 7), "constant"),
    "one name": (["oak"] * ROWS, "constant"),
    "one truth": ([True] * ROWS, "constant"),
    "nothing": ([None] * ROWS, "empty"),
    "no number": (np.full(ROWS, np.nan), "empty"),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_columns_kind_follows_from_its_type_and_values(name: str) -> None:
    values, kind = EXAMPLES[name]
    assert one(values).kind == kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("counts", "real"),
        ("counts", "category"),
        ("row numbers", "whole"),
        ("0 and 1", "whole"),
        ("two real values", "boolean"),
        ("two real values", "whole"),
        ("truth", "category"),
        ("three names", "label"),
        ("measurements", "label"),
        ("days", "label"),
        ("one number", "real"),
    ],
)
def test_the_user_may_name_another_kind(name: str, kind: str) -> None:
    assert one(EXAMPLES[name][0], kind=kind).kind == kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("three names", "real"),
        ("three names", "timestamp"),
        ("measurements", "whole"),
        ("measurements", "boolean"),
        ("measurements", "category"),
        ("measurements", "constant"),
        ("measurements", "empty"),
        ("counts", "boolean"),
        ("days", "real"),
    ],
)
def test_a_kind_that_the_values_cannot_have_is_refused_by_name(name: str, kind: str) -> None:
    with pytest.raises(InputError, match=rf'column "x".* cannot be used as {kind}'):
        one(EXAMPLES[name][0], kind=kind)


def test_a_kind_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(InputError, match=r"Kinds are .*real.*category"):
        one([1.0, 2.0], kind="number")


def test_a_kind_for_a_column_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match=r'column "y".*not there'):
        describe(pa.table({"x": [1.0, 2.0]}).to_batches(), kinds={"y": "real"})


def test_asking_for_a_kind_of_an_all_missing_column_leaves_it_empty() -> None:
    for kind in ("real", "category", "timestamp"):
        assert one([None] * ROWS, pa.float64(), kind=kind).kind == "empty"


def test_no_rows_are_refused() -> None:
    for batches in ([], pa.table({"x": pa.array([], pa.float64())}).to_batches()):
        with pytest.raises(InputError, match="no rows"):
            describe(batches)


def test_every_kind_has_its_explanation() -> None:
    assert {kind for _, kind in EXAMPLES.values()} | {"label", "vector"} == set(KINDS)


def mixed(seed: int, rows: int) -> pa.Table:
    r = generator(seed)
    real = r.normal(50, 3, rows)
    real[r.random(rows) < 0.1] = np.nan
    return pa.table(
        {
            "real": pa.array(real),
            "gaps": pa.array(real, from_pandas=True),
            "whole": r.poisson(2.0, rows),
            "truth": r.random(rows) < 0.2,
            "name": pa.array([None if u < 0.05 else f"n{int(9 * u)}" for u in r.random(rows)]),
            "far": r.standard_cauchy(rows),
        }
    )


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 200), size=st.integers(1, 60))
def test_a_streaming_pass_learns_what_the_whole_table_says(seed: int, rows: int, size: int) -> None:
    table = mixed(seed, rows)
    whole, streamed = describe(table.to_batches()), describe(table.to_batches(max_chunksize=size))
    for one_pass, many in zip(whole, streamed, strict=True):
        a, b = one_pass.to_json(), many.to_json()
        for key in ("mean", "spread"):  # sums in another order
            assert b.pop(key) == pytest.approx(a.pop(key), rel=1e-9, abs=1e-9)
        assert a == b


def test_moments_range_counts_and_percentiles_are_numpys() -> None:
    table = mixed(1, 5000)
    columns = {c.name: c for c in describe(table.to_batches(max_chunksize=611))}
    for name in ("real", "gaps", "whole"):
        values = numbers(table.column(name))
        values = values[~np.isnan(values)]
        column = columns[name]
        assert (column.rows, column.missing) == (5000, 5000 - len(values))
        assert column.mean == pytest.approx(values.mean(), rel=1e-12)
        assert column.spread == pytest.approx(values.std(), rel=1e-12)
        assert (column.minimum, column.maximum) == (values.min(), values.max())
        np.testing.assert_allclose(column.quantiles, np.percentile(values, range(101)), rtol=1e-12)
    names = [name for name in table.column("name").to_pylist() if name is not None]
    counted = dict(zip(columns["name"].categories, columns["name"].counts, strict=True))
    assert counted == {name: names.count(name) for name in set(names)}
    assert columns["name"].counts == sorted(columns["name"].counts, reverse=True)


def test_nan_and_null_are_the_same_missing_cell() -> None:
    columns = {c.name: c.to_json() | {"name": ""} for c in describe(mixed(2, 300).to_batches())}
    assert columns["real"] == columns["gaps"]


def test_a_column_with_a_mean_far_from_0_keeps_its_spread() -> None:
    """The sum of squares minus the square of the sum would cancel to nothing here."""
    values = 1e9 + generator().normal(size=4000)
    table = pa.table({"x": values})
    column = describe(table.to_batches(max_chunksize=300))[0]
    assert column.spread == pytest.approx(values.std(), rel=1e-6)


def test_limits_are_the_half_percentiles_with_a_tenth_of_headroom() -> None:
    values = generator().uniform(0, 1000, 20_000)
    column = one(values)
    low, high = np.percentile(values, [0.5, 99.5])
    assert column.low == pytest.approx(low - 0.1 * (high - low))
    assert column.high == pytest.approx(high + 0.1 * (high - low))


def test_a_wild_value_does_not_move_the_limits() -> None:
    values = generator().uniform(0, 1, 5000)
    tame, wild = one(values), one(np.r_[values, 1e9])
    assert wild.maximum == 1e9
    assert wild.high == pytest.approx(tame.high, abs=1e-3)


@pytest.mark.parametrize(("wild", "robust"), [(30.0, False), (1e5, True), (1e300, True)])
def test_a_few_wild_values_do_not_take_over_the_spread(wild: float, robust: bool) -> None:
    """In their units the other 5,000 would all be 0, and the column blind to what happens among them."""
    values = generator().normal(size=5000)
    column = one(np.r_[values, wild, -wild])
    assert column.spread == pytest.approx(
        values.std() if robust else np.r_[values, wild, -wild].std(), rel=0.02
    )
    assert column.mean == pytest.approx(values.mean(), abs=0.03)


def test_limits_of_min_max_scaling_are_the_extremes() -> None:
    column = describe(pa.table({"x": [3.0, 9.0, 4.0]}).to_batches(), scaling="minmax")[0]
    assert (column.low, column.high) == (3.0, 9.0)


def test_percentiles_that_coincide_give_way_to_the_extremes() -> None:
    values = np.zeros(5000)
    values[:3] = [-2.0, 5.0, 8.0]
    column = one(values)
    assert column.kind == "real"
    assert (column.low, column.high) == (pytest.approx(-3.0), pytest.approx(9.0))
    assert column.spread >= 0.01 * 12.0


@pytest.mark.parametrize("value", [0.0, -3.5, 1e-300, 1e300, 2.0**60, -1.7e308])
def test_a_single_value_has_limits_around_it(value: float) -> None:
    column = one([value], kind="real")
    assert column.low < value < column.high or abs(value) == 1.7e308
    assert column.high > column.low
    assert column.spread > 0


@pytest.mark.parametrize(
    "values",
    [
        [1.7e308, -1.7e308, 1.0],
        [1e200, 3e200, 2e200],
        [5e-324, 0.0, 1e-320],
        [2.0**53, 2.0**53 + 2, 2.0**53 + 4],
        [-1e308, -1e308, 1.5e308],
    ],
)
def test_the_largest_and_smallest_numbers_have_finite_statistics(values: list[float]) -> None:
    column = describe(pa.table({"x": values * 40}).to_batches(max_chunksize=7))[0]
    for number in (column.mean, column.spread, column.low, column.high, *column.quantiles):
        assert math.isfinite(number)
    assert column.spread > 0
    assert json.loads(json.dumps(column.to_json(), allow_nan=False))


def test_huge_whole_numbers_are_described_to_the_last_digit_where_it_counts() -> None:
    assert one(np.full(ROWS, 2**53 + 1)).constant == str(2**53 + 1)
    big = one([2**60 + int(i) for i in generator().integers(0, 9, ROWS)], kind="category")
    assert set(big.categories) == {str(2**60 + i) for i in range(9)}


def test_of_many_categories_the_most_frequent_keep_a_class() -> None:
    values = [f"c{i % 100:02d}" for i in range(20_000)] + ["c99"] * 50
    column = one(values)
    assert column.kind == "category"
    assert len(column.categories) == 63
    assert column.categories[0] == "c99"


def test_a_category_seen_once_among_many_rows_is_other() -> None:
    column = one(["oak"] * 100 + ["ash"] * 2 + ["elm"])
    assert column.categories == ["oak", "ash"]
    assert one(["oak", "ash", "elm"]).categories == ["ash", "elm", "oak"]  # few rows: each one counts


def test_a_category_without_two_alike_is_an_identifier_whatever_is_asked() -> None:
    assert one([f"tree-{i}" for i in range(ROWS)], kind="category").kind == "identifier"


@pytest.mark.parametrize("name", ["", "🌡", 'a "quoted" name', "a\nb", "x" * 500, "_score", "NULL"])
def test_a_columns_name_may_be_anything(name: str) -> None:
    column = describe(pa.table({name: generator().normal(size=50)}).to_batches())[0]
    assert column.name == name
    assert Column.from_json(json.loads(json.dumps(column.to_json()))) == column


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_description_survives_json(name: str) -> None:
    column = one(EXAMPLES[name][0])
    text = json.dumps(column.to_json(), allow_nan=False)
    again = Column.from_json(json.loads(text))
    assert again.to_json() == column.to_json()
    assert math.isnan(again.minimum) == math.isnan(column.minimum)


def test_a_sample_of_a_long_stream_keeps_the_limits() -> None:
    """Of more than 50,000 rows the percentiles come from a uniform sample, whatever the batches."""
    values = generator().normal(size=160_000)
    table = pa.table({"x": np.sort(values)})
    short, long = (describe(table.to_batches(max_chunksize=size))[0] for size in (10_000, 65_536))
    assert short.quantiles == long.quantiles
    np.testing.assert_allclose(short.quantiles[5:96], np.percentile(values, range(5, 96)), atol=0.03)
    assert (short.minimum, short.maximum) == (values.min(), values.max())


@pytest.mark.parametrize(
    "type_", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_text_is_text_however_arrow_holds_it(type_: pa.DataType) -> None:
    column = one(["oak", None, "oak", "ash"] * 20, type_)
    assert (column.type, column.kind, column.missing) == ("string", "category", 20)
    assert dict(zip(column.categories, column.counts, strict=True)) == {"oak": 40, "ash": 20}


def test_numbers_of_timestamps_are_the_same_instant_in_any_zone_and_unit() -> None:
    instant = datetime.datetime(2024, 3, 1, 12, 30, tzinfo=datetime.UTC)
    micros = 1_709_296_200_000_000
    for type_ in (pa.timestamp("s"), pa.timestamp("ns", "UTC"), pa.timestamp("us", "America/New_York")):
        naive = instant if type_.tz else instant.replace(tzinfo=None)
        assert numbers(pa.array([naive, None], type_)).tolist()[0] == micros
    assert numbers(pa.array([1_234_567], pa.timestamp("ns"))).tolist() == [1234.0]  # finer than microseconds


def kinds_of(table: pa.Table, *keys: str, kinds: Mapping[str, str] | None = None) -> dict[str, str]:
    return {c.name: c.kind for c in survey(table.to_batches(), keys=keys, kinds=kinds)[0]}


KEYS: Mapping[str, Any] = {
    "names": lambda n: [f"c{i:05d}" for i in generator().permutation(n)],
    "sentences": lambda n: [f"the row of number {i}" for i in range(n)],
    "whole numbers with gaps": lambda n: generator().permutation(n) * 7,
    "real numbers": lambda n: generator().permutation(n) / 7,
}


@pytest.mark.parametrize("rows", [2, 19, 20, 51, 3 * SAMPLE_ROWS])
@pytest.mark.parametrize("values", KEYS)
def test_a_key_whose_values_differ_names_the_record_at_any_size(values: str, rows: int) -> None:
    table = pa.table({"k": pa.array(KEYS[values](rows)), "x": generator().normal(size=rows)})
    assert kinds_of(table, "k") == {"k": "identifier", "x": "real"}


@pytest.mark.parametrize("rows", [60, 3 * SAMPLE_ROWS])
@pytest.mark.parametrize("values", KEYS)
def test_a_part_of_a_key_that_repeats_is_what_it_was(values: str, rows: int) -> None:
    table = pa.table({"k": pa.array(np.repeat(KEYS[values](rows // 2), 2)), "h": pa.array(days(rows))})
    assert kinds_of(table, "k", "h") == kinds_of(table)


@pytest.mark.parametrize(("repeated", "kind"), [(4, "identifier"), (5, "whole")])
def test_up_to_a_twentieth_of_a_keys_values_may_repeat(repeated: int, kind: str) -> None:
    numbers = np.arange(100) * 7
    numbers[:repeated] = numbers[-repeated:]
    assert kinds_of(pa.table({"k": numbers}), "k") == {"k": kind}


def test_a_kind_that_is_named_counts_for_a_key_too() -> None:
    table = pa.table({"k": [f"c{i}" for i in range(19)]})
    assert kinds_of(table, "k", kinds={"k": "category"}) == {"k": "category"}


def test_a_time_that_is_a_key_remains_the_context() -> None:
    assert kinds_of(pa.table({"h": pa.array(days(40))}), "h") == {"h": "timestamp"}
