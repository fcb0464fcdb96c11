"""Training gains over the linear start, resumes to the same bits, and keeps nothing that is not finite."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from tests.toy_tables import changed, mixed_table, trained
from vae_core.encoding import TableEncoding
from vae_core.errors import InputError
from vae_core.records import gather, hash_numbers, split_rows
from vae_core.scoring import FittedModel
from vae_core.training import Progress, Settings, TrainingStopped, fit


def ring(n: int, *, seed: int = 0) -> pa.Table:
    """Records on a circle, which no linear model can describe."""
    generator = np.random.default_rng(seed)
    angle = generator.uniform(0, 2 * np.pi, n)
    noise = 0.1 * generator.normal(size=(3, n))
    return pa.table(
        {"x": np.cos(angle) + noise[0], "y": np.sin(angle) + noise[1], "half": np.cos(angle) / 2 + noise[2]}
    )


def same_weights(some: FittedModel, other: FittedModel) -> bool:
    ours, theirs = some.vae.state_dict(), other.vae.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture(scope="module")
def on_a_ring() -> FittedModel:
    return trained(ring(1500), steps=500, members=1, latent=2, hidden=(32, 32))


def test_training_gains_over_the_linear_start_where_records_lie_on_a_curve(on_a_ring: FittedModel) -> None:
    summary = on_a_ring.summary
    assert summary["better_than_linear_start"]
    assert summary["gain_over_linear_start"] > 0.5
    assert summary["heldout_elbo"] > summary["linear_start_elbo"]
    assert [entry["step"] for entry in summary["history"]] == list(range(25, 501, 25))


def test_the_middle_of_the_ring_is_ordinary_to_the_linear_model_and_strange_to_the_trained_one(
    on_a_ring: FittedModel,
) -> None:
    middle, usual = pa.table({"x": [0.0], "y": [0.0], "half": [0.0]}), ring(500, seed=1)
    untrained = trained(ring(1500), steps=1, learning_rate=1e-12, members=1, latent=2, hidden=(32, 32))
    linear = untrained.with_members(["vae"])  # its companions see that no record lies there
    shares = [
        float((model.score(usual).anomaly_score < model.score(middle).anomaly_score[0]).mean())
        for model in (linear, on_a_ring)
    ]
    assert shares[0] < 0.05
    assert shares[1] > 0.85
    assert on_a_ring.score(middle).p_value[0] < 0.15


def test_fresh_records_score_like_the_held_out_ones(on_a_ring: FittedModel) -> None:
    fresh = on_a_ring.score(ring(2000, seed=2)).elbo
    error = 4 * fresh.std() / np.sqrt(on_a_ring.summary["rows"]["calibration"])
    assert fresh.mean() == pytest.approx(
        on_a_ring.summary["heldout_elbo"], abs=error + 0.2
    )  # the latter is trimmed


def test_the_same_seed_gives_the_same_bits_and_another_one_does_not() -> None:
    table = mixed_table(200, 5)
    first, again, other = (trained(table, random_state=seed) for seed in (3, 3, 4))
    assert same_weights(first, again)
    assert not same_weights(first, other)
    np.testing.assert_array_equal(first.score(table).bound, again.score(table).bound)


def test_training_leaves_the_worlds_random_generators_alone() -> None:
    torch_before = torch.random.get_rng_state()
    numpy_before = str(np.random.get_state())  # noqa: NPY002 - the legacy global generator is what is watched
    trained(mixed_table(100, 5), steps=5)
    assert torch.equal(torch_before, torch.random.get_rng_state())
    assert numpy_before == str(np.random.get_state())  # noqa: NPY002


def test_how_the_input_is_cut_into_batches_changes_nothing() -> None:
    table, settings = mixed_table(300, 5), Settings(steps=20, members=1)
    models = [
        fit(lambda size=size: iter(table.to_batches(max_chunksize=size)), settings=settings)
        for size in (300, 47)
    ]
    for name, tensor in models[0].vae.state_dict().items():
        torch.testing.assert_close(tensor, models[1].vae.state_dict()[name], rtol=1e-5, atol=1e-6)


KILLED = """
import os, signal, sys
import torch
from pathlib import Path
from tests.toy_tables import mixed_table
from vae_core.training import Settings, fit

torch.set_num_threads(1)
def stop(progress):
    if progress.step >= 24:
        os.kill(os.getpid(), signal.SIGKILL)
fit(lambda: iter(mixed_table(200, 5).to_batches()), settings=Settings(steps=40, members=2), progress=stop,
    checkpoint=Path(sys.argv[1]))
