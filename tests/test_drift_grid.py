"""Counting by an even grid against counting by sorting, for edges and numbers of every kind."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vae_core.columns import cells
from vae_core.drift.grid import Grid

ANY = st.floats(allow_nan=False)
FINITE = st.floats(allow_nan=False, allow_infinity=False)


def assert_counts_are_those_of_a_sort(edges: np.ndarray, values: np.ndarray) -> None:
    found = Grid(edges).count(values)
    assert found.tolist() == cells(np.sort(values), edges).tolist()
    assert found.sum() == len(values)


@given(
    st.lists(FINITE, min_size=1, max_size=101, unique=True),
    arrays(np.float64, st.integers(0, 60), elements=ANY),
)
def test_counts_are_those_of_a_sort(edges: list[float], values: np.ndarray) -> None:
    ordered = np.unique(edges)
    around = np.r_[ordered, np.nextafter(ordered, -np.inf), np.nextafter(ordered, np.inf)]
    assert_counts_are_those_of_a_sort(ordered, np.r_[values, around])


def test_no_edges_make_one_cell() -> None:
    assert_counts_are_those_of_a_sort(np.empty(0), np.arange(3.0))


@pytest.mark.parametrize("kind", ["normal", "lognormal", "cauchy", "zeros", "whole", "clusters", "one"])
def test_percentiles_of_what_tables_hold(kind: str) -> None:
    generator = np.random.default_rng(0)

    def drawn(n: int) -> np.ndarray:
        return {
            "normal": generator.normal(size=n),
            "lognormal": generator.lognormal(0, 2, n),
            "cauchy": generator.standard_cauchy(n),
            "zeros": np.where(generator.random(n) < 0.6, 0, generator.exponential(size=n)),
            "whole": generator.poisson(5, n).astype(float),
            "clusters": generator.choice([0.0, 1e6], n) + generator.normal(size=n),
            "one": np.full(n, 3.0),
        }[kind]

    edges = np.unique(np.quantile(drawn(20_000), np.linspace(0, 1, 101)))
    assert_counts_are_those_of_a_sort(edges, np.r_[drawn(20_000), -np.inf, np.inf, -1e300, 1e300])
