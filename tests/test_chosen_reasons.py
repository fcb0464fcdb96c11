"""Which columns a record's reasons name, and in which order: by what repairs gain and by what cells cost."""

from __future__ import annotations

import numpy as np
import pytest

from vae_core.explanation import chosen
from vae_core.repair import Suspects


@pytest.mark.parametrize("top", [2, 3, 5])
def test_the_largest_surprise_is_always_named(top: int) -> None:
    """However little its own repair gains; two missing cells that cost something come before it here."""
    columns = np.array([[0, 1, 2, 3, 4]])
    gains = np.array([[1.0, 9.0, 3.0, 8.0, 7.0]])
    found = Suspects(columns, gains, np.array([[False, False, False, True, True]]), [])
    order = chosen(found, np.array([[20.0, 15.0, 10.0, 5.0, 4.0, 0.5]]), top)
    assert order == [{2: [1, 0], 3: [1, 3, 0], 5: [1, 3, 0, 4, 2]}[top]]


@pytest.mark.parametrize(
    ("own", "gain", "expected"),
    [
        (-0.9, 30.0, [3, 0, 1]),  # its repair mends what costs the most: it is to blame
        (-0.9, 15.0, [0, 1]),  # the largest gain, but not of what costs the most
        (0.5, 15.0, [0, 1, 3]),  # costs a little: in the order of the costs
        (2.0, 15.0, [3, 0, 1]),  # a surprise of its own
    ],
)
def test_when_a_missing_cell_comes_first(own: float, gain: float, expected: list[int]) -> None:
    columns, gains = np.array([[0, 1, 2, 3, -1]]), np.array([[10.0, 5.0, 1.0, gain, -np.inf]])
    found = Suspects(columns, gains, np.array([[False, False, False, True, False]]), [])
    assert chosen(found, np.array([[20.0, 15.0, -0.1, own, -np.inf]]), 5) == [expected]


def test_an_unusual_combination_comes_first_only_where_it_costs_the_most() -> None:
    """Nothing can be repaired of it: its gain is what it costs, which a column's repair may fall short of."""
    columns = np.array([[0, 1, 2], [2, 0, 1]])
    gains = np.array([[3.0, 2.0, 5.0], [9.0, 3.0, 2.0]])
    found = Suspects(columns, gains, np.zeros((2, 3), bool), [])
    assert chosen(found, np.array([[20.0, 4.0, 5.0], [4.0, 3.0, 9.0]]), 5) == [[0, 1, 2], [2, 0, 1]]
