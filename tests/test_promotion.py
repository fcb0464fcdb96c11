"""A version becomes champion when it is one to trust; a bad one never does, and never runs anything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from flows import evidence, promotion, registry, steps
from flows.evidence import Evidence
from tests import shop
from tests.bench import bad_models
from vae_core import storage
from vae_core.calibration import Calibration
from vae_core.errors import InputError


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Path, Path]]:
    """Data, a good model registered as champion, and a folder, in a registry of their own."""
    folder = tmp_path_factory.mktemp("promotion")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ELBORANK_HOME", str(folder / "home"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.chdir(folder)
        yield (*bad_models.prepare(folder), folder)


@pytest.mark.parametrize("kind", ["worse", "pickled", "flipped_later"])
def test_a_spoilt_model_is_refused_and_nothing_runs(prepared: tuple[Any, Path, Path], kind: str) -> None:
    data, good, folder = prepared
    assert bad_models.try_bad(kind, 0, good, data, folder, "shop") is None


def test_a_good_one_is_promoted_told_why_and_taken_back_at_once(prepared: tuple[Any, Path, Path]) -> None:
    data, _, folder = prepared
    before = registry.champion("shop")
    assert before is not None
    assert bad_models.try_good(1, data, folder, "shop") is None
    after = registry.champion("shop")
    assert after is not None and after.version != before.version
    told = registry.read_decision("shop", after.version)
    assert told["passed"] and told["champion"] == before.version
    assert {row["check"] for row in told["checks"]} >= {"loads", "champion's bound", "planted errors"}
    assert registry.resolve("models:/shop@previous").version == before.version
    assert registry.rollback("shop")["champion"] == before.version
    assert registry.resolve("models:/shop@previous").version == after.version
    assert not promotion.promote("shop", before.version)["changed"]


def test_a_first_version_has_to_pass_too_where_it_is_asked_to(prepared: tuple[Any, Path, Path]) -> None:
    data, good, _ = prepared
    version = steps.register(good, data, name="fresh", kinds={}, settings={}, challenge=True)
    assert version.aliases == ("challenger",)
    with pytest.raises(InputError, match="champion"):
        registry.resolve("models:/fresh@champion")
    with pytest.raises(InputError, match="nobody asked"):
        registry.read_decision("fresh", "1")


def test_what_one_training_holds_out_the_next_one_holds_out_too(prepared: tuple[Any, Path, Path]) -> None:
    data, good, _ = prepared
    one = storage.load(good)
    found, fitted, count = evidence.choose(data, [one])
    assert found.num_rows == count == len(one.calibration.scores)
    assert fitted.num_rows == len(one.trained_on)
    assert set(found["_record_id"].to_pylist()).isdisjoint(fitted["_record_id"].to_pylist())
    settings = {"steps": 5, "members": 1, "random_state": 9}
    other = storage.load(steps.fit(data, good.parent / "other", kinds={}, settings=settings))
    assert evidence.choose(data, [one, other])[0].equals(found)


def test_models_that_differ_in_their_draws_alone_are_equal(prepared: tuple[Any, Path, Path]) -> None:
    data, good, _ = prepared
    model = storage.load(good).with_members(["vae"])
    records, *_ = evidence.choose(data, [model])
    bounds = [
        evidence.in_user_units(replace(model, settings={**model.settings, "random_state": seed}), records)
        for seed in range(4)
    ]
    apart = np.abs(np.mean(bounds, axis=1)[:, None] - np.mean(bounds, axis=1))
    assert 0 < apart.max() < 0.1  # nats


def test_planted_errors_change_cells_and_nothing_else(prepared: tuple[Any, Path, Path]) -> None:
    data, good, _ = prepared
    model = storage.load(good)
    records, *_ = evidence.choose(data, [model])
    tables = evidence.plant(records, model, columns=model.encoding.columns)
    assert set(tables) == {"swapped", "scaled", "flipped"}
    for table in tables.values():
        assert table.schema == records.schema
        assert table["sale"].equals(records["sale"]) and table["hour"].equals(records["hour"])
    weight, moved = (t["weight"].to_numpy() for t in (records, tables["scaled"]))
    changed = weight != moved
    assert np.allclose(np.abs(moved - weight)[changed], evidence.FAR * weight.std())
    kinds = tables["flipped"]["kind"].to_pylist()
    assert set(kinds) == set(shop.sales()["kind"])


def scored(base: np.ndarray, /, **more: Any) -> Evidence:
    """Evidence with these scores of the challenger; planted ones lie higher."""
    from types import SimpleNamespace

    model: Any = SimpleNamespace(calibration=Calibration.fit(np.sort(base), {}))
    planted = {"clean": {"challenger": base}, "swapped": {"challenger": base + 3}}
    given = {"challenger": model, "scores": base, "clean": base, "planted": planted}
    return Evidence(**({"records": pa.table({"x": base})} | given | more))


NORMAL = np.random.default_rng(0).normal(size=500)


@pytest.mark.parametrize(
    ("wrong", "check"),
    [
        ({"problem": "does not match its sha256"}, "loads"),
        ({"records": pa.table({"x": [1.0] * 20})}, "held-out records"),
        ({"scores": np.where(np.arange(500) == 7, np.nan, NORMAL)}, "finite"),
        ({"scores": np.full(500, 3.0)}, "finite"),
        ({"clean": NORMAL + 0.01}, "same scores"),
        ({"champion": object(), "further": ["height"]}, "columns"),
        ({"start_gain": NORMAL - 1}, "linear start"),
        ({"champion": object(), "bound_gain": NORMAL - 1}, "champion's bound"),
        (
            {"planted": {"clean": {"challenger": NORMAL}, "scaled": {"challenger": NORMAL}}},
            "planted errors",
        ),
        ({"scores": NORMAL + 2, "clean": NORMAL + 2}, "calibration"),
    ],
)
def test_each_check_refuses_what_it_is_for(wrong: dict[str, Any], check: str) -> None:
    verdicts = promotion.judge(scored(NORMAL, **wrong))
    assert [v.check for v in verdicts if v.passed is False] == [check]
    assert all(v.passed is not False for v in promotion.judge(scored(NORMAL)))


def test_a_refusal_tells_each_failed_check_with_its_own_figure() -> None:
    worse = scored(NORMAL, start_gain=NORMAL - 1, champion=object(), bound_gain=NORMAL - 3)
    verdicts = promotion.judge(worse)
    told = promotion.failures({"checks": [asdict(v) for v in verdicts]})
    start, bound = (promotion.linear_start(worse).found, promotion.bound(worse).found)
    assert start != bound and told == f"linear start ({start}), champion's bound ({bound})"


def test_the_noise_of_equal_models_is_no_reason_to_refuse_and_a_real_loss_is() -> None:
    generator = np.random.default_rng(1)
    refused = sum(
        promotion.bound(scored(NORMAL, champion=object(), bound_gain=generator.normal(0, 1, 400))).passed
        is False
        for _ in range(400)
    )
    assert refused < 0.05 * 400  # two standard errors on one side: 2.3 % of the time
    loss = generator.normal(-0.3, 1, 400)
    assert promotion.bound(scored(NORMAL, champion=object(), bound_gain=loss)).passed is False


@pytest.mark.parametrize("anomalies", [-5e5, 5e5])
def test_a_few_anomalies_do_not_drown_a_real_loss(anomalies: float) -> None:
    """Two models lie hundreds of thousands of nats apart on them, in whichever direction."""
    gain = np.random.default_rng(1).normal(-1.9, 1, 120)
    gain[:6] = anomalies
    told = promotion.bound(scored(NORMAL, champion=object(), bound_gain=gain))
    assert told.passed is False
    assert -2.5 < float(told.found.split()[0]) < -1.4


def test_the_auroc_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import roc_auc_score

    generator = np.random.default_rng(2)
    clean, planted = generator.normal(size=300).round(1), generator.normal(0.7, size=300).round(1)
    given = {"clean": {"challenger": clean}, "swapped": {"challenger": planted}}
    value, error = promotion._auroc(scored(clean, planted=given), "challenger", ["swapped"])
    labels = np.r_[np.zeros(300), np.ones(300)]
    assert value == pytest.approx(roc_auc_score(labels, np.r_[clean, planted]))
    assert 0.015 < error < 0.03


def test_a_model_that_is_gone_with_its_data_asks_for_data(prepared: tuple[Any, Path, Path]) -> None:
    data, good, _ = prepared
    version = registry.resolve(str(good))
    with pytest.raises(InputError, match="--data"):
        promotion._data(version, None)
    assert promotion._data(version, data) is data
