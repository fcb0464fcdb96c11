"""A record's score has the same bits alone, and whatever its neighbours are."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.test_scoring import FIGURES, assert_same_bits
from tests.toy_tables import changed, trained
from vae_core.model import _linear_up_to_a_limit


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


@pytest.mark.parametrize("share", [0.0, 0.01, 0.09, 0.11, 1.0])
def test_what_the_encoder_is_told_of_a_cell_has_the_same_bits_however_many_others_are_far(
    share: float,
) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = 3 * torch.randn(64, 32, generator=generator)
    far = torch.rand(inputs.shape, generator=generator) < share
    told = _linear_up_to_a_limit(torch.where(far, 1e3 * inputs, inputs.clamp(-3, 3)))
    assert torch.equal(told[~far], inputs.clamp(-3, 3)[~far])
    alone = [_linear_up_to_a_limit(1e3 * cell.reshape(1, 1)) for cell in inputs[far]]
    assert torch.equal(told[far], torch.cat(alone).flatten() if alone else told[far])
