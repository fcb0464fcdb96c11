"""Reasons: exact to the nat, the planted cause first, in the user's own units and words."""

from __future__ import annotations

import datetime
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from vae_core import training
from vae_core.explanation import COMBINATION, REASON, explain
from vae_core.imputation import NORMAL_90, expected_given_others
from vae_core.scoring import FittedModel

ROWS = 1500
START = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)


def weather(rows: int = ROWS) -> pa.Table:
    r = np.random.default_rng(0)
    temperature = r.normal(60, 8, rows)
    humid = temperature - r.gamma(2.0, 2.0, rows)
    return pa.table(
        {
            "station": [f"st-{i}" for i in range(rows)],
            "time": pa.array(
                [START + i * datetime.timedelta(hours=1) for i in range(rows)], pa.timestamp("us", "UTC")
            ),
            "temp": temperature,
            "dewp": humid,
            "wind": pa.array(
                np.where(r.random(rows) < 0.1, np.nan, r.gamma(3.0, 3.0, rows)), from_pandas=True
            ),
            "flights": r.poisson(30, rows),
            "open": pa.array(r.random(rows) < 0.95),
            "sky": np.where(humid > temperature - 3, "fog", "clear").tolist(),
            "airport": ["EWR"] * rows,
            "runways": [3] * rows,
            "note": pa.nulls(rows, pa.string()),
        }
    )


def train(**options: Any) -> FittedModel:
    settings = training.Settings(**({"steps": 300, "hidden": (32,), "members": 2} | options))
    return training.fit(lambda: iter(weather().to_batches()), settings=settings)


@pytest.fixture(scope="module")
def model() -> FittedModel:
    return train()


@pytest.fixture(scope="module")
def scaled() -> FittedModel:
    return train(likelihood="continuous_bernoulli", steps=60)


@pytest.fixture(scope="module")
def lecture() -> FittedModel:
    return train(preset="lecture", members=1)


def planted(**cells: Any) -> pa.Table:
    """One ordinary hour with some cells replaced."""
    table = weather().slice(10, 1)
    for name, value in cells.items():
        place = table.column_names.index(name)
        table = table.set_column(place, name, pa.array([value], table.schema.field(name).type))
    return table


def first(model: FittedModel, **cells: Any) -> dict[str, Any]:
    return explain(model, planted(**cells)).column("reasons").to_pylist()[0][0]


def why(model: FittedModel, **cells: Any) -> str:
    return explain(model, planted(**cells)).column("why")[0].as_py()


@pytest.mark.parametrize("top", [0, 1, 3, 5, 50])
@pytest.mark.parametrize("members", [["vae", "columns"], ["vae"]])
def test_reasons_and_the_rest_sum_to_the_bound(model: FittedModel, top: int, members: list[str]) -> None:
    table, judge = weather(200), model.with_members(members)
    explained = explain(judge, table, top=top)
    assert explained.schema.field("reasons").type == pa.list_(REASON)
    bound = judge.score(table).bound
    for reasons, rest, total in zip(
        explained.column("reasons").to_pylist(), explained.column("rest_nats").to_pylist(), bound, strict=True
    ):
        assert len(reasons) <= top
        assert sum(reason["nats"] for reason in reasons) + rest == pytest.approx(total, abs=1e-6)


def test_the_charge_for_the_whole_record_is_told_apart(model: FittedModel) -> None:
    table = pa.concat_tables([planted(), planted(wind=1048.0)])
    explained, parts = explain(model, table), model.evaluate(model.encoding.encode(table))
    charged = explained.column("tilt_nats").to_numpy()
    np.testing.assert_allclose(charged, parts.tilt_nats)
    np.testing.assert_allclose(charged, parts.scores.bound - model.untilted().score(table).bound, rtol=1e-9)
    assert charged[1] < -100 < charged[0] <= 0
    assert explain(model.with_members(["vae"]), table).column("tilt_nats").to_pylist() == [0, 0]


def test_all_reasons_leave_only_what_is_no_surprise(model: FittedModel) -> None:
    """With room for every one, the rest is made of contributions at or above their median."""
    table = weather(100)
    parts = model.evaluate(model.encoding.encode(table))
    usual = [model.calibration.typical[name] for name in (*model.encoding.columns, "kl")]
    contributions = np.c_[parts.nats, parts.kl_nats]
    unsurprising = np.where(contributions >= usual, contributions, 0).sum(1) + parts.tilt_nats
    explained = explain(model, table, top=50)
    named = [
        len(reasons) > 1 or reasons[0]["nats"] < reasons[0]["typical"]
        for reasons in explained.column("reasons").to_pylist()
    ]
    np.testing.assert_allclose(
        explained.column("rest_nats").to_numpy()[named], unsurprising[named], atol=1e-6
    )


