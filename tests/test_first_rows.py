"""The records kept for their reasons: the report is the one of a second reading, whatever happens to them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stand_in import make_dataset, make_job
from vae_core import first_rows, job, sources
from vae_core.first_rows import first_rows_file

NONE, ALL = 1 << 30, 1  # one record in so many is kept


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"), rows=1500, files=3)


@pytest.fixture
def read_units(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The units that are read, one entry for each reading."""
    seen: list[str] = []
    read = sources.read

    def reading(dataset: sources.Dataset, unit: sources.Unit, *more: object) -> object:
        seen.append(unit.id)
        return read(dataset, unit, *more)

    monkeypatch.setattr(sources, "read", reading)
    return seen


def report_of(one: job.Job) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(job.run(one).folder.iterdir())}


def test_the_report_hangs_not_on_how_many_are_kept_and_kept_ones_are_not_read_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_units: list[str]
) -> None:
    monkeypatch.setattr(first_rows, "SHARE", NONE)
    again = report_of(make_job(data, tmp_path / "none"))
    units = len(set(read_units))
    assert units < len(read_units) <= 2 * units
    for share, most in ((ALL, units), (16, 2 * units)):
        read_units.clear()
        monkeypatch.setattr(first_rows, "SHARE", share)
        assert report_of(make_job(data, tmp_path / str(share))) == again
        assert units <= len(read_units) <= most


@pytest.mark.parametrize("damage", ["gone", "half", "a bit", "of another unit", "an older release"])
def test_what_is_not_what_was_kept_is_read_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setattr(first_rows, "SHARE", NONE)
    again = report_of(make_job(data, tmp_path / "none"))
    monkeypatch.setattr(first_rows, "SHARE", ALL)
    plan = job.prepare(one := make_job(data, tmp_path / "damaged"))
    job.score(plan)
    scored = [job.scored_file(plan.staging, unit.id) for unit in plan.units]
    files = [first_rows_file(path) for path in scored]
    if damage == "gone":
        files[0].unlink()
    elif damage == "half":
        files[0].write_bytes(files[0].read_bytes()[:-700])
    elif damage == "a bit":
        content = bytearray(files[0].read_bytes())
        content[len(content) // 2] ^= 4
        files[0].write_bytes(content)
    elif damage == "of another unit":
        files[0].write_bytes(files[1].read_bytes())
    else:
        note = scored[0].with_suffix(".json")
        lines = note.read_text().splitlines()
        note.write_text("\n".join(line for line in lines if '"first_rows"' not in line))
    assert report_of(one) == again
