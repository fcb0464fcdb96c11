"""The short tier of the faults: `make faults` runs all of them (tests/faults)."""

from __future__ import annotations

import errno
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.io_calls import failing
from tests.faults.overlap import overlapping
from tests.faults.points import POINTS
from tests.stand_in import make_dataset, make_job
from vae_core import job, publishing
from vae_core.errors import InputError

Contents = dict[str, bytes]


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