def test_the_first_three_are_the_largest_surprises_and_the_others_come_in_order(model: FittedModel) -> None:
    """Among the first three the repair decides; a missing cell (wind) may come before them."""
    for reasons in explain(model, weather(200), top=50).column("reasons").to_pylist():
        deficits = [r["typical"] - r["nats"] for r in reasons if r["value"] != "missing"]
        first, others = deficits[:3], deficits[3:]
        assert others == sorted(others, reverse=True)
        assert not others or min(first) >= others[0]
        assert all(deficit > 0 for deficit in deficits[1:])


def test_the_first_reason_is_the_cell_whose_repair_brings_the_record_back(model: FittedModel) -> None:
    """Repairing it gains at least as much of the VAE's bound as repairing another of the first reasons."""
    table = weather(300).slice(0, 200)
    table = table.set_column(2, "temp", pc.add(table["temp"], 25.0))  # the dew point is left where it was
    judge = model.with_members(["vae"]).with_draws(4)
    encoded = judge.encoding.encode(table)
    names = list(judge.encoding.columns)
    usual = np.array([judge.calibration.typical[name] for name in names])
    before, gain = judge.evaluate(encoded), {}
    for name in ("temp", "dewp"):
        place = names.index(name)
        feature = next(j for j, f in enumerate(judge.encoding.features) if f.column == place)
        mean, _ = expected_given_others(judge, encoded, np.full(200, place))
        values = encoded.values.copy()
        values[:, feature] = mean[:, feature]
        after = judge.evaluate(replace(encoded, values=values))
        own = usual[place] - after.nats[:, place]
        gain[name] = after.scores.bound - before.scores.bound + own
    reasons = explain(model, table).column("reasons").to_pylist()
    compared = 0
    for row, told in enumerate(reasons):
        named = [reason["feature"] for reason in told if reason["feature"] in gain]
        if {told[0]["feature"], told[1]["feature"]} == set(gain):
            compared += 1
            assert gain[named[0]][row] >= gain[named[1]][row] - 1e-6
    assert compared > 50


def test_a_missing_cell_is_blamed_for_what_it_makes_of_its_relatives() -> None:
    """Three columns of which two give the third, two of them missing together in training, never alone."""
    r = np.random.default_rng(0)
    a, b = r.normal(10, 2, 3000), r.normal(10, 2, 3000)
    gone = r.random(3000) < 0.1
    table = pa.table(
        {
            "a": pa.array(a, mask=gone),
            "b": b,
            "sum": pa.array(a + b + 0.05 * r.normal(size=3000), mask=gone),
            "free": r.normal(size=3000),
        }
    )
    record = pa.table({"a": pa.array([None], pa.float64()), "b": [10.0], "sum": [22.0], "free": [0.0]})
    blamed = 0  # two repairs mend it, a cell in place of the missing one or another sum: no seed decides
    for seed in range(3):
        settings = training.Settings(steps=600, hidden=(32,), random_state=seed)
        told = explain(training.fit(lambda: iter(table.to_batches()), settings=settings), record)
        first = told["reasons"].to_pylist()[0][0]
        if (first["feature"], first["value"]) == ("a", "missing"):
            blamed += 1
            assert float(first["expected"]) == pytest.approx(12, abs=1)
            assert told["why"][0].as_py().startswith("a missing, expected 1")
    assert blamed >= 2


def test_a_missing_cell_that_is_no_surprise_takes_no_place(model: FittedModel) -> None:
    """Wind is missing in a tenth of training: that it is missing here too explains nothing of the rest."""
    strange = pa.concat_tables(
        [planted(wind=None, temp=t, flights=f) for t in (30.0, 95.0) for f in (60, 90)]
    )
    for reasons in explain(model, strange, top=50).column("reasons").to_pylist():
        assert len(reasons) > 2
        assert "wind" not in [reason["feature"] for reason in reasons]
        assert all(reason["typical"] > reason["nats"] for reason in reasons)


@pytest.mark.parametrize(
    ("name", "value"), [("temp", 160.0), ("dewp", -40.0), ("wind", 1048.0), ("flights", 400), ("sky", "ash")]
)
def test_a_planted_wild_cell_is_the_first_reason(model: FittedModel, name: str, value: Any) -> None:
    reason = first(model, **{name: value})
    assert reason["feature"] == name
    assert reason["value"] == (f"{value:g}" if name != "sky" else value)
    assert reason["nats"] < reason["typical"] - 2


