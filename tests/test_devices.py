"""The processor or a GPU: who gets which, and that a GPU says the same of every record, again and again."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy.stats import spearmanr

from flows import choices, steps
from tests.test_images import DIGITS, fitted
from tests.toy_tables import changed, mixed_table, trained
from vae_core import devices, generation, job, publishing, sources, storage
from vae_core.engines import map_units
from vae_core.errors import InputError
from vae_core.images.encoding import as_table
from vae_core.scores import Scores
from vae_core.scoring import FittedModel
from vae_core.training import Settings, fit

needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
without_a_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
FIGURES = ("anomaly_score", "bound", "elbo", "reconstruction", "kl", "elbo_se", "p_value", "by_block")


@pytest.fixture(scope="module")
def model() -> FittedModel:
    return trained(mixed_table(1500, 12), steps=100, device="cpu")


@pytest.fixture(scope="module")
def stored(model: FittedModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A dataset of five units or so, and the model's folder."""
    folder = tmp_path_factory.mktemp("stored")
    pq.write_table(mixed_table(4000, 12, seed=5), folder / "new.parquet")
    storage.save(model, folder / "model")
    return sources.ingest(folder / "new.parquet", folder / "store").folder, folder / "model"


# ----------------------------------------------------------------------------------- on any machine


@without_a_gpu
def test_without_a_gpu_auto_is_the_processor_and_cuda_is_refused_in_one_line() -> None:
    assert devices.device("auto") == torch.device("cpu")
    with pytest.raises(InputError, match=r'device "cuda": there is no GPU.*Say "auto" or "cpu"'):
        devices.device("cuda")


@pytest.mark.parametrize("name", ["moon", "", "cuda:1", "mps"])
def test_a_job_is_on_a_device_of_known_kind(name: str) -> None:
    with pytest.raises(InputError, match=r"there is no device .* Say auto, cpu or cuda"):
        devices.kind(name)


