"""Independent columns are a density; a committee's bound is the weighted mean of its members' bounds."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from vae_core import explanation, training
from vae_core.encoding import Feature, TableEncoding
from vae_core.members import IndependentColumns
from vae_core.scoring import FittedModel

ROWS = 600


def column(values: np.ndarray, likelihood: str, scale: float = 1.0) -> IndependentColumns:
    """The member fitted to one column of model values."""
    values = np.asarray(values, dtype=float)[:, None]
    return IndependentColumns.fit(values, np.ones(values.shape, bool), [Feature(0, likelihood, scale)])


def log_prob(member: IndependentColumns, x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, dtype=float)[:, None]
    return member.log_prob(x, np.ones(x.shape, bool))[:, 0]


def sampled(name: str, rows: int = ROWS) -> np.ndarray:
    r = np.random.default_rng(0)
    values = {
        "normal": r.normal(size=rows),
        "two humps": np.where(r.random(rows) < 0.3, r.normal(-3, 0.1, rows), r.normal(1, 0.1, rows)),
        "skewed": r.exponential(size=rows),
        "heavy": r.standard_t(2, rows),
        "few values": r.choice([-1.0, 0.0, 2.5], rows),
        "mostly one": np.where(r.random(rows) < 0.002, 8.0, 0.0),
    }[name]
    return (values - values.mean()) / max(values.std(), 1e-9)


@pytest.mark.parametrize("name", ["normal", "two humps", "skewed", "heavy", "few values", "mostly one"])
def test_a_real_columns_density_integrates_to_1(name: str) -> None:
    member = column(sampled(name), "gaussian")
    edges = member.edges[0]
    inner = np.linspace(edges[0], edges[-1], 2048 * 64 + 1)
    inner = 0.5 * (inner[1:] + inner[:-1])
    far = np.geomspace(1e-9, 1e9, 200_001)
    total = np.exp(log_prob(member, inner)).sum() * (inner[1] - inner[0])
    for outer in (edges[0] - far[::-1], edges[-1] + far):
        total += np.trapezoid(np.exp(log_prob(member, outer)), outer)
    assert total == pytest.approx(1, abs=2e-4)


@pytest.mark.parametrize("spread", [0.3, 2.0, 40.0, 3000.0, 1e6])
def test_a_whole_columns_masses_sum_to_1(spread: float) -> None:
    r = np.random.default_rng(0)
    whole = np.rint(r.gamma(2.0, spread, ROWS))
    mean, deviation = whole.mean(), max(whole.std(), 0.3)
    member = column((whole - mean) / deviation, "whole", 1 / deviation)
    reach = np.arange(
        np.floor(mean - 60 * deviation), np.ceil(mean + 60 * deviation) + 1, max(1, spread // 3000)
    )
    total = np.exp(log_prob(member, (reach - mean) / deviation)).sum() * max(1, spread // 3000)
    # 60 spreads out, Student's t with 2 degrees of freedom still holds 1 / 3600 of its .03
    assert total == pytest.approx(1 - 0.03 / 3600, abs=3e-5)


@pytest.mark.parametrize("classes", [1, 2, 5, 64])
def test_a_categorys_masses_sum_to_1(classes: int) -> None:
    member = column(np.random.default_rng(0).integers(0, classes, ROWS), "categorical", float(classes))
    assert np.exp(log_prob(member, np.arange(classes))).sum() == pytest.approx(1)


def test_shares_are_laplaces() -> None:
    member = column(np.repeat([1.0, 2.0], [30, 10]), "categorical", 3.0)
    np.testing.assert_allclose(np.exp(log_prob(member, np.arange(3))), [1 / 43, 31 / 43, 11 / 43])
    truth = column(np.repeat([0.0, 1.0], [30, 10]), "bernoulli")
    np.testing.assert_allclose(np.exp(log_prob(truth, np.array([0, 1]))), [31 / 42, 11 / 42])


def test_a_grey_value_under_the_bernoulli_costs_the_cross_entropy() -> None:
    member = column(np.repeat([0.0, 0.5, 1.0], [10, 10, 20]), "bernoulli")
    share = (5 + 20 + 1) / 42
    expected = 0.3 * math.log(share) + 0.7 * math.log(1 - share)
    assert log_prob(member, np.array([0.3]))[0] == pytest.approx(expected)


def test_the_density_is_near_the_true_one_where_data_are() -> None:
    member = column(np.random.default_rng(0).normal(size=20_000), "gaussian")
    x = np.linspace(-2.5, 2.5, 101)
    np.testing.assert_allclose(log_prob(member, x), stats.norm.logpdf(x), atol=0.12)


def test_fine_and_coarse_steps_of_whole_numbers_meet() -> None:
    values = sampled("normal")
    fine, coarse = (column(values, "whole", step) for step in (0.99e-4, 1.01e-4))
    x = np.linspace(-4, 4, 301)
    np.testing.assert_allclose(
        log_prob(fine, x) - math.log(0.99e-4), log_prob(coarse, x) - math.log(1.01e-4), atol=0.02
    )


@pytest.mark.parametrize(
    ("likelihood", "scale"), [("gaussian", 1.0), ("whole", 1.0), ("whole", 1e-2), ("whole", 1e-17)]
)
def test_far_out_the_terms_stay_finite_and_fall(likelihood: str, scale: float) -> None:
    member = column(sampled("normal"), likelihood, scale)
    far = np.r_[np.geomspace(30, 1e4, 40), np.geomspace(1.1e4, 6e32, 40)]
    for x in (far, -far):
        terms = log_prob(member, x)
        assert np.isfinite(terms).all()
        assert (np.diff(terms) < 0).all()


def test_wild_values_do_not_coarsen_the_grid_for_the_rest() -> None:
    values = np.random.default_rng(0).normal(size=1000)
    tame, wild = column(values, "gaussian"), column(np.r_[values, 1e9, -1e7, 3e8], "gaussian")
    x = np.linspace(-2, 2, 9)
    np.testing.assert_allclose(log_prob(wild, x), log_prob(tame, x), atol=0.1)


def test_nothing_is_heaped_at_the_ends_of_the_grid() -> None:
    """The mass beyond the grid once lay in its outermost bins, which looked as likely as the middle."""
    member = column(sampled("heavy", 5000), "gaussian")
    ends = log_prob(member, member.edges[0][[0, -1]] + [1e-9, -1e-9])
    assert (ends < log_prob(member, np.zeros(1)) - 3).all()


def test_a_column_without_observed_cells_is_defined() -> None:
    values = np.zeros((20, 1))
    member = IndependentColumns.fit(values, np.zeros((20, 1), bool), [Feature(0, "gaussian")])
    assert np.isfinite(log_prob(member, np.array([0.0, 3.0]))).all()


def test_a_missing_cell_leaves_its_term_out() -> None:
    r = np.random.default_rng(0)
    values, mask = r.normal(size=(ROWS, 2)), r.random((ROWS, 2)) < 0.7
    member = IndependentColumns.fit(values, mask, [Feature(0, "gaussian"), Feature(1, "gaussian")])
    terms = member.log_prob(values, mask)
    assert (terms[~mask] == 0).all()
    np.testing.assert_array_equal(member.log_prob(np.where(mask, values, 99.0), mask), terms)
    np.testing.assert_allclose(member.score(values, mask), terms.sum(1))
    alone = column(values[mask[:, 0], 0], "gaussian")
    np.testing.assert_allclose(terms[mask[:, 0], 0], log_prob(alone, values[mask[:, 0], 0]))


def test_the_member_survives_its_arrays() -> None:
    features = [Feature(0, "gaussian"), Feature(1, "categorical", 3.0), Feature(2, "whole", 0.5)]
    values = np.stack([sampled("normal"), np.arange(ROWS) % 3, np.rint(sampled("skewed") / 0.5) * 0.5], 1)
    member = IndependentColumns.fit(values, np.ones(values.shape, bool), features)
    again = IndependentColumns.from_arrays(member.arrays(), features)
    np.testing.assert_array_equal(member.score(values, values < 9), again.score(values, values < 9))


def related(factor: float = 1.0) -> pa.Table:
    """Two related real columns, a count and a name; the first column in a unit of choice."""
    r = np.random.default_rng(5)
    x = r.normal(10, 3, ROWS)
    y = 2 * x + r.normal(0, 0.5, ROWS)
    x[r.random(ROWS) < 0.2] = np.nan
    return pa.table(
        {
            "x": pa.array(x * factor, from_pandas=True),
            "y": y,
            "n": np.random.default_rng(6).poisson(4, ROWS),
            "name": np.random.default_rng(7).choice(["oak", "ash"], ROWS).tolist(),
        }
    )


def train(
    table: pa.Table,
    *,
    columns_weight: float | None = 0.5,
    kernel_weight: float | None = 0.75,
    preset: str = "default",
    steps: int = 40,
) -> FittedModel:
    settings = training.Settings(
        preset=preset,
        steps=steps,
        hidden=(16,),
        members=2,
        batch_size=64,
        columns_weight=columns_weight,
        kernel_weight=kernel_weight,
    )
    return training.fit(lambda: iter(table.to_batches()), settings=settings)


@pytest.fixture(scope="module")
def committee() -> FittedModel:
    return train(related())


def test_the_bound_is_the_weighted_mean_of_the_members_bounds(committee: FittedModel) -> None:
    table = related()
    together = committee.score(table)
    vae = committee.with_members(["vae"]).score(table)
    columns = committee.with_members(["columns"]).score(table)
    kernel = committee.with_members(["kernel"]).score(table)
    expected = (vae.bound + 0.5 * columns.bound + 0.75 * kernel.bound) / 2.25
    np.testing.assert_allclose(together.bound, expected, rtol=1e-12)
    np.testing.assert_array_equal(vae.bound, vae.elbo)
    np.testing.assert_array_equal(together.elbo, vae.elbo)  # elbo, reconstruction and kl stay the VAE's
    np.testing.assert_array_equal(columns.kl, vae.kl)
    encoded = committee.encoding.encode(table)
    alone = committee.companions["columns"].score(encoded.values, encoded.mask) + encoded.fixed.sum(1)
    np.testing.assert_allclose(columns.bound, alone, rtol=1e-12)


@pytest.mark.parametrize(
    "members", [["vae", "columns", "kernel"], ["vae", "columns"], ["vae"], ["columns"], ["kernel"]]
)
def test_contributions_sum_to_the_bound(committee: FittedModel, members: list[str]) -> None:
    parts = committee.with_members(members).evaluate(committee.encoding.encode(related()))
    np.testing.assert_allclose(parts.nats.sum(1) + parts.kl_nats, parts.scores.bound, rtol=0, atol=1e-9)
    assert (parts.kl_nats <= 1e-9).all()
    why = explanation.explain(committee.with_members(members), related())
    named = np.array(
        [sum(reason["nats"] for reason in record) for record in why.column("reasons").to_pylist()]
    )
    np.testing.assert_allclose(
        named + why.column("rest_nats").to_numpy(), parts.scores.bound, rtol=0, atol=1e-6
    )


def test_members_that_the_model_lacks_are_refused(committee: FittedModel) -> None:
    with pytest.raises(ValueError, match="members are vae, columns, kernel"):
        committee.with_members(["neighbours"])


def test_a_columns_unit_changes_no_bit_of_any_bound(committee: FittedModel) -> None:
    """All members are densities in units of the training spread; 1024 keeps the floats' digits."""
    other = train(related(1024.0))
    ours, theirs = committee.score(related()), other.score(related(1024.0))
    for name in ("bound", "elbo", "reconstruction", "kl", "p_value"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def test_a_column_times_1000_changes_no_bound_and_no_rank(committee: FittedModel) -> None:
    ours, theirs = committee.score(related()).bound, train(related(1000.0)).score(related(1000.0)).bound
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)
    assert stats.spearmanr(ours, theirs).statistic > 0.9999


