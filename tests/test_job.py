"""A job ends in one whole report or in none, whatever happens to the run, the disk, or a second run."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from tests.stand_in import StandIn, make_dataset, make_job
from vae_core import job, report
from vae_core.errors import InputError, Refused
from vae_core.report import Decision
from vae_core.work import UnitResult

Contents = dict[str, bytes]  # of a folder, by file name
JANUARY = datetime(2013, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"), rows=1500, files=3)


@pytest.fixture(scope="module")
def reference(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Contents:
    """The files of an undisturbed run."""
    return contents(job.run(make_job(data, tmp_path_factory.mktemp("reference"))).folder)


def contents(folder: Path) -> Contents:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def visible(output: Path) -> list[str]:
    """What a user sees: everything that is not hidden."""
    return sorted(path.name for path in output.glob("*/*") if not path.name.startswith("."))


def hidden(output: Path) -> list[str]:
    return sorted(path.name for path in output.glob("*/.*"))


def start(data: Path, output: Path, *settings: str, **more: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.stand_in", str(data), str(output), *settings]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)  # type: ignore[call-overload]


def until(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


# ------------------------------------------------------------------------------- runs and kills


def test_a_second_run_publishes_nothing(data: Path, tmp_path: Path, reference: Contents) -> None:
    first, second = (job.run(make_job(data, tmp_path)) for _ in range(2))
    assert (first.fresh, second.fresh) == (True, False)
    assert first.folder == second.folder
    assert contents(second.folder) == reference
    assert hidden(tmp_path) == []


def test_a_run_killed_at_random_moments_leaves_no_half_report_and_the_next_one_ends_it(
    data: Path, tmp_path: Path, reference: Contents
) -> None:
    generator, kills = np.random.default_rng(5), 0
    for workers in ("1", "2"):
        output = tmp_path / workers
        for _ in range(6):
            process = start(data, output, f"workers={workers}", "rows_per_unit=60", "pause=0.03")
            until(lambda output=output, process=process: hidden(output) or process.poll() is not None)
            time.sleep(generator.uniform(0, 0.8))
            process.kill()
            kills += process.wait() == -signal.SIGKILL
            process.communicate()
            if seen := visible(output):
                assert report.verify(output / "numbers" / seen[0])
                break
        process = start(data, output, f"workers={workers}", "rows_per_unit=60")
        assert process.communicate()[1] == ""
        assert process.returncode == 0
        assert len(visible(output)) == 1
        outcome = job.run(make_job(data, output, pause=0.03))
        assert not outcome.fresh
        assert contents(outcome.folder) == reference
        assert hidden(output) == []
    assert kills > 4


def test_finished_units_are_taken_up_and_damaged_or_foreign_ones_done_again(
    data: Path, tmp_path: Path, reference: Contents
) -> None:
    plan = job.prepare(one := make_job(data, tmp_path))
    results = job.score(plan)
    assert len(results) == len(plan.units) > 4
    files = [job.scored_file(plan.staging, unit.id) for unit in plan.units]
    files[0].write_bytes(files[0].read_bytes()[:-100])
    damaged = bytearray(files[1].read_bytes())
    damaged[300] ^= 4
    files[1].write_bytes(damaged)
    files[2].unlink()
    files[3].with_suffix(".json").write_text("")  # as a power cut may leave it
    files[4].with_name("unit-x.parquet.tmp-1").write_bytes(b"half")
    seen: list[UnitResult] = []
    outcome = job.run(one, on_done=seen.append)
    assert [result.taken_up for result in seen] == [False] * 4 + [True] * (len(seen) - 4)
    assert contents(outcome.folder) == reference
    other_cut = make_job(data, tmp_path / "other")
    job.score(job.prepare(other_cut))
    seen.clear()
    outcome = job.run(make_job(data, tmp_path / "other", rows_per_unit=299), on_done=seen.append)
    assert not any(result.taken_up for result in seen)
    assert contents(outcome.folder) == reference


def test_two_runs_of_one_job_at_once_publish_one_report(
    data: Path, tmp_path: Path, reference: Contents
) -> None:
    processes = [start(data, tmp_path, "rows_per_unit=100", "pause=0.05") for _ in range(3)]
    printed = []
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert (process.returncode, err) == (0, "")
        printed.append(out.split(" numbers")[0].rsplit(" ", 1)[0])
    assert sorted(printed) == ["nothing to do", "nothing to do", "published"]
    assert contents(tmp_path / "numbers" / visible(tmp_path)[0]) == reference
    assert hidden(tmp_path) == []


def test_two_jobs_for_one_interval_at_once_publish_one_and_refuse_the_other(
    data: Path, tmp_path: Path
) -> None:
    processes = [start(data, tmp_path, "as_of=1", f"top_k={k}", "pause=0.2") for k in (5, 6)]
    outcomes = [process.communicate(timeout=120) for process in processes]
    assert sorted(process.returncode for process in processes) == [0, 1]
    assert sum("Refused" in err for _, err in outcomes) == 1
    assert visible(tmp_path) == ["as_of=20130101T000000Z"]
    assert report.verify(tmp_path / "numbers" / "as_of=20130101T000000Z")


def no_model(folder: Path, digest: str) -> StandIn:
    raise InputError("is no model", file=folder)


@dataclass
class StopsAtTheSecondUnit(StandIn):
    units: int = 0

    def score(self, table: pa.Table) -> SimpleNamespace:
        self.units += 1
        if self.units == 2:
            raise InputError("cannot be scored")
        return super().score(table)


def test_a_run_that_finished_nothing_leaves_nothing_and_finished_units_are_kept(
    data: Path, tmp_path: Path
) -> None:
    job.run(make_job(data, tmp_path, as_of=JANUARY))
    with pytest.raises(InputError, match="is no model"):
        job.run(make_job(data, tmp_path, load=no_model))
    with pytest.raises(Refused):
        job.run(make_job(data, tmp_path, as_of=JANUARY, load=no_model, decision=Decision(top_k=3)))
    assert hidden(tmp_path) == []
    with pytest.raises(InputError, match="cannot be scored"):
        job.run(make_job(data, tmp_path, load=lambda *_: StopsAtTheSecondUnit()))
    (staging,) = hidden(tmp_path)
    seen: list[UnitResult] = []
    job.run(make_job(data, tmp_path), on_done=seen.append)
    assert staging.startswith(".staging-") and hidden(tmp_path) == []
    assert [result.taken_up for result in seen] == [True] + [False] * (len(seen) - 1)


def test_records_that_got_lost_stop_the_publishing(data: Path, tmp_path: Path) -> None:
    plan = job.prepare(make_job(data, tmp_path))
    results = job.score(plan)
    with pytest.raises(
        RuntimeError, match="1500 records were to be ranked, 1200 were scored and 1500 ranked"
    ):
        job.rank(plan, results[1:])
    assert visible(tmp_path) == []


# ------------------------------------------------------------------------------- disks


def mounted(folder: Path, size: str) -> bool:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        return subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("size", ["24k", "60k", "120k", "200k", "260k"])
def test_a_full_disk_is_said_plainly_and_the_same_run_goes_on_when_there_is_space(
    size: str, data: Path, tmp_path: Path, reference: Contents
) -> None:
    output = tmp_path / "disk"
    if not mounted(output, size):
        pytest.skip("mounting a small file system needs root")
    try:
        with pytest.raises(
            InputError, match=r"the disk is full\. Free some space; the same command then goes on"
        ):
            job.run(make_job(data, output))
        assert visible(output) == []
        subprocess.run(["mount", "-o", "remount,size=8m", str(output)], check=True)
        outcome = job.run(make_job(data, output))
        assert contents(outcome.folder) == reference
    finally:
        subprocess.run(["umount", str(output)], check=True)


def test_a_file_that_may_not_grow_leaves_nothing_visible(
    data: Path, tmp_path: Path, reference: Contents
) -> None:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))

    process = start(data, tmp_path, preexec_fn=small_files)
    assert "InputError" in process.communicate()[1]
    assert process.returncode == 1
    assert visible(tmp_path) == []
    assert contents(job.run(make_job(data, tmp_path)).folder) == reference


def test_an_output_that_cannot_be_written_is_named(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="not a folder"):
        job.run(make_job(data, tmp_path / "file"))


def test_a_read_only_disk_is_named(data: Path, tmp_path: Path) -> None:
    if not mounted(disk := tmp_path / "disk", "1m"):
        pytest.skip("mounting a small file system needs root")
    try:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(
            InputError, match=r"disk/numbers: lies on a read-only disk\. Choose another --output"
        ):
            job.run(make_job(data, disk))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# ------------------------------------------------------------------------------- published reports


def test_replacing_goes_through_the_whole_job(data: Path, tmp_path: Path) -> None:
    first = job.run(make_job(data, tmp_path, as_of=JANUARY))
    other = make_job(data, tmp_path, as_of=JANUARY, decision=Decision(top_k=3))
    with pytest.raises(Refused):
        job.run(other)
    second = job.run(other, replace=True)
    assert second.fresh
    assert second.folder != first.folder
    assert report.read_report(first.folder).manifest["decision"] == {"top_k": 3}
    assert not job.run(other).fresh
    assert hidden(tmp_path) == []


def test_a_changed_report_is_not_read(data: Path, tmp_path: Path) -> None:
    folder = job.run(make_job(data, tmp_path)).folder
    for name in ("report.parquet", "quarantine.parquet", "_manifest.json"):
        whole = (folder / name).read_bytes()
        for spoiled in (whole[:-2], whole[:50] + bytes([whole[50] ^ 1]) + whole[51:]):
            (folder / name).write_bytes(spoiled)
            with pytest.raises(InputError, match=f"{name}: was changed or damaged"):
                report.top(folder)
            with pytest.raises(InputError, match="was changed or damaged"):
                job.run(make_job(data, tmp_path))
        (folder / name).write_bytes(whole)
    assert report.verify(folder)["counts"]["ranked"] == 1500
    (folder / "quarantine.parquet").unlink()
    with pytest.raises(InputError, match=r"quarantine.parquet: is missing"):
        report.verify(folder)


def test_a_path_without_a_report_says_which_reports_there_are(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a published report"):
        report.read_report(tmp_path / "nowhere")
    name = job.run(make_job(data, tmp_path)).folder.name
    with pytest.raises(InputError, match=f"Name one of the reports in it: {name}"):
        report.read_report(tmp_path / "numbers")