@pytest.mark.parametrize(("number", "expected"), [(None, 0), ("1", 1), ("3", 1)])
def test_processes_of_one_machine_share_out_its_gpus(
    monkeypatch: pytest.MonkeyPatch, number: str | None, expected: int
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if number is None:
        monkeypatch.delenv("LOCAL_RANK", raising=False)
    else:
        monkeypatch.setenv("LOCAL_RANK", number)
    assert devices.device("auto") == devices.device("cuda") == torch.device("cuda", expected)
    assert devices.device("cuda:0") == torch.device("cuda", 0)
    for name in ("cuda:2", "mps", "meta", "moon"):
        with pytest.raises(InputError):
            devices.device(name)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert devices.for_training("auto", devices.ENOUGH).type == "cpu"
    with pytest.raises(InputError, match=r"4 processes cannot train together on 2 GPU\(s\).*Launch 2"):
        devices.for_training("cuda", devices.ENOUGH)
    assert devices.kind("auto") == "cuda"  # scoring inside of a launched process trains nothing


@pytest.mark.parametrize("device", ["auto", "moon"])
def test_a_cluster_is_asked_for_a_device_by_its_name(device: str) -> None:
    choices.check_device("cuda", "ray")  # there may be one there
    with pytest.raises(InputError, match=r"Say cuda, or cpu|Say auto, cpu or cuda"):
        choices.check_device(device, "ray")


def test_a_training_of_small_steps_is_left_to_the_processor_unless_it_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    small, large = devices.ENOUGH - 1, devices.ENOUGH
    chosen = [devices.for_training(*asked).type for asked in (("auto", small), ("auto", large))]
    assert chosen == ["cpu", "cuda"]
    assert devices.for_training("cuda", small).type == "cuda"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert steps._settings({}).device == "auto"
    with pytest.raises(InputError, match="2 processes cannot train together on 1 GPU"):
        steps._settings({"device": "cuda"})
    assert devices.for_training("cpu", large).type == "cpu"


def test_in_exact_the_convolutions_of_a_gpu_are_neither_rounded_nor_chosen_anew() -> None:
    flags = torch.backends.cudnn
    before = flags.allow_tf32, flags.deterministic, torch.backends.cuda.matmul.allow_tf32
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        with devices.exact():
            assert (flags.allow_tf32, flags.deterministic, flags.benchmark) == (False, True, False)
            assert not torch.backends.cuda.matmul.allow_tf32
        with pytest.raises(InputError, match=r"the GPU's memory is full.*fewer workers"), devices.exact():
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    assert before == (flags.allow_tf32, flags.deterministic, torch.backends.cuda.matmul.allow_tf32)


def number_of_the_worker(_: int) -> str | None:
    import time

    time.sleep(0.05)  # so that each worker gets some
    return os.environ.get("LOCAL_RANK")


@pytest.mark.parametrize(("gpu", "expected"), [(True, {"0", "1"}), (False, {None})])
def test_workers_that_score_on_gpus_are_numbered(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, expected: set[str | None]
) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert set(map_units(range(20), number_of_the_worker, workers=2, gpu=gpu)) == expected


def test_moved_to_where_it_is_a_model_gives_the_same_bits(model: FittedModel) -> None:
    table = mixed_table(300, 12, seed=1)
    same_bits(model.on("cpu").score(table), model.score(table))


def test_a_report_from_a_gpu_is_another_report_and_auto_without_one_is_the_processors(
    stored: tuple[Path, Path], tmp_path: Path
) -> None:
    plans = {name: job.prepare(job.Job(*stored, tmp_path, device=name)) for name in ("cpu", "cuda", "auto")}
    assert plans["cuda"].run != plans["cpu"].run
    assert plans["auto"].run == plans["cuda" if torch.cuda.is_available() else "cpu"].run
    assert "device" not in plans["cpu"].inputs  # the reports of earlier releases keep their identity


# ----------------------------------------------------------------------------------------- on a GPU


def same_bits(some: Scores, other: Scores, chosen: slice = slice(None)) -> None:
    for name in FIGURES:
        np.testing.assert_array_equal(getattr(some, name), getattr(other, name)[chosen], err_msg=name)


def like(some: Scores, other: Scores) -> None:
    """The same but for rounding: single precision has 1e-7 of a term, a bound sums some dozens of them."""
    for name in ("bound", "elbo", "kl"):
        np.testing.assert_allclose(getattr(some, name), getattr(other, name), rtol=1e-5, atol=1e-4)
    assert spearmanr(some.anomaly_score, other.anomaly_score)[0] > 1 - 1e-7


@pytest.mark.cuda
@needs_a_gpu
def test_a_gpu_gives_each_record_the_processors_score_but_for_rounding(model: FittedModel) -> None:
    table = mixed_table(20_000, 12, seed=2)
    far = changed(table.slice(0, 50), "real_0", np.logspace(1, 300, 50))
    moved = model.on("cuda")
    assert moved.device.type == "cuda"
    like(moved.score(table), model.score(table))
    np.testing.assert_allclose(moved.score(far).bound, model.score(far).bound, rtol=1e-4)


@pytest.mark.cuda
@needs_a_gpu
def test_on_a_gpu_a_score_repeats_to_the_bit_and_hangs_on_its_record_alone(model: FittedModel) -> None:
    table, moved = mixed_table(20_000, 12, seed=3), model.on("cuda")
    whole = moved.score(table)
    same_bits(moved.score(table), whole)
    same_bits(model.on("cuda").score(table.slice(777, 100)), whole, slice(777, 877))


@pytest.mark.cuda
@needs_a_gpu
def test_reasons_of_a_gpu_sum_to_its_bounds(model: FittedModel) -> None:
    encoded, moved = model.encoding.encode(mixed_table(500, 12, seed=4)), model.on("cuda")
    parts = moved.evaluate(encoded)
    total = parts.nats.sum(1) + parts.kl_nats + parts.tilt_nats
    np.testing.assert_allclose(total, parts.scores.bound, rtol=1e-7)
    for ours, theirs in zip(moved.moments(encoded), model.moments(encoded), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(moved.codes(encoded), model.codes(encoded), atol=1e-4)


@pytest.mark.cuda
@needs_a_gpu
def test_what_is_kept_and_generated_does_not_hang_on_where_the_model_is(
    model: FittedModel, tmp_path: Path
) -> None:
    moved = model.on("cuda")
    manifests = [storage.save(one, tmp_path / name) for one, name in ((model, "a"), (moved, "b"))]
    assert manifests[0] == manifests[1]
    assert generation.sample(moved, 50).equals(generation.sample(model, 50))


@pytest.mark.cuda
@needs_a_gpu
@pytest.mark.parametrize("lecture", [False, True])
def test_a_gpu_scores_images_as_the_processor_does(lecture: bool) -> None:
    options = {"preset": "lecture"} if lecture else {}
    model = fitted(DIGITS[:1000], steps=60, device="cpu", **options)
    table, moved = as_table(DIGITS[1000:]), model.on("cuda")
    scores = moved.score(table)
    like(scores, model.score(table))
    same_bits(moved.score(table), scores)
    same_bits(moved.score(table.slice(100, 9)), scores, slice(100, 109))
    encoded = model.encoding.encode(table)
    terms, kl = moved.pixel_terms(encoded)
    np.testing.assert_allclose(terms.sum(1) - kl, moved.evaluate(encoded).scores.elbo, rtol=1e-6)


@pytest.mark.cuda
@needs_a_gpu
def test_one_worker_on_a_gpu_and_several_publish_the_same_bytes(
    stored: tuple[Path, Path], tmp_path: Path
) -> None:
    reports = []
    for workers in (1, 3):
        what = job.Job(*stored, tmp_path / str(workers), device="cuda", rows_per_unit=900)
        outcome = job.run(what, workers=workers)
        assert outcome.manifest["settings"]["device"] == "cuda"
        reports.append(outcome.folder)
    for path in reports[0].iterdir():
        assert path.read_bytes() == (reports[1] / path.name).read_bytes(), path.name
    there = job.run(job.Job(*stored, tmp_path / "1", device="auto"))
    assert not there.fresh  # publishing.run_hash does not know how a dataset was cut
    ranked = pq.read_table(job.run(job.Job(*stored, tmp_path / "cpu")).folder / "report.parquet")
    ours = pq.read_table(reports[0] / "report.parquet")
    assert ours["record_id"][:20] == ranked["record_id"][:20]
    np.testing.assert_allclose(ours["bound"].to_numpy(), ranked["bound"].to_numpy(), rtol=1e-4, atol=1e-3)
    assert publishing.read_manifest(reports[0])["counts"]["ranked"] == 4000


@pytest.mark.cuda
@needs_a_gpu
def test_a_training_on_a_gpu_repeats_to_the_bit() -> None:
    table = mixed_table(400, 8)
    first, again = (
        fit(lambda: iter(table.to_batches()), settings=Settings(steps=40, device="cuda")) for _ in range(2)
    )
    for name, tensor in first.vae.state_dict().items():
        assert tensor.device.type == "cpu"
        assert torch.equal(tensor, again.vae.state_dict()[name]), name
