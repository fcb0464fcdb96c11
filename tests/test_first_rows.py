"""The records kept for their reasons: the report is the one of a second reading, whatever happens to them."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.stand_in import make_dataset, make_job
from vae_core import first_rows, job, publishing, sources
from vae_core.first_rows import first_rows_file
from vae_core.report import REPORT, Decision

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
    read_units.clear()
    monkeypatch.setattr(first_rows, "SHARE", ALL)
    assert report_of(make_job(data, tmp_path / "all")) == again
    assert len(read_units) == units


@pytest.mark.parametrize("explained", [0, 10, 11])
def test_the_last_one_kept_is_told_about_without_another_reading_and_the_next_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_units: list[str], explained: int
) -> None:
    data = make_dataset(tmp_path, rows=320, files=1)
    given = {"rows_per_unit": 320, "explained": explained, "decision": Decision(top_k=0)}
    outcome = job.run(make_job(data, tmp_path / "kept", **given))
    assert len(read_units) == (2 if explained > 320 // first_rows.SHARE else 1)
    monkeypatch.setattr(first_rows, "SHARE", NONE)
    again = job.run(make_job(data, tmp_path / "none", **given))
    assert (outcome.folder / REPORT).read_bytes() == (again.folder / REPORT).read_bytes()
    assert (
        sum(why is not None for why in pq.read_table(again.folder / REPORT)["why"].to_pylist()) == explained
    )


def test_what_is_kept_is_what_was_read_and_a_flipped_byte_is_seen(tmp_path: Path) -> None:
    rows, path = 100, tmp_path / "unit.first.arrow"
    cells = np.random.default_rng(0).normal(size=(rows, 3))
    table = pa.table(
        {
            "x": pa.array(cells[:, 0], mask=cells[:, 1] > 1),
            "text": pa.array([f"é{i}" if i % 3 else None for i in range(rows)]),
            "source": pa.array(["a.csv", "b.csv"] * (rows // 2)).dictionary_encode(),
            "v": pa.FixedSizeListArray.from_arrays(pa.array(cells.ravel()), 3),
        }
    )
    table = pa.concat_tables([table.slice(0, 37), table.slice(37)])
    order = pa.chunked_array([np.random.default_rng(1).permutation(rows)])
    digest = first_rows.keep(table, order, path)
    assert digest is not None
    found = first_rows.kept(path, digest)
    assert found is not None
    assert found.equals(table.take(order.slice(0, 3)))
    content = path.read_bytes()
    for place in range(0, len(content), 97):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert first_rows.kept(path, digest) is None
    assert first_rows.keep(table.slice(0, first_rows.SHARE - 1), order, path) is None


def test_a_job_does_without_where_nothing_can_be_kept(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_units: list[str]
) -> None:
    again = report_of(make_job(data, tmp_path / "kept"))
    monkeypatch.setattr(first_rows, "SHARE", ALL)
    monkeypatch.setattr(first_rows.publishing, "commit", refusing(first_rows.publishing.commit))
    read_units.clear()
    assert report_of(make_job(data, tmp_path / "full")) == again
    assert len(set(read_units)) < len(read_units)


def refusing(commit: Callable[..., None]) -> Callable[..., None]:
    """`publishing.commit` on a disk that has no room for what is kept."""

    def instead(temporary: Path, final: Path, **how: bool) -> None:
        if final.name.endswith(".first.arrow"):
            raise OSError(errno.ENOSPC, "No space left on device")
        commit(temporary, final, **how)

    return instead


@pytest.mark.parametrize("damage", ["gone", "half", "of another unit", "an older release", "no note"])
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
    elif damage == "of another unit":
        files[0].write_bytes(files[1].read_bytes())
    elif damage == "no note":
        results = job.score(plan)
        scored[0].with_suffix(".json").write_text("")
        with publishing.nothing_left(plan.staging):
            job.publish(plan, job.rank(plan, results))
    else:
        note = scored[0].with_suffix(".json")
        lines = note.read_text().splitlines()
        note.write_text("\n".join(line for line in lines if '"first_rows"' not in line))
    assert report_of(one) == again
