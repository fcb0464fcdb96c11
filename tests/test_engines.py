"""Engines run every unit at least once, whatever happens to workers and parents."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from vae_core.engines import ENGINES, WorkerDied, get_ready, map_units, one_crew
from vae_core.errors import InputError


def square(number: int) -> int:
    return number * number


def refuse_three(number: int) -> int:
    if number == 3:
        raise InputError("three is not welcome", row=3)
    return number


def die_once(folder: Path, number: int) -> int:
    """The first worker that meets number 5 is killed, as by a kernel that is out of memory."""
    if number == 5 and not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def die_always(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def threads_of_torch(_: int) -> int:
    import torch

    return torch.get_num_threads()


@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "ray"])  # see test_ray.py
@pytest.mark.parametrize("workers", [1, 2])
def test_every_unit_is_done_and_reported_once(engine: str, workers: int) -> None:
    seen: list[int] = []
    results = list(map_units(range(50), square, engine=engine, workers=workers, on_done=seen.append))
    assert sorted(results) == [n * n for n in range(50)]
    assert seen == results


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_in_a_unit_reaches_the_caller_as_it_was_raised(workers: int) -> None:
    with pytest.raises(InputError, match="row 3: three is not welcome"):
        list(map_units(range(10), refuse_three, workers=workers))


def test_units_are_taken_only_as_workers_need_them() -> None:
    taken: list[int] = []
    results = map_units((taken.append(n) or n for n in range(1000)), square, workers=2)  # type: ignore[func-returns-value]
    next(results)
    assert len(taken) < 20
    results.close()  # type: ignore[attr-defined]


def test_a_killed_worker_costs_no_unit(tmp_path: Path) -> None:
    results = list(map_units(range(30), partial(die_once, tmp_path), workers=2))
    assert (tmp_path / "died").exists()
    assert sorted(results) == list(range(30))


def test_a_unit_that_always_kills_its_worker_ends_the_job() -> None:
    with pytest.raises(WorkerDied, match=r"killed 3 times.*the same command then goes on"):
        list(map_units(range(3), die_always, workers=2))


def whoever(_: int) -> int:
    time.sleep(0.05)
    return os.getpid()


def test_the_workers_of_one_crew_do_stage_after_stage_and_then_leave() -> None:
    with one_crew():
        first, second = (set(map_units(range(10), whoever, workers=2)) for _ in range(2))
    assert first & second and os.getpid() not in first | second
    assert _within(10, lambda: not any(_alive(pid) for pid in first))
    assert not first & set(map_units(range(10), whoever, workers=2))


def test_a_crew_that_lost_a_worker_between_stages_is_replaced() -> None:
    with one_crew():
        for pid in (first := set(map_units(range(10), whoever, workers=2))):
            os.kill(pid, signal.SIGKILL)
        assert not first & set(map_units(range(10), whoever, workers=2))


def test_a_pool_that_breaks_while_units_are_given_out_again_loses_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pools: list[ThreadPoolExecutor] = []

    class Breaking(ThreadPoolExecutor):
        """The first pool loses a worker at its third unit, the second one when its second is handed over."""

        def submit(self, *given: Any, **more: Any) -> Future[Any]:
            self.handed = getattr(self, "handed", 0) + 1
            if (pools.index(self) == 0 and self.handed == 3) or (pools.index(self) == 1 and self.handed == 2):
                raise BrokenProcessPool
            return super().submit(*given, **more)

    def pool(workers: int, **_: Any) -> Breaking:
        pools.append(Breaking(workers))
        return pools[-1]

    monkeypatch.setattr(sys.modules["vae_core.engines.local"], "_pool", pool)
    assert sorted(map_units(range(8), square, workers=2)) == [n * n for n in range(8)]
    assert len(pools) == 3


def test_after_an_error_the_crew_is_another_one() -> None:
    with one_crew():
        first = set(map_units(range(10), whoever, workers=2))
        with pytest.raises(InputError, match="three is not welcome"):
            list(map_units(range(10), refuse_three, workers=2))
        assert not first & set(map_units(range(10), whoever, workers=2))


def test_an_unknown_engine_is_named_with_those_that_exist() -> None:
    with pytest.raises(InputError, match=r'no engine "spark".*local'):
        list(map_units([1], square, engine="spark"))


def test_workers_share_the_cores() -> None:
    assert list(map_units([0], threads_of_torch, workers=2)) == [max(1, (os.cpu_count() or 1) // 2)]


def test_workers_die_with_a_killed_parent(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        textwrap.dedent(
            f"""
            import os, pathlib, time
            from vae_core.engines import map_units

            def linger(number):
                pathlib.Path({str(tmp_path)!r}, f"pid-{{os.getpid()}}").touch()
                time.sleep(120)

            if __name__ == "__main__":
                list(map_units(range(4), linger, workers=2))
            """
        )
    )
    parent = subprocess.Popen([sys.executable, str(tmp_path / "slow.py")])
    assert _within(60, lambda: len(list(tmp_path.glob("pid-*"))) == 2)
    parent.kill()
    parent.wait()
    workers = [int(path.name.removeprefix("pid-")) for path in tmp_path.glob("pid-*")]
    assert _within(20, lambda: not any(_alive(pid) for pid in workers))


def _within(seconds: float, condition) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def _alive(pid: int) -> bool:
    """Running, and not merely waiting for somebody to read its exit status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def setting(name: str) -> str | None:
    return os.environ.get(name)


def test_workers_see_the_environment_of_the_moment_however_long_their_server_has_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert list(map_units(["ELBORANK_SETTING"], setting, workers=2)) == [None]
    monkeypatch.setenv("ELBORANK_SETTING", "as it is now")
    get_ready("local", 2)
    assert list(map_units(["ELBORANK_SETTING"], setting, workers=2)) == ["as it is now"]
    monkeypatch.delenv("ELBORANK_SETTING")
    assert list(map_units(["ELBORANK_SETTING"], setting, workers=2)) == [None]


def already_imported(name: str) -> bool:
    return name in sys.modules


def test_a_worker_finds_imported_what_it_needs() -> None:
    assert list(map_units(["torch", "vae_core.storage"], already_imported, workers=2)) == [True, True]