def test_the_members_agree_where_columns_are_independent() -> None:
    """On independent normal columns both bounds come close to the true log-density in standardised units."""
    x = np.random.default_rng(0).normal(size=(3000, 3))
    table = pa.table({f"x{j}": x[:, j] for j in range(3)})
    model = train(table, steps=150)
    standardised = (x - x.mean(0)) / x.std(0)
    truth = stats.norm.logpdf(standardised).sum(1)
    for member in ("vae", "columns", "kernel"):
        assert model.with_members([member]).score(table).bound.mean() == pytest.approx(truth.mean(), abs=0.2)


def test_by_default_every_members_bounds_weigh_by_how_little_they_spread() -> None:
    """Weights are 1 / interquartile range over records that the model knows, times the member's count."""
    model = train(related(), columns_weight=None, kernel_weight=None)
    ranges = {}
    for name in model.weights:
        low, high = np.quantile(model.with_members([name]).score(related()).bound, [0.25, 0.75])
        ranges[name] = high - low
    counts = {"vae": 6, "columns": 8, "kernel": 4, "crowd": 8}
    assert set(ranges) == set(counts)
    balanced = np.array([model.weights[name] * ranges[name] / counts[name] for name in ranges])
    np.testing.assert_allclose(balanced, balanced.mean(), rtol=0.3)  # held-out records spread a little wider


@pytest.mark.parametrize("settings", [{"preset": "lecture"}, {"likelihood": "bernoulli"}])
def test_kernels_are_refused_for_values_in_the_unit_interval(settings: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="kernel_weight"):
        training.Settings(kernel_weight=1.0, **settings)


def test_the_lectures_preset_may_have_the_member_too() -> None:
    model = train(related().select(["y", "name"]), preset="lecture", kernel_weight=None)
    scores = model.score(related().select(["y", "name"]))
    assert np.isfinite(scores.bound).all()
    assert (model.with_members(["columns"]).score(related().select(["y", "name"])).bound <= 0).all()


def test_the_encodings_features_are_what_the_member_takes() -> None:
    table = related()
    encoding = TableEncoding.fit(table.to_batches())
    encoded = encoding.encode(table)
    member = IndependentColumns.fit(encoded.values, encoded.mask, encoding.features)
    moved = table.set_column(1, "y", pa.array(np.r_[np.asarray(table.column("y"))[:-1], 500.0]))
    encoded = encoding.encode(moved)
    assert member.score(encoded.values, encoded.mask).argmin() == ROWS - 1