"""


def test_a_training_that_was_killed_goes_on_and_ends_with_the_same_bits(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    command = [sys.executable, "-c", KILLED, str(folder)]
    killed = subprocess.run(command, cwd=Path(__file__).parents[1], env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert killed.returncode == -signal.SIGKILL
    table, settings, steps = mixed_table(200, 5), Settings(steps=40, members=2), list[int]()

    def note(progress: Progress) -> None:
        steps.append(progress.step)

    resumed = fit(lambda: iter(table.to_batches()), settings=settings, progress=note, checkpoint=folder)
    whole = fit(lambda: iter(table.to_batches()), settings=settings)
    assert steps[0] == 26  # the first look after step 24, the last one saved
    assert same_weights(resumed, whole)
    assert resumed.summary == whole.summary
    np.testing.assert_array_equal(resumed.score(table).bound, whole.score(table).bound)


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("change", ["records", "seed", "learning_rate"])
def test_the_checkpoint_of_another_run_is_not_taken_up(tmp_path: Path, change: str) -> None:
    table, settings = mixed_table(120, 3), {"steps": 20, "members": 1}
    fit(lambda: iter(table.to_batches()), settings=Settings(**settings), checkpoint=tmp_path)  # type: ignore[arg-type]
    if change == "records":
        table = mixed_table(120, 3, seed=9)
    else:
        settings |= {"random_state": 9} if change == "seed" else {"learning_rate": 1e-3}
    after = fit(lambda: iter(table.to_batches()), settings=Settings(**settings), checkpoint=tmp_path)  # type: ignore[arg-type]
    alone = fit(lambda: iter(table.to_batches()), settings=Settings(**settings))  # type: ignore[arg-type]
    assert same_weights(after, alone)


def test_a_finished_checkpoint_gives_the_model_at_once(tmp_path: Path) -> None:
    table, settings, steps = mixed_table(120, 3), Settings(steps=20, members=1), list[int]()
    batches = lambda: iter(table.to_batches())  # noqa: E731 - two passes over the same three lines
    first = fit(batches, settings=settings, checkpoint=tmp_path)
    again = fit(batches, settings=settings, checkpoint=tmp_path, progress=lambda p: steps.append(p.step))
    assert not steps
    assert same_weights(first, again)


@pytest.mark.parametrize("rate", [1e6, 1e30])
@pytest.mark.parametrize("preset", ["default", "lecture"])
def test_a_wild_learning_rate_stops_the_training_and_is_named(preset: str, rate: float) -> None:
    with pytest.raises(TrainingStopped, match=r"not finite at step \d+ of 16 \(learning rate 1e\+\d\d\)"):
        trained(mixed_table(100, 5), preset=preset, learning_rate=rate)


@pytest.mark.parametrize("rows", [10, 100])
def test_a_training_whose_very_last_step_ruins_the_model_stops_too(rows: int) -> None:
    with pytest.raises(TrainingStopped, match="not finite"):
        trained(mixed_table(rows, 5), steps=1, learning_rate=1e6)


def test_infinite_values_are_refused_with_their_column_named() -> None:
    table = mixed_table(100, 5)
    values = table["real_3"].to_numpy().copy()
    values[7] = np.inf
    with pytest.raises(InputError, match=r'column "real_3".*infinite'):
        trained(changed(table, "real_3", values))


def test_one_value_near_the_largest_float_does_not_spoil_the_rest() -> None:
    table, fresh = mixed_table(300, 5), mixed_table(200, 5, seed=1)
    values = table["real_0"].to_numpy().copy()
    values[7] = 1e308
    usual, spoiled = trained(table).score(fresh), trained(changed(table, "real_0", values)).score(fresh)
    assert np.isfinite(spoiled.bound).all()
    assert np.corrcoef(usual.bound, spoiled.bound)[0, 1] > 0.8


def test_selection_and_calibration_records_are_disjoint_from_those_fitted_and_from_each_other() -> None:
    n = 500
    table = pa.table({"number": np.arange(n) + 0.5, "_record_id": [f"r{i}" for i in range(n)]})
    encoding = TableEncoding.fit(iter(table.select(["number"]).to_batches()))
    records = gather(iter(table.to_batches(max_chunksize=70)), encoding, 0.1, 0.2, random_state=0)
    parts = [
        set(part.values[:, 0].tolist()) for part in (records.fit, records.selection, records.calibration)
    ]
    assert [len(p) for p in parts] == [350, 50, 100]
    assert len(set.union(*parts)) == n
    assert len(records.identities) == 400  # a calibration record has not been trained on


def test_numbers_are_hashed_as_pandas_hashes_them_and_equal_ones_alike() -> None:
    numbers = np.random.default_rng(0).normal(size=5000) * 10.0 ** np.arange(-250, 250).repeat(10)
    numbers[:4] = [0.0, 1.0, 5e-324, -1.7e308]
    np.testing.assert_array_equal(hash_numbers(numbers), pd.util.hash_array(numbers))
    assert hash_numbers(np.array([-0.0]))[0] == hash_numbers(np.array([0.0]))[0]


def test_records_that_were_trained_on_have_no_p_value_and_held_out_ones_do() -> None:
    table = mixed_table(300, 3).append_column("_record_id", pa.array([f"r{i}" for i in range(300)]))
    model = trained(table)
    p_values = model.score(table).p_value
    assert np.isfinite(p_values).sum() == model.summary["rows"]["calibration"] == 30
    renamed = changed(table, "_record_id", [f"other{i}" for i in range(300)])
    assert np.isfinite(model.score(renamed).p_value).all()


@pytest.mark.parametrize("preset", ["default", "lecture"])
@pytest.mark.parametrize("rows", [2, 10, 49, 50])
def test_tiny_tables_train_and_score(preset: str, rows: int) -> None:
    table = mixed_table(rows, 5, missing=0.0)
    model = trained(table, preset=preset, steps=10)
    scores = model.score(mixed_table(20, 5, seed=1))
    assert np.isfinite(scores.anomaly_score).all()
    assert np.isnan(scores.p_value).all() == (rows < 50)


def test_a_single_record_is_refused() -> None:
    with pytest.raises(InputError, match=r"a single record .* cannot tell what is usual. Give more records"):
        trained(mixed_table(1, 5, missing=0.0))


def test_a_table_with_more_columns_than_records_trains_and_scores() -> None:
    model = trained(mixed_table(50, 200), steps=10, members=1)
    assert np.isfinite(model.score(mixed_table(20, 200, seed=1)).anomaly_score).all()
    assert len(model.encoding.features) == 200


def test_constant_and_empty_columns_are_learnt_as_such_and_a_surprise_in_them_costs() -> None:
    table = mixed_table(100, 2, missing=0.0)
    table = table.append_column("always", pa.array(np.full(100, 7.0))).append_column(
        "never", pa.nulls(100, pa.float64())
    )
    model = trained(table)
    assert model.encoding.kinds == {
        "real_0": "real",
        "category_1": "category",
        "always": "constant",
        "never": "empty",
    }
    plain = model.untilted()
    usual = plain.score(table)
    assert np.isfinite(usual.anomaly_score).all()
    for name, value in (("always", 8.0), ("never", 1.0)):
        surprising = changed(table, name, np.full(100, value))
        odd = plain.score(surprising)
        np.testing.assert_allclose(
            odd.anomaly_score - usual.anomaly_score, np.log(102**2 - 1), rtol=1e-6
        )  # the odds
        assert (model.score(surprising).bound <= odd.bound).all()


def test_a_table_without_anything_to_learn_says_why() -> None:
    table = pa.table({"a": np.full(20, 1.0), "b": pa.nulls(20, pa.float64())})
    with pytest.raises(InputError, match=r"no column can be learnt from: a \(constant\), b \(empty\)"):
        trained(table)
    with pytest.raises(InputError, match="no rows"):
        trained(table.slice(0, 0))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"preset": "best"}, "preset"),
        ({"positivity": "softplus"}, "positivity"),
        ({"likelihood": "student"}, "likelihood"),
        ({"steps": 0}, "steps"),
        ({"members": -1}, "members"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("positivity", ["exp", "square"])
@pytest.mark.parametrize("preset", ["default", "lecture"])
def test_both_ways_to_positive_variances_learn(preset: str, positivity: str) -> None:
    model = trained(ring(300), preset=preset, positivity=positivity, steps=100)
    history = [entry["heldout_elbo"] for entry in model.summary["history"]]
    assert max(history) > history[0]
    assert np.isfinite(model.score(ring(50, seed=1)).anomaly_score).all()


@pytest.mark.parametrize("seed", range(4))
def test_what_is_held_out_does_not_follow_a_users_own_random_numbers(seed: int) -> None:
    """Tables made up with numpy's generator and a small seed: held out at random all the same."""
    for own in range(4):
        x = np.random.default_rng(own).random(1000)
        batches = pa.table({"x": x, "y": x[::-1]}).to_batches()
        _, selection, calibration = split_rows(iter(batches), 0.1, 0.1, seed)
        for some in (selection, calibration):
            assert 0.3 < x[some].mean() < 0.7  # of 100: half, give or take .03
