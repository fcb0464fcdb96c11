"""A record's score has the same bits alone, and whatever its neighbours are."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from tests.test_scoring import FIGURES, assert_same_bits
from tests.toy_tables import changed, trained


def test_a_record_alone_or_beside_one_that_is_refused_has_the_same_bits() -> None:
    """Terms that do not come out even: whole numbers, a constant, an empty column, a boolean."""
    r = np.random.default_rng(0)
    level = r.normal(20, 3, 400)
    table = pa.table(
        {
            "level": level,
            "five": 5 * level + r.normal(size=400),
            "count": r.poisson(level),
            "kind": np.where(level > 20, "hi", "lo").tolist(),
            "flag": level + r.normal(size=400) > 20,
            "class": pa.array(np.where(level > 19, "2", "5").tolist()),
            **{f"also_{j}": 7**j * level + r.normal(size=400) for j in range(4)},
            "one": np.ones(400, np.int64),
            "nothing": pa.nulls(400, pa.float64()),
        }
    )
    model = trained(table)
    whole = model.score(table)
    alone = [model.score(table.slice(row, 1)) for row in range(100)]
    flags = table["flag"].to_numpy().astype(np.int64)
    flags[-1] = 7
    beside = model.score(changed(table, "flag", flags))
    assert beside.n_out_of_range[-1] == 1
    for row, one in enumerate(alone):
        assert_same_bits(one, whole, slice(row, row + 1))
    for name in FIGURES:
        np.testing.assert_array_equal(getattr(beside, name)[:-1], getattr(whole, name)[:-1])
