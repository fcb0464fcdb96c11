"""Ray gives what the local engine gives, to the last bit, whatever dies on the way: with a real Ray, once."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.stand_in import make_dataset, make_job
from tests.test_engines import die_always, die_once, refuse_three, square
from vae_core import job
from vae_core.engines import WorkerDied, map_units
from vae_core.engines.ray import _share_of_gpus, prepare
from vae_core.errors import InputError

prepare()
ray = pytest.importorskip("ray", reason="needs the extra: pip install 'elborank[ray]'")


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Two processors, for all tests of this file: Ray takes its time to start."""
    ray.init(
        "local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        object_store_memory=100 * 2**20,
    )  # fmt: skip
    yield
    ray.shutdown()


def test_every_unit_is_done_and_reported_once() -> None:
    seen: list[int] = []
    results = list(map_units(range(50), square, engine="ray", workers=2, on_done=seen.append))
    assert sorted(results) == [n * n for n in range(50)]
    assert seen == results


def test_a_report_made_on_ray_has_the_bytes_of_a_local_one(tmp_path: Path) -> None:
    data = make_dataset(tmp_path)
    folders = [
        job.run(make_job(data, tmp_path / engine), engine=engine, workers=workers).folder
        for engine, workers in (("local", 1), ("ray", 2))
    ]
    ours, theirs = ({p.name: p.read_bytes() for p in folder.iterdir()} for folder in folders)
    assert ours == theirs


def test_an_error_in_a_unit_reaches_the_caller_as_it_was_raised() -> None:
    with pytest.raises(InputError, match="row 3: three is not welcome"):
        list(map_units(range(10), refuse_three, engine="ray", workers=2))


def test_a_killed_actor_costs_no_unit(tmp_path: Path) -> None:
    results = list(map_units(range(20), partial(die_once, tmp_path), engine="ray", workers=2))
    assert (tmp_path / "died").exists()
    assert sorted(results) == list(range(20))


def test_a_unit_that_always_kills_its_actor_ends_the_job_and_is_named() -> None:
    with pytest.raises(WorkerDied, match=r"killed 3 times in unit 7.*the same command then goes on"):
        list(map_units([7], die_always, engine="ray", workers=1))


def test_a_reader_that_stops_early_leaves_no_actor_behind() -> None:
    results = map_units(range(1000), square, engine="ray", workers=2)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert sorted(map_units(range(3), square, engine="ray", workers=2)) == [0, 1, 4]  # there is room


def test_actors_share_the_gpus_of_the_cluster_and_need_some() -> None:
    with pytest.raises(InputError, match=r"the Ray cluster has no GPU.*Say --device cpu"):
        list(map_units(range(3), square, engine="ray", workers=1, gpu=True))


@pytest.mark.parametrize(("gpus", "workers", "share"), [(4, 2, 1), (4, 4, 1), (1, 3, 1 / 3), (2, 5, 1 / 3)])
def test_so_many_actors_fit_the_gpus(gpus: int, workers: int, share: float) -> None:
    cluster = SimpleNamespace(cluster_resources=lambda: {"CPU": 8.0, "GPU": float(gpus)})
    assert _share_of_gpus(cluster, workers) == share
    assert gpus * int(1 / share + 1e-9) >= workers
