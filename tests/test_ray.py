"""Ray gives what the local engine gives, to the last bit, whatever dies on the way: with a real Ray, once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.stand_in import make_dataset, make_job
from tests.test_engines import die_always, die_once, refuse_three, square, whoever
from vae_core import job
from vae_core.engines import WorkerDied, map_units, one_crew
from vae_core.engines.ray import _share_of_gpus, prepare
from vae_core.errors import InputError
from vae_core.report import REPORT

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


def test_the_actors_of_one_crew_do_stage_after_stage_and_then_leave() -> None:
    with one_crew():
        first = set(map_units(range(20), whoever, engine="ray", workers=2))
        second = set(map_units(range(20), whoever, engine="ray", workers=2))
    assert first & second and os.getpid() not in first | second
    assert not first & set(map_units(range(20), whoever, engine="ray", workers=2))


def test_actors_that_are_lost_between_stages_are_replaced_and_cost_no_unit() -> None:
    with one_crew():
        first = set(map_units(range(20), whoever, engine="ray", workers=2))
        for pid in first:
            os.kill(pid, signal.SIGKILL)
        assert sorted(map_units(range(20), square, engine="ray", workers=2)) == [n * n for n in range(20)]
        assert not first & set(map_units(range(20), whoever, engine="ray", workers=2))


def test_after_an_error_the_next_stage_has_other_actors() -> None:
    with one_crew():
        with pytest.raises(InputError, match="three is not welcome"):
            list(map_units(range(10), refuse_three, engine="ray", workers=2))
        assert sorted(map_units(range(3), square, engine="ray", workers=2)) == [0, 1, 4]


OWN_CLUSTER = """
import sys
from pathlib import Path
from tests.stand_in import make_job
from vae_core import engines, job
from vae_core.engines.ray import prepare

prepare()
import ray

started, ray_init = [], ray.init
ray.init = lambda *given, **named: (started.append(1), ray_init(*given, **named))
print(job.run(make_job(Path(sys.argv[1]), Path(sys.argv[2])), engine="ray", workers=2).folder)
assert len(started) == 1 and not ray.is_initialized(), started
"""


def test_a_jobs_own_cluster_is_started_once_and_ends_with_it(tmp_path: Path) -> None:
    data = make_dataset(tmp_path, rows=600)
    hidden = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-c", OWN_CLUSTER, str(data), str(tmp_path / "ray")]
    done = subprocess.run(command, env=hidden, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    here = job.run(make_job(data, tmp_path / "local")).folder
    assert (Path(done.stdout.strip()) / REPORT).read_bytes() == (here / REPORT).read_bytes()


def test_actors_share_the_gpus_of_the_cluster_and_need_some() -> None:
    with pytest.raises(InputError, match=r"the Ray cluster has no GPU.*Say --device cpu"):
        list(map_units(range(3), square, engine="ray", workers=1, gpu=True))


@pytest.mark.parametrize(("gpus", "workers", "share"), [(4, 2, 1), (4, 4, 1), (1, 3, 1 / 3), (2, 5, 1 / 3)])
def test_so_many_actors_fit_the_gpus(gpus: int, workers: int, share: float) -> None:
    cluster = SimpleNamespace(cluster_resources=lambda: {"CPU": 8.0, "GPU": float(gpus)})
    assert _share_of_gpus(cluster, workers) == share
    assert gpus * int(1 / share + 1e-9) >= workers
