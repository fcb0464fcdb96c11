"""Columns set apart: what tells nothing of a record's other columns only breaks ties of its rank."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import mutual_info_score

from tests.toy_tables import trained
from vae_core.cells import apart_nats
from vae_core.encoding import TableEncoding
from vae_core.explanation import explain
from vae_core.gate import _shares
from vae_core.generation import sample
from vae_core.scoring import FittedModel


def table(n: int = 2000, *, seed: int = 0) -> pa.Table:
    """Two related numbers, a group that follows them, unrelated flags, one that tells of gaps."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=n)
    y = x + 0.3 * generator.normal(size=n)
    measured = generator.random(n) < 0.7
    return pa.table(
        {
            "x": x,
            "y": pa.array(y, mask=~measured),
            "group": np.where(x > 1, "high", np.where(x > -1, "usual", "low")),
            "noise": generator.random(n) < 0.05,
            "colour": generator.choice(["red", "green", "blue"], n, p=[0.6, 0.39, 0.01]),
            "y_measured": measured,
        }
    )


@pytest.fixture(scope="module")
def model() -> FittedModel:
    return trained(table(), steps=100)


def test_what_is_unrelated_or_restates_missing_cells_is_set_apart_and_said() -> None:
    encoding = TableEncoding.fit(table().to_batches())
    assert set(encoding.left_out) == {"noise", "colour", "y_measured"}
    assert encoding.left_out["y_measured"] == "set apart: it restates which cells of y are missing"
    assert encoding.left_out["noise"] == "set apart: it tells nothing of the other columns"
    assert [encoding.described[f.column].name for f in encoding.features] == ["x", "y", "group"]


def test_a_declared_kind_always_counts() -> None:
    encoding = TableEncoding.fit(table().to_batches(), kinds={"colour": "category"})
    assert set(encoding.left_out) == {"noise", "y_measured"}


def test_the_lectures_model_takes_every_column() -> None:
    assert not TableEncoding.fit(table().to_batches(), preset="lecture").left_out


def test_a_table_without_any_relation_keeps_all_its_columns() -> None:
    unrelated = table().select(["noise", "colour"])
    assert not TableEncoding.fit(unrelated.to_batches()).left_out


def test_a_column_that_follows_the_clock_counts() -> None:
    generator = np.random.default_rng(0)
    hours = np.arange(24 * 60)
    open_ = (hours % 24 >= 8) & (hours % 24 < 18)
    times = pa.array(hours * 3_600_000_000, pa.timestamp("us", "UTC"))
    a, b = generator.normal(size=(2, len(hours)))
    encoding = TableEncoding.fit(pa.table({"time": times, "a": a, "b": b, "open": open_}).to_batches())
    assert not encoding.left_out


def test_shares_of_information_are_those_of_scikit_learn_without_the_bias() -> None:
    generator = np.random.default_rng(0)
    own = generator.integers(0, 3, 5000)
    partners = [
        np.where(generator.random(5000) < mix, own, generator.integers(0, 3, 5000)) for mix in (0, 0.5, 1)
    ]
    entropy = mutual_info_score(own, own)
    for share, partner in zip(_shares(own, partners), partners, strict=True):
        bias = 4 / (2 * 5000)  # (classes - 1)^2 over 2 n
        assert share == pytest.approx(max(0, (mutual_info_score(own, partner) - bias) / entropy), abs=1e-6)


ROW = {
    "x": [0.1],
    "y": [0.1],
    "group": ["usual"],
    "noise": [False],
    "colour": ["red"],
    "y_measured": [True],
}


def test_an_unrelated_rare_value_only_breaks_a_tie_and_a_new_one_costs_its_share(model: FittedModel) -> None:
    plain = model.untilted()  # a bound's terms are what they say; what the tilt makes of their sum, another
    usual = plain.score(pa.table(ROW)).bound[0]
    rare = plain.score(pa.table(ROW | {"noise": [True], "colour": ["blue"], "y_measured": [False]})).bound[0]
    # Surprises of about 3, 4 and 1 nats more, to a power of .01 / sqrt(3).
    assert usual - rare == pytest.approx(0.01 / math.sqrt(3) * math.log(0.95 / 0.05 * 60 * 7 / 3), rel=0.1)
    new = plain.score(pa.table(ROW | {"colour": ["violet"]}))
    share = 0.5 / 2001  # Jeffreys' prior: none of 2,000
    assert usual - new.bound[0] == pytest.approx(math.log1p(-share) - math.log(share), abs=0.01)
    assert new.n_unseen[0] == 1
    # Whether the cell is known, unknown or missing: three masses that sum to 1.
    lost = plain.score(pa.table(ROW | {"colour": pa.array([None], pa.string())}))
    gone = 1 / 2002**2  # it never was missing
    assert usual - lost.bound[0] == pytest.approx(
        math.log1p(-gone) + math.log1p(-share) - math.log(gone), abs=0.01
    )


