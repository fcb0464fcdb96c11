"""The verbs: what a training is known by, how it goes on when interrupted, what generation resembles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import ks_2samp

from flows import choices, registry, steps, synthetic
from flows.intervals import instant
from tests import shop
from vae_core import committee, storage
from vae_core.errors import InputError


class Interrupted(Exception):
    """What Ctrl-C does to a training."""


def test_an_interrupted_training_goes_on_and_gives_the_same_model(
    in_shop: shop.Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELBORANK_HOME", str(tmp_path))
    data = steps.ingest("sales.csv", ids=["sale"])
    settings = {"steps": 40, "members": 1}
    seen: list[int] = []

    def stop_in_the_middle(state: Any) -> None:
        seen.append(state.step)
        if state.step >= 20:
            raise Interrupted

    with pytest.raises(Interrupted):
        steps.fit(data, tmp_path / "first", kinds={}, settings=settings, progress=stop_in_the_middle)
    resumed: list[int] = []
    model = steps.fit(
        data,
        tmp_path / "first",
        kinds={},
        settings=settings,
        progress=lambda state: resumed.append(state.step),
    )
    assert min(resumed) > max(seen)
    monkeypatch.setenv("ELBORANK_HOME", str(tmp_path / "elsewhere"))
    undisturbed = steps.fit(data, tmp_path / "second", kinds={}, settings=settings)
    assert storage.model_digest(model) == storage.model_digest(undisturbed)


def test_a_training_is_known_by_its_data_its_settings_and_its_kinds(in_shop: shop.Shop) -> None:
    week = steps.ingest("sales.csv", until="2024-01-08")
    month = steps.ingest("sales.csv")
    plain: dict[str, Any] = {"kinds": {}, "settings": {}}
    keys = {
        steps.training_key(week, **plain),
        steps.training_key(month, **plain),
        steps.training_key(week, kinds={"card": "label"}, settings={}),
        steps.training_key(week, kinds={}, settings={"random_state": 1}),
    }
    assert len(keys) == 4
    # What is the default anyway is no other training.
    assert steps.training_key(week, kinds={}, settings={"random_state": 0}) in keys


def test_the_lecture_preset_is_trained_registered_scored_and_generated_from(
    in_shop: shop.Shop, tmp_path: Path
) -> None:
    settings = {"preset": "lecture", "steps": 100}
    trained = steps.train(
        "sales.csv", name="lecture", ids=["sale"], until=shop.TRAINED_UNTIL, settings=settings
    )
    model = f"models:/lecture/{trained['version']}"
    scored = steps.score(
        "sales.csv", model=model, start=shop.TRAINED_UNTIL, output=str(tmp_path), as_of=None, replace=False,
        workers=1, members=None,
    )  # fmt: skip
    assert scored["ranked"] == 168 and scored["published"]
    made = synthetic.write_sample(registry.resolve(model), 50, str(tmp_path / "made.parquet"))
    assert {row["column"] for row in made["distances"]} >= {"weight", "price", "kind", "card"}


def test_the_distance_of_two_samples_is_the_kolmogorov_smirnov_statistic() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=300), generator.normal(0.5, 2, size=200)
    ours = synthetic.column_distance(pa.chunked_array([a]), pa.chunked_array([b]), "real")
    assert ours[1] == pytest.approx(ks_2samp(a, b).statistic)


def test_linear_records_resemble_the_data_in_units_types_and_categories(in_shop: shop.Shop) -> None:
    version = registry.resolve("models:/shop@champion")
    encoding = storage.load(version.folder).encoding
    data = steps.ingest("sales.csv", **steps.as_the_model_reads(version), until=shop.TRAINED_UNTIL)
    table = synthetic.some_rows(data, list(encoding.columns))
    made = synthetic.linear_sample(encoding, table, 2000, seed=0, latent=2).to_pandas()
    real = table.to_pandas()
    assert made["price"].mean() == pytest.approx(real["price"].mean(), rel=0.1)
    assert made["weight"].std() == pytest.approx(real["weight"].std(), rel=0.1)
    assert set(made["kind"]) <= {*real["kind"], "other"}


def test_a_time_without_a_zone_is_utc_and_one_with_a_zone_is_converted() -> None:
    assert instant("2024-01-01", "--from") == instant("2024-01-01T01:00:00+01:00", "--from")


def test_members_are_named_as_models_have_them(in_shop: shop.Shop) -> None:
    model = storage.load(registry.resolve("models:/shop@champion").folder)
    assert set(model.weights) == set(choices.MEMBERS) == set(committee.COUNTS)
    assert choices.member_names(" vae,crowd , vae") == ("vae", "crowd")
    assert choices.member_names(None) is None
    for text in ("", ",", "vae,,crowd", "VAE", "vae crowd"):
        with pytest.raises(InputError, match="there is no member"):
            choices.member_names(text)
