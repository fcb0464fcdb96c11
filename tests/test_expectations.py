"""What the decoder expects of a cell, over all draws together."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from vae_core import training
from vae_core.encoding import Encoded
from vae_core.likelihoods import CLASS_FLOOR
from vae_core.scoring import FittedModel


@pytest.fixture(scope="module")
def warm() -> tuple[FittedModel, Encoded]:
    """A model with categories, and the records that it was trained on."""
    r = np.random.default_rng(0)
    degrees = r.normal(60, 8, 300)
    columns = {"temp": degrees, "dewp": degrees - r.gamma(2.0, 2.0, 300), "flights": r.poisson(30, 300)}
    columns |= {"open": r.random(300) < 0.95, "sky": np.where(r.random(300) < 0.4, "fog", "clear")}
    warm = np.array(["no", "so", "yes", "hot"])[np.searchsorted([40.0, 60.0, 75.0], degrees)]
    table = pa.table(columns | {"warm": warm})
    model = training.fit(lambda: iter(table.to_batches()), settings=training.Settings(steps=20))
    return model, model.encoding.encode(table)


def test_the_expected_class_is_the_likeliest_of_all_draws_together(warm: tuple[FittedModel, Encoded]) -> None:
    """The mixture over the draws has one: where two draws say one class and two another there is no tie."""
    model, fresh = warm
    few = model.with_draws(4)
    expected, variance = few.moments(fresh)
    vae, kinds = few.vae, [f.likelihood for f in model.encoding.features]
    parts = [torch.from_numpy(part) for part in (fresh.values, fresh.mask, fresh.context)]
    with torch.no_grad():
        code = vae.encode(vae.inputs(parts[0], parts[1]), parts[2])
        outputs = vae.decode_draws(*code, parts[2], few.noise.flatten(0, 1))
    (group,) = (g for g in vae.groups if g.likelihood.name == "categorical")
    logits = vae.parameters_of(group, outputs)
    for place, j in enumerate(group.features):
        classes = int(vae.scale[j])
        shares = logits[..., place, :classes].double().softmax(-1).mean((0, 1))
        shares = (1 - CLASS_FLOOR) * shares + CLASS_FLOOR / classes
        assert kinds[j] == "categorical"
        np.testing.assert_array_equal(expected[:, j], shares.argmax(-1))
        np.testing.assert_allclose(variance[:, j], 1 - shares.amax(-1), atol=1e-6)


def test_what_is_wanted_is_as_when_all_is(warm: tuple[FittedModel, Encoded]) -> None:
    model, fresh = warm
    whole = model.moments(fresh)
    kinds = np.array([feature.likelihood for feature in model.encoding.features])
    assert len(set(kinds)) > 2
    for kind in set(kinds):
        wanted = kinds == kind
        for some, every in zip(model.moments(fresh, wanted=wanted), whole, strict=True):
            np.testing.assert_array_equal(some[:, wanted], every[:, wanted])
