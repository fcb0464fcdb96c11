"""A record is found by its key, and by what is shown of the key."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.cli import main
from flows.terminal.text import to_paste
from tests.stand_in import make_dataset, make_job
from vae_core import job, report, sources
from vae_core.errors import InputError, one_line


@pytest.fixture(scope="module")
def some(tmp_path_factory: pytest.TempPathFactory) -> report.Report:
    place = tmp_path_factory.mktemp("some")
    return report.read_report(job.run(make_job(make_dataset(place, rows=50), place / "out")).folder)


def test_every_id_is_found_by_what_is_shown_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = ["line1\nline2", "\x1b[2J", "-2+3", "--help"]
    frame = pd.DataFrame({"key": ids, "x": np.linspace(1, 2, len(ids))})
    frame.to_parquet(tmp_path / "strange.parquet", index=False)
    data = sources.ingest(tmp_path / "strange.parquet", tmp_path / "store", name="numbers", ids=["key"])
    folder = job.run(make_job(data.folder, tmp_path / "out")).folder
    for key in ids:
        assert report.find(folder, key) == report.find(folder, one_line(key))
        assert report.find(folder, key)[0]["record_id"] == key
        assert main(shlex.split(to_paste("explain", str(folder), key))[1:]) == 0
        assert one_line(key) in capsys.readouterr().out
    with pytest.raises(InputError, match="there is no record"):
        report.find(folder, r"line1\nline3")


def test_the_very_id_goes_before_one_that_is_only_shown_so(some: report.Report, tmp_path: Path) -> None:
    table = pq.read_table(some.path).slice(0, 2)
    for ids in (["a\nb", r"a\nb"], [r"a\nb", "a\nb"]):
        place = table.schema.get_field_index("record_id")
        pq.write_table(table.set_column(place, "record_id", pa.array(ids)), tmp_path / "report.parquet")
        for key in ids:
            assert [row["record_id"] for row in report.find(report.Report(tmp_path, {}), key)] == [key]


def test_of_a_report_without_rows_it_is_said_that_there_are_none(some: report.Report, tmp_path: Path) -> None:
    pq.write_table(pq.read_table(some.path).slice(0, 0), tmp_path / "report.parquet")
    with pytest.raises(InputError, match=r'no record "k1"\. The report has no rows\.$'):
        report.find(report.Report(tmp_path, {}), "k1")


def test_a_report_without_rows_has_a_csv_of_one_line_the_same_header(
    some: report.Report, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = pd.DataFrame({"key": ["a"], "x": [1.5], "at": [pd.Timestamp("2024-01-01", tz="UTC")]})
    frame.to_parquet(tmp_path / "events.parquet", index=False)
    day = {"time": "at", "start": datetime(2024, 2, 1, tzinfo=UTC), "until": datetime(2024, 2, 2, tzinfo=UTC)}
    day |= {"allow_empty": True, "name": "none", "ids": ["key"]}
    data = sources.ingest(tmp_path / "events.parquet", tmp_path / "store", **day)
    empty = job.run(make_job(data.folder, tmp_path / "out", allow_empty=True)).folder
    lines = []
    for folder in (some.folder, empty):
        assert main(["report", str(folder), "--csv"]) == 0
        lines.append(capsys.readouterr().out.splitlines())
    assert lines[1] == lines[0][:1] and lines[1][0].startswith("rank,record_id,")
    assert main(["explain", str(empty), "a"]) == 2
    assert "The report has no rows." in capsys.readouterr().err
