"""Columns set apart: what tells nothing of a record's other columns does not count in its rank."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import mutual_info_score

from tests.toy_tables import trained
from vae_core.encoding import TableEncoding
from vae_core.gate import _shares
from vae_core.generation import sample


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


def test_an_unrelated_rare_value_moves_no_rank_and_a_new_one_costs_its_share() -> None:
    model = trained(table(), steps=100)
    row = {
        "x": [0.1],
        "y": [0.1],
        "group": ["usual"],
        "noise": [False],
        "colour": ["red"],
        "y_measured": [True],
    }
    usual = model.score(pa.table(row)).bound[0]
    rare = model.score(pa.table(row | {"noise": [True], "colour": ["blue"], "y_measured": [False]}))
    assert rare.bound[0] == usual
    new = model.score(pa.table(row | {"colour": ["violet"]}))
    share = 0.5 / 2001  # Jeffreys' prior: none of 2,000
    assert usual - new.bound[0] == pytest.approx(math.log1p(-share) - math.log(share))
    assert new.n_unseen[0] == 1
    # Whether the cell is known, unknown or missing: three masses that sum to 1.
    lost = model.score(pa.table(row | {"colour": pa.array([None], pa.string())}))
    gone = 0.5 / 2001
    assert usual - lost.bound[0] == pytest.approx(math.log1p(-gone) + math.log1p(-share) - math.log(gone))


def test_generated_records_have_the_columns_that_were_set_apart_at_their_training_shares() -> None:
    model = trained(table(), steps=100)
    made = sample(model, 5000)
    assert set(made.column_names) == set(table().column_names)
    assert np.mean(made["noise"].to_numpy()) == pytest.approx(0.05, abs=0.02)
    assert np.mean(made["colour"].to_numpy() == "red") == pytest.approx(0.6, abs=0.03)