@pytest.mark.parametrize("name", ["temp", "wind"])
def test_the_lectures_model_names_the_planted_cell_too(
    lecture: FittedModel, scaled: FittedModel, name: str
) -> None:
    for judge in (lecture, scaled):
        reason = first(judge, **{name: 1048.0})
        assert (reason["feature"], reason["value_number"]) == (name, 1048.0)
        assert 0 < float(reason["expected"]) < 100


def test_values_and_expected_values_are_in_the_users_units(model: FittedModel) -> None:
    """The other cells of the hour say what was to be expected: the dew point lies a few degrees below."""
    hour = planted().to_pylist()[0]
    reason = first(model, dewp=hour["dewp"] - 60.0)
    assert reason["value_number"] == hour["dewp"] - 60.0
    assert float(reason["value"]) == pytest.approx(hour["dewp"] - 60.0, rel=1e-5)
    assert float(reason["expected"]) == pytest.approx(hour["temp"] - 4, abs=5)
    assert float(reason["low"]) < float(reason["expected"]) < float(reason["high"])
    assert float(reason["high"]) - float(reason["low"]) < 25


@pytest.mark.parametrize("name", ["model", "scaled", "lecture"])
def test_what_is_expected_lies_where_training_was(name: str, request: pytest.FixtureRequest) -> None:
    """Also of records far out, whose other cells would imply a value that never was."""
    judge = request.getfixturevalue(name)
    trained = {c.name: (c.minimum, c.maximum) for c in judge.encoding.described}
    far = pa.concat_tables([planted(temp=110.0, dewp=20.0), planted(temp=200.0), planted(dewp=-80.0)])
    for reason in pc.list_flatten(explain(judge, far, top=50).column("reasons")).to_pylist():
        if reason["low"] is not None:
            shown = [float(reason[key]) for key in ("low", "expected", "high")]
            lowest, highest = (float(f"{limit:.6g}") for limit in trained[reason["feature"]])
            assert shown == sorted(shown)
            assert lowest <= shown[0] and shown[-1] <= highest
            one_whole_number = reason["feature"] == "flights" and shown[0] == shown[-1]
            assert shown[0] < shown[-1] or one_whole_number


@pytest.mark.parametrize("name", ["temp", "dewp", "wind", "flights"])
def test_the_expected_range_holds_80_percent_of_fresh_values(model: FittedModel, name: str) -> None:
    fresh = model.encoding.encode(weather(4000))
    column = list(model.encoding.columns).index(name)
    feature = next(j for j, f in enumerate(model.encoding.features) if f.column == column)
    mean, variance = expected_given_others(model, fresh, np.full(4000, column))
    half = NORMAL_90 * model.calibration.ranges[name] * np.sqrt(variance[:, feature])
    inside = np.abs(fresh.values[:, feature] - mean[:, feature]) <= half
    # 150 held-out values settle the width: the share that it holds has a standard deviation of 3 points.
    assert 0.7 < inside[fresh.mask[:, feature]].mean() < 0.9


def test_the_sentence_reads_well(model: FittedModel) -> None:
    text = why(model, wind=1048.0)
    head, cost = text.split(";")[0].rsplit(": ", 1)
    assert head.startswith("wind 1048, expected ")
    assert head.endswith(")") and " to " in head
    assert cost.startswith("-") and cost.endswith(" nats")
    assert float(cost.removesuffix(" nats").replace(",", "")) < -100
    assert "\n" not in text and "None" not in text and "nan" not in text


def test_a_whole_number_is_written_whole(model: FittedModel) -> None:
    reason = first(model, flights=12_345_678)
    assert reason["value"] == "12345678"
    assert reason["expected"].isdigit() and 20 <= int(reason["expected"]) <= 40
    assert all(reason[name].lstrip("-").isdigit() for name in ("low", "high"))


def test_a_boolean_speaks_of_true_and_false(model: FittedModel) -> None:
    reasons = explain(model, planted(open=False), top=20).column("reasons").to_pylist()[0]
    reason = next(reason for reason in reasons if reason["feature"] == "open")
    assert (reason["value"], reason["expected"], reason["low"], reason["high"]) == (
        "false",
        "true",
        None,
        None,
    )


