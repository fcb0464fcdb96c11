"""A score is a function of the record and the model alone, finite for every finite record, and adds up."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from tests.toy_tables import changed, mixed_table, trained
from vae_core import storage
from vae_core.generation import sample
from vae_core.scoring import FittedModel, Scores

WIDTHS = [1, 2, 5, 12, 33]
FIGURES = ("anomaly_score", "bound", "elbo", "reconstruction", "kl", "elbo_se", "p_value")
ROWS = 300  # more than one micro-batch, and no multiple of it
Trained = dict[int, tuple[FittedModel, pa.Table, Scores]]


def assert_same_bits(some: Scores, others: Scores, rows: slice | np.ndarray = slice(None)) -> None:
    for name in FIGURES:
        ours, theirs = getattr(some, name), getattr(others, name)[rows]
        assert np.array_equal(ours, theirs, equal_nan=True), f"{name}: {np.nanmax(np.abs(ours - theirs))}"


def joined(parts: list[Scores]) -> Scores:
    return Scores(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in vars(parts[0])})


COMMITTEE = {"columns_weight": 0.5, "kernel_weight": 0.75}
ALONE = {"columns_weight": 0.0, "kernel_weight": 0.0}


@pytest.fixture(scope="module")
def models() -> Trained:
    """For each width a model, fresh records, and their scores."""
    result = {}
    for width in WIDTHS:
        model = trained(mixed_table(300, width), **(COMMITTEE if width == 5 else ALONE))
        fresh = mixed_table(ROWS, width, seed=1)
        result[width] = (model, fresh, model.score(fresh))
    return result


@pytest.mark.parametrize("width", WIDTHS)
def test_shuffling_the_records_shuffles_their_scores_and_nothing_else(models: Trained, width: int) -> None:
    model, table, scores = models[width]
    order = np.random.default_rng(0).permutation(ROWS)
    assert_same_bits(model.score(table.take(pa.array(order))), scores, order)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("size", [23, 64, 299])
def test_the_batch_around_a_record_changes_no_bit_of_its_score(
    models: Trained, width: int, size: int
) -> None:
    model, table, scores = models[width]
    parts = [model.score(table.slice(first, size)) for first in range(0, ROWS, size)]
    assert_same_bits(joined(parts), scores)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_score_depends_on_its_record_alone(models: Trained, width: int) -> None:
    model, table, scores = models[width]
    rows = np.arange(0, ROWS, 37)
    assert_same_bits(joined([model.score(table.slice(row, 1)) for row in rows]), scores, rows)


@pytest.mark.parametrize(
    "shape",
    [
        {"hidden": (33, 20), "latent": 3},
        {"hidden": (7,), "latent": 1},
        {"members": 3, "draws": 6},
        {"preset": "lecture"},
    ],
    ids=str,
)
def test_odd_shapes_of_the_network_change_nothing_in_that(shape: dict[str, object]) -> None:
    model, table = trained(mixed_table(60, 6), steps=2, **shape), mixed_table(277, 6, seed=1)
    scores, order = model.score(table), np.random.default_rng(0).permutation(277)
    assert_same_bits(model.score(table.take(pa.array(order))), scores, order)
    assert_same_bits(model.score(table.slice(276)), scores, slice(276, 277))


@pytest.mark.parametrize("width", WIDTHS)
def test_two_threads_give_the_same_bits_as_one(models: Trained, width: int) -> None:
    model, table, scores = models[width]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert_same_bits(model.score(table), scores)
    finally:
        torch.set_num_threads(before)


def test_another_process_gives_the_same_bits(models: Trained, tmp_path: Path) -> None:
    for width, (model, table, _) in models.items():
        storage.save(model, tmp_path / f"model-{width}")
        pq.write_table(table, tmp_path / f"table-{width}.parquet")
    program = (
        "import sys, numpy as np, pyarrow.parquet as pq\n"
        "from pathlib import Path\n"
        "from vae_core import storage\n"
        "folder = Path(sys.argv[1])\n"
        "for width in sys.argv[2:]:\n"
        "    model = storage.load(folder / f'model-{width}')\n"
        "    scores = model.score(pq.read_table(folder / f'table-{width}.parquet'))\n"
        "    np.savez(folder / f'{width}.npz', **vars(scores))\n"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "2", "PYTHONHASHSEED": "5"}
    command = [sys.executable, "-c", program, str(tmp_path), *map(str, WIDTHS)]
    subprocess.run(command, check=True, env=environment, cwd=Path(__file__).parents[1])
    for width, (_, _, scores) in models.items():
        assert_same_bits(Scores(**np.load(tmp_path / f"{width}.npz")), scores)


@pytest.mark.parametrize("width", [5, 12])
def test_whole_numbers_may_arrive_as_int64_or_float64(models: Trained, width: int) -> None:
    model, table, scores = models[width]
    as_floats = table
    for name in table.column_names:
        if name.startswith("whole"):
            as_floats = changed(as_floats, name, pc.cast(table[name], pa.float64()))
    assert_same_bits(model.score(as_floats), scores)


def test_a_dictionary_encoded_category_scores_as_the_plain_one(models: Trained) -> None:
    model, table, scores = models[5]
    assert_same_bits(
        model.score(changed(table, "category_1", table["category_1"].dictionary_encode())), scores
    )


@pytest.mark.parametrize("width", WIDTHS)
def test_contributions_add_up_to_the_bound(models: Trained, width: int) -> None:
    model, table, scores = models[width]
    parts = model.evaluate(model.encoding.encode(table))
    np.testing.assert_allclose(parts.nats.sum(1) + parts.kl_nats, scores.bound, rtol=1e-12, atol=1e-10)
    np.testing.assert_array_equal(parts.scores.bound, scores.bound)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_elbo_is_reconstruction_less_kl_and_low_is_anomalous(models: Trained, width: int) -> None:
    _, _, scores = models[width]
    np.testing.assert_allclose(scores.elbo, scores.reconstruction - scores.kl, rtol=1e-14)
    np.testing.assert_array_equal(scores.anomaly_score, -scores.bound)
    assert (scores.kl > -1e-6).all()
    order = np.argsort(scores.anomaly_score)
    assert (np.diff(scores.p_value[order]) <= 0).all()


def test_with_members_the_bound_is_the_weighted_mean_of_theirs(models: Trained) -> None:
    model, table, scores = models[5]
    assert model.weights == {"vae": 1 / 2.25, "columns": 0.5 / 2.25, "kernel": 0.75 / 2.25}
    encoded = model.encoding.encode(table)
    columns, kernel = (
        model.companions[name].score(encoded.values, encoded.mask, quick=True) + encoded.fixed.sum(1)
        for name in ("columns", "kernel")
    )
    expected = (scores.elbo + 0.5 * columns + 0.75 * kernel) / 2.25
    np.testing.assert_allclose(scores.bound, expected, rtol=1e-12)
    only_vae = model.with_members(["vae"]).score(table)
    np.testing.assert_array_equal(only_vae.bound, scores.elbo)
    np.testing.assert_array_equal(only_vae.elbo, scores.elbo)


def test_the_number_of_missing_cells_is_told_and_a_missing_cell_has_no_contribution(models: Trained) -> None:
    model, table, scores = models[5]
    gone = np.array([table[name].is_null().to_numpy() for name in table.column_names]).T
    np.testing.assert_array_equal(scores.n_missing, gone.sum(1))
    # Missing was common in training (10 %) in every column but the first: there it does not count.
    parts = model.evaluate(model.encoding.encode(table))
    assert (parts.nats[:, 1:][gone[:, 1:]] == 0).all()
    assert (parts.nats[:, 1:][~gone[:, 1:]] != 0).all()


def test_a_column_times_1000_changes_no_elbo_and_no_rank() -> None:
    grams, fresh = mixed_table(500, 5), mixed_table(200, 5, seed=1)
    kilo = {
        name: pc.multiply(table["real_0"], 1000.0) for name, table in (("train", grams), ("score", fresh))
    }
    before = trained(grams).score(fresh)
    after = trained(changed(grams, "real_0", kilo["train"])).score(changed(fresh, "real_0", kilo["score"]))
    np.testing.assert_allclose(
        after.elbo, before.elbo, rtol=1e-3, atol=1e-3
    )  # float32 training on rounded inputs
    apart = np.abs(np.subtract.outer(before.elbo, before.elbo)) > 0.01
    order = np.sign(np.subtract.outer(before.elbo, before.elbo)) == np.sign(
        np.subtract.outer(after.elbo, after.elbo)
    )
    assert order[apart].all()


@pytest.mark.parametrize("unit", [1, 1000])
def test_a_missing_whole_number_gains_nothing_from_the_unit(unit: int) -> None:
    """A salary has a mass of about 1 in 50,000: where it is left out that must not decide the rank."""
    generator = np.random.default_rng(0)
    factor = generator.normal(size=(2, 800))
    salary = 50_000 + np.rint(20_000 * (factor[0] + 0.3 * factor[1])).astype(np.int64)
    gone = generator.random(800) < 0.2
    whole = pa.table({"age": factor[0], "salary": pa.array(salary * unit, mask=gone)})
    real = changed(whole, "salary", pa.array(salary.astype(np.float64), mask=gone))
    as_whole, as_real = trained(whole).score(whole), trained(real).score(real)
    np.testing.assert_allclose(as_whole.elbo, as_real.elbo, atol=1e-2)
    assert abs(as_whole.elbo[gone].mean() - as_whole.elbo[~gone].mean()) < 2


FAR = [1e3, 1e5, 1e6, 1e7, 1e9, 1e12, 1e20, 3.5e38, 1e50, 1e100, 1e200, 1e300, 1.7e308]


@pytest.mark.parametrize("width", [1, 5, 12])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_farther_out_is_never_less_anomalous_and_never_infinite(
    models: Trained, width: int, sign: float
) -> None:
    model, table, _ = models[width]
    # Every other real column far out too, one way or the other: the decoder may come to meet it.
    base = table.slice(0, 40)
    for place, name in enumerate(name for name in table.column_names if name.startswith("real")):
        others = [
            changed(base, other, np.full(40, distance))
            for other in base.column_names
            if other.startswith("real") and other != name
            for distance in (-60.0, 60.0)
        ]
        for records in [base, *others]:
            stacked = pa.concat_tables([changed(records, name, np.full(40, sign * far)) for far in FAR])
            scores = model.score(stacked).anomaly_score.reshape(len(FAR), 40)
            assert np.isfinite(scores).all()
            assert (np.diff(scores, axis=0) >= 0).all(), f"{name}: {np.diff(scores, axis=0).min()}"
        if place == 1:
            break


@pytest.mark.parametrize(
    "value", [0.0, -0.0, 5e-324, 1e-300, -1e-300, 1e-38, 3.4028235e38, -3.4028235e38, 2.0**63]
)
def test_no_finite_value_gives_a_score_that_is_not_finite(models: Trained, value: float) -> None:
    for width in (1, 5):
        model, table, _ = models[width]
        scores = model.score(changed(table.slice(0, 5), "real_0", np.full(5, value)))
        assert all(np.isfinite(getattr(scores, name)).all() for name in FIGURES)


@pytest.mark.parametrize("value", [2**31, -(2**63), 2**63 - 1])
def test_extreme_whole_numbers_are_finite_and_anomalous(models: Trained, value: int) -> None:
    model, table, scores = models[5]
    far = model.score(changed(table, "whole_2", pa.array([value] * ROWS)))
    assert np.isfinite(far.anomaly_score).all()
    assert far.anomaly_score.min() > scores.anomaly_score.max()


def test_an_unseen_category_costs_more_than_any_seen_one_and_is_counted(models: Trained) -> None:
    model, table, _ = models[5]
    by_category = {
        name: model.score(changed(table, "category_1", [name] * ROWS))
        for name in ("red", "green", "blue", "black", "mauve")
    }
    best_known = np.max([by_category[n].anomaly_score for n in ("red", "green", "blue", "black")], axis=0)
    assert (by_category["mauve"].anomaly_score > best_known - 1e-9).mean() > 0.95
    assert (by_category["mauve"].n_unseen == 1).all()
    assert (by_category["red"].n_unseen == 0).all()


@pytest.fixture(scope="module")
def lecture() -> tuple[FittedModel, pa.Table]:
    table = mixed_table(500, 5, missing=0.0)
    return trained(table, preset="lecture"), table


def test_under_the_lectures_preset_cells_outside_its_range_rank_first_and_are_counted(
    lecture: tuple[FittedModel, pa.Table],
) -> None:
    model, table = lecture
    highest = pc.max(table["real_0"]).as_py()
    values = table["real_0"].to_numpy().copy()
    values[10], values[20], values[30] = highest + 1e-3, 1e300, -1e300
    scores = model.score(changed(table, "real_0", values))
    assert set(np.argsort(-scores.anomaly_score)[:3]) == {10, 20, 30}
    assert scores.n_out_of_range[[10, 20, 30]].tolist() == [1, 1, 1]
    assert scores.n_out_of_range.sum() == 3
    assert np.isfinite(scores.anomaly_score).all()
    assert scores.anomaly_score[20] > scores.anomaly_score[10]


def test_under_the_lectures_preset_the_log_likelihood_is_a_sum_of_binary_cross_entropies(
    lecture: tuple[FittedModel, pa.Table],
) -> None:
    model, table = lecture
    assert model.vae.architecture.members == 2
    assert set(model.vae.architecture.likelihoods) == {"bernoulli"}
    scores = model.score(table)
    assert (scores.reconstruction <= 0).all()
    encoded = model.encoding.encode(table)
    assert encoded.values.min() == 0
    assert encoded.values.max() == 1


def test_a_narrow_column_far_out_of_range_is_refused_not_overflowed() -> None:
    generator = np.random.default_rng(0)
    table = pa.table({"narrow": 1e-9 * generator.normal(size=80), "wide": generator.normal(size=80)})
    model = trained(table, preset="lecture")
    far = model.score(changed(table.slice(0, 2), "narrow", [1.7e308, -1.7e308]))
    assert np.isfinite(far.anomaly_score).all()
    assert (far.anomaly_score > 1e9).all()


@pytest.mark.parametrize("draws", [1, 3, 8, 64])
def test_more_draws_change_the_estimate_by_about_its_stated_error(models: Trained, draws: int) -> None:
    model, table, scores = models[5]
    other = model.score(table, draws=draws)
    assert np.isfinite(other.elbo).all()
    if draws == 64:
        assert np.median(np.abs(other.elbo - scores.elbo) / scores.elbo_se) < 3
        assert np.median(other.elbo_se) < np.median(scores.elbo_se)
    if draws == 3:
        assert np.isnan(other.elbo_se).all()  # one block has no spread


def test_the_importance_bound_is_tighter_than_the_elbo_on_average() -> None:
    model, table = trained(mixed_table(400, 5), members=1), mixed_table(ROWS, 5, seed=1)
    bounds = [
        np.mean(
            [model.importance_bound(table, draws=draws, random_state=seed).mean() for seed in range(repeats)]
        )
        for draws, repeats in ((1, 60), (8, 15), (64, 4))  # all records of a batch share their noise
    ]
    assert bounds[0] == pytest.approx(model.score(table, draws=256).elbo.mean(), abs=0.1)
    assert bounds[0] < bounds[1] < bounds[2]


def test_the_bound_needs_both_q_and_p_and_generation_only_p(lecture: tuple[FittedModel, pa.Table]) -> None:
    model, table = lecture
    records, drawn = table.slice(0, 20), sample(model, 20)
    for networks, generates_the_same in (("encoder", True), ("decoder", False)):
        other = replace(model, vae=deepcopy(model.vae))
        with torch.no_grad():
            for name, parameter in other.vae.named_parameters():
                if name.startswith(networks):
                    parameter.mul_(0.5)
        assert (other.score(records).bound != model.score(records).bound).all()
        assert sample(other, 20).equals(drawn) == generates_the_same


def test_a_record_without_any_value_has_a_finite_score(models: Trained) -> None:
    for width in WIDTHS:
        model, table, _ = models[width]
        empty = pa.table({name: pa.nulls(3, table.schema.field(name).type) for name in table.column_names})
        scores = model.score(empty)
        assert np.isfinite(scores.anomaly_score).all()
        assert (scores.n_missing == width).all()


def test_no_records_give_no_scores(models: Trained) -> None:
    model, table, _ = models[5]
    assert len(model.score(table.slice(0, 0)).bound) == 0


def nudged(table: pa.Table, function: Callable[[np.ndarray], np.ndarray]) -> pa.Table:
    return changed(table, "real_0", function(table["real_0"].to_numpy()))


def test_a_tiny_change_of_a_value_changes_the_score_by_little(models: Trained) -> None:
    model, table, scores = models[5]
    moved = model.score(nudged(table, lambda x: x * (1 + 1e-12)))
    np.testing.assert_allclose(moved.bound, scores.bound, rtol=1e-4, atol=1e-4)
