"""Two reports of the same things: new, persisting and resolved anomalies, by pandas and by a story."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from flows.cli import main
from tests import shop
from tests.stand_in import make_job, make_table
from vae_core import comparison, job, report, sources
from vae_core.errors import InputError
from vae_core.page import build
from vae_core.report import Decision


def published(frame: pd.DataFrame, place: Path, name: str, day: int, **settings: object) -> report.Report:
    """A report of a table by the stand-in, for a day in January."""
    frame.to_parquet(place / f"{name}.parquet", index=False)
    data = sources.ingest(place / f"{name}.parquet", place / "store" / name, name="numbers", ids=["key"])
    moment = datetime(2024, 1, day, tzinfo=UTC)
    settings = {"as_of": moment, "decision": Decision(top_k=20), **settings}
    return report.read_report(job.run(make_job(data.folder, place / "out", **settings)).folder)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[report.Report, report.Report]:
    old = make_table(600, random_state=1)
    new = old.copy()
    new.loc[::9, "x"] *= -1.4
    return published(old, tmp_path, "a", 1), published(new.iloc[100:], tmp_path, "b", 8)


def test_the_comparison_is_an_outer_join_of_the_anomalies(pair: tuple[report.Report, report.Report]) -> None:
    frames = [pd.read_parquet(one.path).set_index("record_id") for one in pair]
    flagged = [set(frame.index[frame["flagged"]]) for frame in frames]
    found = comparison.compare(*pair)
    rows = found.records.to_pandas().set_index("record_id")
    by_status = {status: set(rows.index[rows["status"] == status]) for status in found.counts}
    assert by_status == {
        "new": flagged[1] - flagged[0],
        "persisting": flagged[0] & flagged[1],
        "resolved": flagged[0] - flagged[1],
    }
    assert all(by_status.values())
    assert found.counts == {status: len(ids) for status, ids in by_status.items()}
    assert (found.shared, found.comparable, found.notes) == (500, True, ())
    for key, row in rows.iterrows():
        for name, frame in zip(("old", "new"), frames, strict=True):
            if key in frame.index:
                assert row[f"rank_{name}"] == frame.loc[key, "rank"]
                assert row[f"score_{name}"] == frame.loc[key, "anomaly_score"]
            else:
                assert pd.isna(row[f"rank_{name}"])
    both = rows.dropna(subset=["rank_old", "rank_new"])
    assert (both["rank_change"] == both["rank_old"] - both["rank_new"]).all()
    assert (both["score_change"] == both["score_new"] - both["score_old"]).all()
    assert found.records.schema == comparison.SCHEMA
    first = comparison.compare(*pair, top_k=5).records.to_pandas()
    assert set(first["record_id"]) == {key for frame in frames for key in frame.index[frame["rank"] <= 5]}


def test_scores_of_two_models_are_not_subtracted_and_foreign_ids_are_told(tmp_path: Path) -> None:
    frame = make_table(300, random_state=1)
    old, new = (published(frame, tmp_path, f"m{d}", d, digits=d, model_version=str(d)) for d in (2, 3))
    found = comparison.compare(old, new)
    assert not found.comparable
    assert found.records["score_change"].null_count == found.records.num_rows
    assert "by stand-in version 2 and stand-in version 3: compare ranks and p-values" in found.notes[0]
    other = published(frame.assign(key=[f"z{n}" for n in range(300)]), tmp_path, "z", 4, digits=3)
    told = comparison.compare(new, other)
    assert told.shared == 0 and told.counts["persisting"] == 0
    assert told.notes[0].startswith("no record id is in both reports, so nothing can persist: ")
    nameless = report.Report(new.folder, {**new.manifest, "dataset": {**new.manifest["dataset"], "ids": []}})
    told = comparison.compare(nameless, other)
    assert (
        "no record id is in both reports (made of file and row in one, of key in the other), so"
        in told.notes[0]
    )
    with pytest.raises(InputError, match="both are the same report"):
        comparison.compare(new, new)


def test_reports_in_the_wrong_order_are_told(pair: tuple[report.Report, report.Report]) -> None:
    old, new = pair
    assert comparison.compare(old, new).notes == ()
    (note,) = comparison.compare(new, old).notes
    assert note.startswith(
        "the report compared with is the later one, of 2024-01-08T00:00:00Z (this one: 2024-01-01T00:00:00Z)"
    )
    assert f"Note: <bdi>{note}" in build(old.folder, old.manifest, earlier=new)


def test_the_report_before_this_one_is_found_by_its_interval(tmp_path: Path) -> None:
    frame = make_table(200, random_state=1)
    reports = [published(frame, tmp_path, f"d{day}", day) for day in (8, 1, 15)]
    assert comparison.previous(reports[2]) == reports[0].folder
    assert comparison.previous(reports[0]) == reports[1].folder
    assert comparison.previous(reports[1]) is None


def week(place: Path, wrong: dict[str, float]) -> Path:
    """The shop's last days, with some prices wrong."""
    sales = shop.sales().tail(120)
    sales.loc[sales["sale"] == shop.STRANGE, "price"] = 42.5  # what that weight and kind should cost
    for sale, price in wrong.items():
        sales.loc[sales["sale"] == sale, "price"] = price
    place.mkdir()
    sales.to_csv(place / "week.csv", index=False)
    return place / "week.csv"