def test_the_masses_of_a_column_set_apart_sum_to_one_over_all_that_a_cell_can_be() -> None:
    """Known values count in multiples of 1 / V; unknown and missing are one event each."""
    encoding = TableEncoding.fit(table().to_batches())
    columns = {c.name: c for c in encoding.described if c.apart}
    cells = {
        "noise": pa.array([0.0, 1.0, 7.0, None]),
        "colour": pa.array(["red", "green", "blue", "violet", None]),
    }
    for name, array in cells.items():
        nats, missing, strange = apart_nats(columns[name], pa.chunked_array([array]))
        known = ~missing & ~strange
        width = np.where(known, 1 / known.sum(), 1)
        assert (np.exp(nats) * width).sum() == pytest.approx(1, abs=1e-12)
        assert known.sum() == len(array) - 2


def test_together_columns_set_apart_say_a_hundredth_of_what_one_says() -> None:
    generator = np.random.default_rng(1)
    flags = {f"flag{i}": generator.random(4000) < 0.05 for i in range(30)}
    x = generator.normal(size=4000)
    unrelated = pa.table({"x": x, "y": x + generator.normal(size=4000), **flags})
    encoding = TableEncoding.fit(unrelated.to_batches())
    assert set(encoding.left_out) == set(flags)
    surprise = math.sqrt(0.05 * 0.95) * math.log(0.95 / 0.05)
    assert encoding.encode(unrelated).fixed.sum(1).std() == pytest.approx(0.01 * surprise, rel=0.1)


def test_records_that_differ_in_columns_set_apart_alone_do_not_tie(model: FittedModel) -> None:
    choices = [(n, c, m) for n in (False, True) for c in ("red", "green", "blue") for m in (False, True)]
    noise, colour, measured = (list(column) for column in zip(*choices, strict=True))
    same = {name: ROW[name] * len(choices) for name in ("x", "y", "group")}
    scores = model.score(pa.table(same | {"noise": noise, "colour": colour, "y_measured": measured}))
    assert len(np.unique(scores.anomaly_score)) == len(choices)


def test_a_model_from_before_columns_set_apart_broke_ties_scores_as_it_did() -> None:
    document = TableEncoding.fit(table().to_batches()).to_json()
    for column in document["columns"]:
        del column["temper"]
    old = TableEncoding.from_json(document)
    fixed = old.encode(table()).fixed
    for index in (i for i, c in enumerate(old.described) if c.apart):
        assert len(np.unique(fixed[:, index])) == 1  # every value is known, none is missing


def test_a_reason_tells_what_is_usual_of_a_column_set_apart(model: FittedModel) -> None:
    changed = pa.table(ROW | {"colour": ["violet"]})
    explained = explain(model, changed)
    first = explained["reasons"].to_pylist()[0][0]
    assert (first["feature"], first["value"], first["expected"]) == ("colour", "violet", "red")
    assert explained["why"][0].as_py().startswith("colour violet, expected red: -8.")
    parts = model.evaluate(model.encoding.encode(changed))
    total = parts.nats.sum() + parts.kl_nats[0] + parts.tilt_nats[0]
    assert total == pytest.approx(parts.scores.bound[0], abs=1e-9)


def test_generated_records_have_the_columns_that_were_set_apart_at_their_training_shares(
    model: FittedModel,
) -> None:
    made = sample(model, 5000)
    assert set(made.column_names) == set(table().column_names)
    assert np.mean(made["noise"].to_numpy()) == pytest.approx(0.05, abs=0.02)
    assert np.mean(made["colour"].to_numpy() == "red") == pytest.approx(0.6, abs=0.03)