@pytest.mark.parametrize("name", ["model", "scaled", "lecture"])
def test_a_category_speaks_in_the_users_words(name: str, request: pytest.FixtureRequest) -> None:
    """A dew point ten degrees below goes with a clear sky, and fog has the lower or the higher number."""
    judge = request.getfixturevalue(name)
    hour = planted().to_pylist()[0]
    cells = {"dewp": hour["temp"] - 10.0, "sky": "ash"}
    reasons = explain(judge, planted(**cells), top=20).column("reasons").to_pylist()[0]
    reason = next(reason for reason in reasons if reason["feature"] == "sky")
    assert reason["value"] == "ash"
    assert reason["expected"] in ("clear", "fog")
    if name == "model":
        assert reason["expected"] == "clear"


@pytest.mark.parametrize(
    ("name", "value", "expected"), [("airport", "JFK", "EWR"), ("runways", 4, "3"), ("note", "hi", "missing")]
)
def test_a_constant_column_that_changed_is_a_reason(
    model: FittedModel, name: str, value: Any, expected: str
) -> None:
    reasons = explain(model, planted(**{name: value})).column("reasons").to_pylist()[0]
    reason = next(reason for reason in reasons if reason["feature"] == name)
    assert (reason["value"], reason["expected"]) == (str(value), expected)
    assert reason["nats"] == pytest.approx(-2 * np.log(ROWS + 2), abs=0.01)
    assert f"{name} {value}, expected {expected}: -14.6 nats" in why(model, **{name: value})


def test_an_unexpected_missing_cell_is_a_reason(model: FittedModel) -> None:
    reason = first(model, temp=None)
    assert (reason["feature"], reason["value"], reason["value_number"]) == ("temp", "missing", None)
    assert float(reason["expected"]) == pytest.approx(planted().to_pylist()[0]["temp"], abs=15)
    assert why(model, temp=None).startswith("temp missing, expected ")


def test_a_cell_that_is_usually_missing_is_no_reason() -> None:
    r = np.random.default_rng(1)
    wind = r.gamma(3.0, 3.0, ROWS)
    gust = np.where(r.random(ROWS) < 0.8, np.nan, wind + r.normal(10, 1, ROWS))
    table = pa.table({"wind": wind, "gust": pa.array(gust, from_pandas=True), "temp": r.normal(60, 8, ROWS)})
    model = training.fit(lambda: iter(table.to_batches()), settings=training.Settings(steps=100, members=1))
    strange = pa.table({"wind": [900.0], "gust": pa.array([None], pa.float64()), "temp": [60.0]})
    reasons = explain(model, strange).column("reasons").to_pylist()[0]
    assert reasons[0]["feature"] == "wind"
    assert "gust" not in [reason["feature"] for reason in reasons]


def test_an_unusual_combination_has_its_own_entry(model: FittedModel) -> None:
    """The KL is one of the reasons of some record, and it names no column."""
    table = planted(temp=95.0, dewp=20.0, wind=60.0, flights=60)
    reasons = explain(model, table, top=50).column("reasons").to_pylist()[0]
    combination = next(reason for reason in reasons if reason["feature"] == COMBINATION)
    assert combination["value"] is None and combination["expected"] is None
    parts = model.evaluate(model.encoding.encode(table))
    assert combination["nats"] == pytest.approx(parts.kl_nats[0], abs=1e-6)
    assert combination["typical"] == model.calibration.typical["kl"]


def test_columns_outside_the_score_are_never_reasons(model: FittedModel) -> None:
    named = pc.list_flatten(explain(model, weather()).column("reasons"))
    features = set(pc.struct_field(named, "feature").to_pylist())
    assert not features & {"station", "time"}
    assert features <= {
        "temp",
        "dewp",
        "wind",
        "flights",
        "open",
        "sky",
        "airport",
        "runways",
        "note",
        COMBINATION,
    }


def test_a_record_in_which_nothing_is_below_its_median_says_so(model: FittedModel) -> None:
    calm = dict.fromkeys((*model.encoding.columns, "kl"), -1e3)
    explained = explain(replace_typical(model, calm), planted())
    assert explained.column("why")[0].as_py() == "nothing stands out"


def replace_typical(model: FittedModel, typical: dict[str, float]) -> FittedModel:
    return replace(model, calibration=replace(model.calibration, typical=typical))


def test_a_records_reasons_depend_on_it_alone(model: FittedModel) -> None:
    table = weather(300)
    whole = explain(model, table)
    for part in (slice(0, 1), slice(40, 57)):
        assert explain(model, table.slice(part.start, part.stop - part.start)).equals(
            whole.slice(part.start, part.stop - part.start)
        )


def test_no_records_have_no_reasons(model: FittedModel) -> None:
    assert explain(model, weather().slice(0, 0)).num_rows == 0