def test_a_second_weekly_run_shows_what_is_new_persists_and_is_resolved(
    in_shop: shop.Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weeks = [{"s0640": 400.0, "s0700": 300.0}, {"s0700": 300.0, "s0710": 500.0}]
    for number, wrong in enumerate(weeks, start=1):
        path = week(tmp_path / str(number), wrong)
        command = [
            "score",
            str(path),
            "--model",
            "models:/shop",
            "--output",
            str(tmp_path / "out"),
            "--top-k",
            "2",
        ]
        assert main([*command, "--as-of", f"2024-01-{7 * number + 1:02d}"]) == 0
    reports = sorted(map(str, (tmp_path / "out" / "week").glob("as_of=*")))
    capsys.readouterr()
    assert main(["diff", *reports]) == 0
    told = capsys.readouterr().out
    assert "1 new, 1 persisting, 1 resolved; 120 record ids are in both reports" in told
    assert max(map(len, told.splitlines())) <= 80
    output = tmp_path / "diff.parquet"
    assert main(["diff", *reports, "--json", "--output", str(output)]) == 0
    rows = json.loads(capsys.readouterr().out)["records"]
    assert [(row["record_id"], row["status"]) for row in rows] == [
        ("s0710", "new"), ("s0700", "persisting"), ("s0640", "resolved"),
    ]  # fmt: skip
    assert pq.read_table(output).column_names == comparison.SCHEMA.names
    assert main(["report", reports[1], "--html", "--output", str(tmp_path / "page.html")]) == 0
    assert f"new since {reports[0]}" in capsys.readouterr().out
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    section = page[page.index('<section id="changes"') : page.index('<section id="ranking"')]
    assert re.findall(r"<bdi>(s\d+)</bdi>|verdict (\w+)", section) == [
        ("s0710", ""), ("", "new"), ("s0700", ""), ("", "persisting"), ("s0640", ""), ("", "resolved"),
    ]  # fmt: skip
    assert main(["diff", reports[0], str(tmp_path)]) == 2
    assert "is not a published report" in capsys.readouterr().err


def test_a_comparison_overwrites_no_file_unasked(
    pair: tuple[report.Report, report.Report], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept.parquet"
    kept.write_text("precious")
    command = ["diff", *(str(one.folder) for one in pair), "--output", str(kept)]
    assert main(command) == 3
    assert "Add --replace to overwrite it" in capsys.readouterr().err
    assert kept.read_text() == "precious"
    assert main([*command, "--replace"]) == 0
    assert pq.read_table(kept).num_rows
    assert main([*command[:-1], str(tmp_path / "kept.csv")]) == 2
    assert not (tmp_path / "kept.csv").exists()


def test_a_report_from_a_gpu_beside_a_processors_says_so() -> None:
    ours = {"dataset": {"name": "x", "ids": ["k"]}, "as_of": None, "decision": {"fdr": 0.05}, "settings": {}}
    theirs = ours | {"settings": {"device": "cuda"}}
    told = [list(comparison._notes(ours, other, 5, True, None)) for other in (ours, theirs)]
    assert told == [[], ["one was scored on a GPU, whose scores differ in their last digits"]]
