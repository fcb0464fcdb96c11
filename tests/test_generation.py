"""New records look like those of training: columns, types, categories, distributions, gaps."""

from __future__ import annotations

import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from scipy import stats

from vae_core import training
from vae_core.generation import rarer, sample
from vae_core.scoring import FittedModel

ROWS = 3000
START = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)


def trees(rows: int = ROWS) -> pa.Table:
    """An easy set: two species, one a little taller, girth by height, and gaps in one column."""
    r = np.random.default_rng(0)
    oak = r.random(rows) < 0.7
    height = r.normal(20, 2, rows) + 3 * oak
    girth = 5 * height + r.normal(0, 4, rows)
    girth[r.random(rows) < 0.3] = np.nan
    return pa.table(
        {
            "key": [f"tree-{i}" for i in range(rows)],
            "planted": pa.array(
                [START + i * datetime.timedelta(hours=1) for i in range(rows)], pa.timestamp("us", "UTC")
            ),
            "height": height,
            "girth": pa.array(girth, from_pandas=True),
            "rings": np.rint(height * 10 + r.normal(0, 5, rows)).astype(np.int64),
            "evergreen": pa.array(r.random(rows) < 0.25),
            "species": np.where(oak, "oak", "hawthorn").tolist(),
            "plot": pa.array(r.integers(1, 4, rows)),
            "park": ["centre"] * rows,
        }
    )


def train(preset: str = "default", steps: int = 400, table: pa.Table | None = None) -> FittedModel:
    table = trees() if table is None else table
    settings = training.Settings(
        preset=preset, steps=steps, hidden=(32,), members=2 if preset == "default" else 1
    )
    kinds = {"plot": "category"} if "plot" in table.column_names else None
    return training.fit(lambda: iter(table.to_batches()), kinds=kinds, settings=settings)


@pytest.fixture(scope="module")
def model() -> FittedModel:
    return train()


@pytest.fixture(scope="module", params=["default", "lecture"])
def either(request: pytest.FixtureRequest, model: FittedModel) -> FittedModel:
    return model if request.param == "default" else train("lecture")


def test_columns_types_and_categories_are_those_of_training(either: FittedModel) -> None:
    for mean in (False, True):
        made, real = sample(either, 500, mean=mean), trees()
        assert made.num_rows == 500
        assert made.column_names == [name for name in real.column_names if name != "key"]  # an identifier
        for name in made.column_names:
            assert made.schema.field(name).type == real.schema.field(name).type
            assert made.column(name).null_count == 0
        for name in ("species", "plot", "park"):
            assert set(made.column(name).to_pylist()) <= set(real.column(name).to_pylist())
        assert pc.min_max(made.column("planted")).as_py()["min"] >= START


def test_each_columns_distribution_is_close_to_trainings(model: FittedModel) -> None:
    made, real = sample(model, ROWS), trees()
    for name in ("height", "girth", "rings"):
        ours, theirs = (np.asarray(t.column(name).drop_null(), dtype=float) for t in (made, real))
        assert stats.ks_2samp(ours, theirs).statistic < 0.12
        assert abs(ours.mean() - theirs.mean()) < 0.1 * theirs.std()
    for name, value in (("species", "oak"), ("plot", 2), ("evergreen", True)):
        shares = [np.mean([x == value for x in t.column(name).to_pylist()]) for t in (made, real)]
        assert shares[0] == pytest.approx(shares[1], abs=0.06)


def test_columns_hang_together_as_in_training(model: FittedModel) -> None:
    made, real = sample(model, ROWS), trees().drop_null()
    known, real_girth = (np.asarray(real.column(name), dtype=float) for name in ("height", "girth"))
    height, girth = (np.asarray(made.column(name), dtype=float) for name in ("height", "girth"))
    assert np.corrcoef(height, girth)[0, 1] == pytest.approx(np.corrcoef(known, real_girth)[0, 1], abs=0.06)
    oak = np.array(made.column("species").to_pylist()) == "oak"
    assert height[oak].mean() - height[~oak].mean() == pytest.approx(3, abs=1)


def test_missing_cells_imitate_the_rates_of_training(model: FittedModel) -> None:
    made = sample(model, ROWS, missing=True)
    assert made.column("girth").null_count == pytest.approx(trees().column("girth").null_count, rel=0.1)
    assert all(made.column(name).null_count == 0 for name in made.column_names if name != "girth")


def test_means_vary_less_than_draws(model: FittedModel) -> None:
    mean, drawn = (np.asarray(sample(model, 2000, mean=m).column("girth"), float) for m in (True, False))
    assert mean.std() < drawn.std()
    assert np.abs(mean).max() < 200


def test_the_same_seed_gives_the_same_bits_and_another_one_others(model: FittedModel) -> None:
    for options in ({}, {"mean": True}, {"missing": True}):
        first = sample(model, 300, random_state=4, **options)
        assert first.equals(sample(model, 300, random_state=4, **options))
        assert not first.equals(sample(model, 300, random_state=5, **options))


def test_new_records_are_no_anomalies_to_their_model(model: FittedModel) -> None:
    """As likely as held-out records, give or take what the prior does not know of the codes."""
    made = sample(model, 1000, missing=True)
    made = made.append_column("key", pa.array([f"new-{i}" for i in range(1000)]))
    p = model.score(made).p_value
    assert np.median(p) > 0.25
    assert (p < 0.001).mean() < 0.1


def test_categories_that_the_model_does_not_know_are_not_generated_and_their_share_is_told() -> None:
    """63 are kept, and of these none that training saw once."""
    known = [f"city {i}" for i in range(63)] * 20
    rare = [f"village {i}" for i in range(37)] * 10
    oaks = ["oak", "ash"] * 815
    table = pa.table({"place": known + rare, "tree": [None, "yew", *oaks[2:]], "plain": oaks})
    table = table.append_column("x", pa.array(np.random.default_rng(0).normal(size=table.num_rows)))
    model = train(steps=5, table=table)
    assert set(sample(model, 500).column("place").to_pylist()) <= set(known)
    assert rarer(model.encoding) == {
        "place": pytest.approx(len(rare) / table.num_rows),
        "tree": pytest.approx(1 / (table.num_rows - 1)),
    }


def test_none_and_less_than_none(model: FittedModel) -> None:
    assert sample(model, 0).num_rows == 0
    with pytest.raises(ValueError, match="n must be 0 or more; got -1"):
        sample(model, -1)


def test_more_records_than_fit_one_chunk(model: FittedModel) -> None:
    made = sample(model, 9000)
    assert made.num_rows == 9000
    assert len(set(made.column("height").to_pylist())) > 8900


def test_daily_data_give_whole_days() -> None:
    days = pa.array([START + i * datetime.timedelta(days=1) for i in range(120)], pa.timestamp("us", "UTC"))
    model = train(steps=5, table=pa.table({"day": days, "x": np.random.default_rng(0).normal(size=120)}))
    assert {moment.time() for moment in sample(model, 50).column("day").to_pylist()} == {datetime.time(0)}


def test_a_category_that_is_mostly_rare_values_still_gets_a_name() -> None:
    """Values seen once are 'other', which is the most probable class here and has no name to write."""
    names = [f"n{i}" for i in range(45)] + ["oak"] * 30 + ["ash"] * 25
    table = pa.table({"name": names, "x": np.random.default_rng(0).normal(size=100)})
    model = train(steps=5, table=table)
    assert model.encoding.kinds["name"] == "category"
    for mean in (True, False):
        assert set(sample(model, 50, mean=mean).column("name").to_pylist()) <= {"oak", "ash"}
