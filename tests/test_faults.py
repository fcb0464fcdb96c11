"""The short tier of the faults: `make faults` runs all of them (tests/faults)."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.io_calls import failing
from tests.faults.matrix import SHORT
from tests.faults.overlap import overlapping
from tests.faults.points import POINTS
from tests.stand_in import make_dataset, make_job
from vae_core import job, publishing
from vae_core.errors import InputError

Contents = dict[str, bytes]
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"), rows=200, files=1)


def visible(output: Path) -> Contents:
    """The files of all visible folders, each of them a whole report."""
    found: Contents = {}
    for folder in output.glob("*/*"):
        if not folder.name.startswith("."):
            publishing.verify(folder)
            found |= {f"{folder.name}/{p.name}": p.read_bytes() for p in folder.iterdir()}
    return found


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_whichever_io_call_of_publishing_fails_the_same_run_ends_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    job.run(make_job(data, tmp_path / "reference"))
    reference = visible(tmp_path / "reference")
    publish = publishing.publish
    number, failed = 0, Counter[str]()
    while True:
        number += 1
        output = tmp_path / str(number)
        seen: list[str] = []

        def spoilt(*arguments, _number: int = number, _seen: list[str] = seen, **options):  # type: ignore[no-untyped-def]
            with failing(_number, error) as counter:
                try:
                    return publish(*arguments, **options)
                finally:
                    _seen.append(counter.failed)

        monkeypatch.setattr(publishing, "publish", spoilt)
        try:
            job.run(make_job(data, output))
        except (OSError, InputError):
            assert seen[0]
        monkeypatch.setattr(publishing, "publish", publish)
        assert visible(output) in ({}, reference)
        job.run(make_job(data, output))
        assert visible(output) == reference
        assert not [p for p in output.glob("*/.*") if not p.name.startswith(".staging")]
        failed[seen[0]] += 1
        if not seen[0]:
            break  # a clean pass
    assert number > 20 and failed["fsync"] >= 5 and failed["rename"] == 1, failed


def test_there_are_steps_of_every_flow() -> None:
    flows = Counter(point.flow for point in POINTS)
    assert set(flows) == {"ingest", "train", "score", "generate"} and len(POINTS) >= 25
    assert len({str(point) for point in POINTS}) == len(POINTS)


def test_eight_overlapping_runs_give_one_report(data: Path, tmp_path: Path) -> None:
    outcomes = overlapping(data, tmp_path)
    assert sorted(outcome.fresh for outcome in outcomes) == [False] * 7 + [True]
    assert len({outcome.folder for outcome in outcomes}) == 1
    assert len({name.split("/")[0] for name in visible(tmp_path)}) == 1
    assert not list(tmp_path.glob("*/.*"))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="cases run in forks")
def test_a_step_of_each_flow_meets_a_fault_and_the_same_command_ends_the_work() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.matrix", "--short"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (
        "\n".join(line for line in done.stdout.splitlines() if "WRONG" in line) + done.stderr
    )
    assert f"{len(SHORT)} cases over {len(POINTS)} steps, 0 wrong" in done.stdout
