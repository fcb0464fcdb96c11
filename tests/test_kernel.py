"""The kernel density is a density on the VAE's base measure, exact in its parts, repeatable to the bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import norm

from vae_core.encoding import Feature
from vae_core.members import Crowd, KernelDensity, kernel
from vae_core.members.kernel import FAR
from vae_core.members.search import highest

T = TypeVar("T")

REAL, BOOLEAN, CLASS = Feature(0, "gaussian"), Feature(1, "bernoulli"), Feature(2, "categorical", 4)


def fitted(values: np.ndarray, *features: Feature, mask: np.ndarray | None = None) -> KernelDensity:
    mask = np.ones(values.shape, bool) if mask is None else mask
    return KernelDensity.fit(np.where(mask, values, 0.0), mask, features)


either = pytest.mark.parametrize("of", [lambda member: member, Crowd.of], ids=["kernel", "crowd"])
Of = Callable[[KernelDensity], KernelDensity]


def density(member: KernelDensity, values: np.ndarray) -> np.ndarray:
    """P(x), every kernel heard: the score of what is no exemplar."""
    return np.exp(member.scores([member], values, np.ones(values.shape, bool), own=True)[0])


def two_humps(rows: int = 300) -> np.ndarray:
    r = np.random.default_rng(0)
    return np.where(r.random(rows) < 0.3, r.normal(-2, 0.3, rows), r.normal(1, 0.5, rows))[:, None]


def mixed(rows: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """A number, a boolean that follows its sign and four classes; one cell in ten is missing."""
    r = np.random.default_rng(1)
    x = r.normal(size=rows)
    values = np.c_[x, x > 0, r.integers(0, 4, rows)].astype(float)
    return values, r.random(values.shape) > 0.1


def test_a_real_columns_density_integrates_to_1() -> None:
    member = fitted(two_humps(), REAL)
    inside = np.linspace(-30, 30, 40_001)
    total = np.trapezoid(density(member, inside[:, None]), inside)
    assert total == pytest.approx(1, abs=1e-9)


def test_it_integrates_to_1_beyond_the_compression_too() -> None:
    """All but the outermost mass of a column whose records lie around the place where compression begins."""
    r = np.random.default_rng(0)
    member = fitted(r.normal(FAR, 300, size=(400, 1)), REAL)
    y = np.linspace(-3 * FAR, 3 * FAR, 60_001)  # compressed: every real number between +-exp(2 FAR)
    excess = np.maximum(np.abs(y) - FAR, 0)
    x = np.where(excess > 0, np.sign(y) * (FAR + np.expm1(np.minimum(excess, 700))), y)
    slope = np.exp(np.minimum(excess, 700))  # dx/dy
    assert np.trapezoid(density(member, x[:, None]) * slope, y) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("spread", [0.4, 3.0, 300.0])
def test_whole_numbers_have_masses_that_sum_to_1(spread: float) -> None:
    r = np.random.default_rng(0)
    whole = np.rint(r.gamma(2.0, spread, size=(500, 1)))
    centre, unit = whole.mean(), whole.std()
    member = fitted((whole - centre) / unit, Feature(0, "whole", 1 / unit))
    lattice = np.arange(-60 * spread - 50, 60 * spread + 50).round()[:, None]
    assert density(member, (lattice - centre) / unit).sum() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("spread", [0.2, 0.4, 3.0])
def test_masses_sum_to_1_where_exemplars_miss_the_cell_and_the_mean_is_off_the_lattice(spread: float) -> None:
    r = np.random.default_rng(0)
    whole = np.rint(r.gamma(2.0, spread, size=(500, 1)))
    centre, unit = whole.mean(), whole.std()
    mask = np.c_[r.random(500) < 0.4, np.ones(500, bool)]
    values = np.c_[(whole - centre) / unit, r.normal(size=500)]
    member = fitted(
        np.where(mask, values, 0), Feature(0, "whole", 1 / unit), Feature(1, "gaussian"), mask=mask
    )
    lattice = (np.arange(-200, 200) - centre) / unit
    records, other = np.c_[lattice, np.full(400, 0.3)], np.array([[0.0, 0.3]])
    sums = np.exp(member.score(records, np.ones(records.shape, bool))).sum()
    assert sums == pytest.approx(np.exp(member.score(other, np.array([[False, True]])))[0], rel=1e-6)


def test_mixed_records_sum_and_integrate_to_1() -> None:
    values, mask = mixed()
    member = fitted(values, REAL, BOOLEAN, CLASS, mask=mask)
    x = np.linspace(-12, 12, 20_001)
    total = 0.0
    for flag in (0.0, 1.0):
        for k in range(4):
            total += np.trapezoid(density(member, np.c_[x, np.full_like(x, flag), np.full_like(x, k)]), x)
    assert total == pytest.approx(1, abs=1e-9)


def test_a_missing_cell_is_integrated_out() -> None:
    values, mask = mixed()
    member = fitted(values, REAL, BOOLEAN, CLASS, mask=mask)
    x = np.linspace(-12, 12, 20_001)
    whole = np.trapezoid(density(member, np.c_[x, np.ones_like(x), np.full_like(x, 2)]), x)
    record, mask = np.array([[0.0, 1.0, 2.0]]), np.array([[False, True, True]])
    without = member.scores([member], record, mask, own=True)[0]
    assert np.exp(without[0]) == pytest.approx(whole, rel=1e-9)
    record[0, 0] = 1e9  # what lies under the mask is no matter
    assert member.scores([member], record, mask, own=True)[0] == without


def test_no_exemplar_hears_its_own_kernel() -> None:
    """With missing cells, classes and one record that is there twice: what the other exemplars say."""
    values, mask = mixed()
    values[1], mask[1] = values[0], mask[0]
    member = fitted(values, REAL, BOOLEAN, CLASS, mask=mask)
    own = member.exemplars[:50], member.observed[:50]
    told = member.score(*own)
    for i in range(50):
        others = np.arange(len(member.exemplars)) != i
        rest = KernelDensity(
            member.exemplars[others],
            member.observed[others],
            member.widths[others],
            member.scales,
            member.shares,
            member.features,
        )
        record = own[0][i : i + 1], own[1][i : i + 1]
        heard = rest.scores([rest], *record, own=True)[0] + np.log(1 - 1 / len(member.exemplars))
        assert told[i] == pytest.approx(heard[0], rel=1e-9)


@pytest.mark.parametrize("complete", [True, False])
def test_leave_one_out_is_the_same_with_the_discrete_terms_computed_before(complete: bool) -> None:
    values, mask = mixed()
    member = fitted(values, REAL, BOOLEAN, CLASS, mask=mask | complete)
    before = member._leave_one_out(member._discrete_terms())
    assert before == pytest.approx(member._leave_one_out(), rel=1e-9)


def test_a_record_that_is_no_exemplar_hears_all_of_them_and_none_gets_more_than_its_density() -> None:
    values, mask = mixed()
    member = fitted(values, REAL, BOOLEAN, CLASS, mask=mask)
    known = np.ones(3, bool)
    fresh = np.array([[0.123456789, 1, 2], [5.0, 0, 3], [-1e5, 1, 0]])
    everyone = np.r_[member.exemplars, fresh], np.r_[member.observed, np.tile(known, (3, 1))]
    told, density_ = member.score(*everyone), member.scores([member], *everyone, own=True)[0]
    np.testing.assert_array_equal(told[-3:], density_[-3:])
    assert (told <= density_).all() and (told[:-3] < density_[:-3]).mean() > 0.9


def test_it_is_the_mixture_that_scipy_makes_of_its_kernels() -> None:
    x = np.random.default_rng(2).normal(size=(200, 3))
    member = fitted(x, *(Feature(j, "gaussian") for j in range(3)))
    new = np.random.default_rng(3).normal(size=(50, 3)) * 2
    widths = member.widths[:, None] * member.scales
    each = norm.logpdf(new[:, None, :], member.exemplars[None], widths[None]).sum(-1)
    expected = logsumexp(each, axis=1) - np.log(200)
    np.testing.assert_allclose(member.score(new, np.ones(new.shape, bool)), expected, rtol=1e-9)


@pytest.mark.parametrize("rows", [200, 1100])
def test_the_crowd_is_the_mixture_of_a_sample_of_kernels_without_the_nearest_tenth(rows: int) -> None:
    x = np.random.default_rng(2).normal(size=(rows, 3))
    member = fitted(x, *(Feature(j, "gaussian") for j in range(3)))
    new = np.random.default_rng(3).normal(size=(50, 3)) * 2
    crowd = Crowd.of(member)
    exemplars, widths = crowd.exemplars, crowd.widths[:, None] * crowd.scales
    assert len(np.unique(exemplars, axis=0)) == min(rows, 500)
    assert np.isin(exemplars, member.exemplars).all()
    each = norm.logpdf(new[:, None, :], exemplars[None], widths[None]).sum(-1)
    farthest = np.sort(each, axis=1)[:, : len(exemplars) - round(0.1 * len(exemplars))]
    expected = logsumexp(farthest, axis=1) - np.log(len(exemplars))
    bound = crowd.score(new, np.ones(new.shape, bool))
    np.testing.assert_allclose(bound, expected, rtol=1e-9)
    assert (bound < logsumexp(each, axis=1) - np.log(len(exemplars))).all()  # a bound on the sample's density


def test_clustered_anomalies_among_the_training_records_are_usual_to_the_kernels_but_not_to_the_crowd() -> (
    None
):
    r = np.random.default_rng(7)
    x = np.r_[r.normal(size=(970, 2)), r.normal([2.5, -2.5], 0.02, (30, 2))]
    kernel = fitted(x, Feature(0, "gaussian"), Feature(1, "gaussian"))
    places = [
        np.median(member.score(x, np.ones(x.shape, bool)).argsort().argsort()[-30:])
        for member in (kernel, Crowd.of(kernel))
    ]
    assert places[0] > 900
    assert places[1] < 100


@either
@pytest.mark.parametrize("share_missing", [0.0, 0.3])
def test_its_parts_sum_to_its_score_and_the_kl_is_none_below_zero(share_missing: float, of: Of) -> None:
    member = of(fitted(mixed()[0], REAL, BOOLEAN, CLASS))
    new, _ = mixed(300)
    new[:5, 0] = [40.0, -1e6, 1e30, 1e4, -0.0]
    seen = np.random.default_rng(4).random(new.shape) >= share_missing
    terms, kl = member.parts(np.where(seen, new, 0), seen)
    score = member.score(np.where(seen, new, 0), seen)
    np.testing.assert_allclose(terms.sum(1) - kl, score, rtol=1e-12, atol=1e-9)
    assert kl.min() >= -1e-9
    assert not terms[~seen].any()


@either
def test_a_score_depends_on_its_record_alone(of: Of) -> None:
    values, mask = mixed()
    member = of(fitted(values, REAL, BOOLEAN, CLASS, mask=mask))
    new, seen = mixed(700)
    new = np.where(seen, new, 0.0)
    whole = member.score(new, seen)
    order = np.random.default_rng(0).permutation(700)
    assert (member.score(new[order], seen[order]) == whole[order]).all()
    assert (
        np.concatenate([member.score(new[i : i + 1], seen[i : i + 1]) for i in range(60)]) == whole[:60]
    ).all()


@either
def test_a_loaded_one_gives_the_same_bits(of: Of) -> None:
    values, mask = mixed()
    member = of(fitted(values, REAL, BOOLEAN, CLASS, mask=mask))
    again = type(member).from_arrays(member.arrays(), member.features)
    new, seen = mixed(100)
    assert (again.score(new * seen, seen) == member.score(new * seen, seen)).all()


@either
def test_every_finite_value_has_a_finite_score_and_a_farther_one_a_lower(of: Of) -> None:
    member = of(fitted(two_humps(), REAL))
    far = np.geomspace(5, 1e300, 200)[:, None]
    for side in (far, -far):
        score = member.score(side, np.ones(side.shape, bool))
        assert np.isfinite(score).all()
        assert (np.diff(score) < 0).all()


def test_it_knows_a_dense_region_that_no_gaussian_knows() -> None:
    r = np.random.default_rng(5)
    angle = r.uniform(0, 2 * np.pi, 1500)
    ring = np.c_[np.cos(angle), np.sin(angle)] + r.normal(0, 0.05, (1500, 2))
    member = fitted(ring / ring.std(0), Feature(0, "gaussian"), Feature(1, "gaussian"))
    middle, on_it = member.score(np.array([[0.0, 0.0], [1.41, 0.0]]), np.ones((2, 2), bool))
    assert on_it - middle > 10


@either
@pytest.mark.parametrize("rows", [1, 2, 5, 12])
def test_a_handful_of_records_gives_a_finite_density(rows: int, of: Of) -> None:
    member = of(fitted(np.arange(rows, dtype=float)[:, None], REAL))
    assert np.isfinite(member.score(np.array([[0.5], [100.0]]), np.ones((2, 1), bool))).all()


def test_classes_alone_can_be_learnt() -> None:
    r = np.random.default_rng(0)
    first = r.integers(0, 3, 400).astype(float)
    member = fitted(np.c_[first, first], Feature(0, "categorical", 4), Feature(1, "categorical", 4))
    same, other = member.score(np.array([[1.0, 1.0], [1.0, 2.0]]), np.ones((2, 2), bool))
    assert same - other > 1


@either
def test_the_quick_score_is_the_exact_one_rounded(of: Of) -> None:
    values, mask = mixed()
    member = of(fitted(values, REAL, BOOLEAN, CLASS, mask=mask))
    far = values * np.array([1e3, 1, 1])
    for x in (values, far):
        exact, quick = member.score(x, mask), member.score(x, mask, quick=True)
        np.testing.assert_allclose(quick, exact, rtol=1e-6, atol=1e-6)
        terms, kl = member.parts(x, mask, quick=True)
        np.testing.assert_allclose(terms.sum(1) - kl, quick, rtol=1e-12, atol=1e-12)


@either
def test_the_quick_score_is_as_exact_where_the_nearest_exemplars_are_much_nearer(of: Of) -> None:
    r = np.random.default_rng(0)
    x = np.r_[r.normal(size=(970, 30)), r.normal(40, 0.01, (30, 30))]
    member, seen = of(fitted(x, *(Feature(j, "gaussian") for j in range(30)))), np.ones(x.shape, bool)
    np.testing.assert_allclose(member.score(x, seen, quick=True), member.score(x, seen), rtol=0, atol=1e-5)


@pytest.mark.parametrize("rows", [60, 400])
def test_width_and_mixing_are_as_likely_as_the_best_of_the_whole_grid(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, mask = mixed(rows)
    found = fitted(values, REAL, BOOLEAN, CLASS, mask=mask)

    def of_all(
        ones: list[float], others: list[float], value_of: Callable[[float, float], tuple[float, T]]
    ) -> T:
        return max((value_of(one, other) for other in others for one in ones), key=lambda pair: pair[0])[1]

    monkeypatch.setattr(kernel, "highest", of_all)
    best = fitted(values, REAL, BOOLEAN, CLASS, mask=mask)
    assert found._leave_one_out() == pytest.approx(best._leave_one_out(), abs=1e-9)
    np.testing.assert_array_equal(found.widths, best.widths)


def test_a_dip_of_one_step_does_not_stop_the_search() -> None:
    rows = {0: [5, 9, 1, 0, 0], 1: [0, 6, 5, 7, 10]}
    assert highest(range(5), range(2), lambda a, b: (rows[int(b)][int(a)], (a, b))) == (4, 1)
