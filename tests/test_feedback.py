"""Feedback: a log that only grows, marks in later reports, precision at k, training without some records."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from flows.cli import main
from tests import shop
from tests.stand_in import make_dataset, make_job
from vae_core import feedback, job, report, sources
from vae_core.errors import InputError
from vae_core.page import PAGE


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory) -> report.Report:
    place = tmp_path_factory.mktemp("ranked")
    data = make_dataset(place, rows=400, files=1)
    return report.read_report(job.run(make_job(data, place / "out")).folder)


def test_the_last_word_on_a_record_counts_and_the_log_keeps_all(
    ranked: report.Report, tmp_path: Path
) -> None:
    log = tmp_path / "home" / "feedback.parquet"
    first = report.top(ranked.folder, 1)[0]["record_id"]
    assert feedback.read(log).num_rows == 0
    feedback.add(log, ranked, first, "anomaly", "looks broken")
    feedback.add(log, ranked, first, "expected", "it was the holiday")
    lines = feedback.read(log)
    assert lines["verdict"].to_pylist() == ["anomaly", "expected"]
    assert feedback.latest(lines)[first]["note"] == "it was the holiday"
    assert feedback.read(log, dataset="another").num_rows == 0
    with pytest.raises(InputError, match='there is no verdict "maybe"'):
        feedback.add(log, ranked, first, "maybe")
    with pytest.raises(InputError, match='there is no record "nobody"'):
        feedback.add(log, ranked, "nobody", "anomaly")
    log.write_bytes(b"half a file")
    with pytest.raises(InputError, match="is damaged"):
        feedback.read(log)


def test_a_note_of_a_books_length_is_refused_and_a_long_one_is_a_line_in_tables(
    ranked: report.Report, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELBORANK_HOME", str(tmp_path))
    folder, first = str(ranked.folder), report.top(ranked.folder, 1)[0]["record_id"]
    add = ["feedback", "add", folder, first, "--verdict", "expected", "--note"]
    assert main([*add, "x" * 100_000]) == 2
    told = "elborank: the note has 100,000 characters, and at most 2,000 are kept. "
    assert capsys.readouterr().err.startswith(told)
    assert main([*add, "word " * 399 + "last."]) == 0
    capsys.readouterr()
    for command in (["feedback", "list"], ["report", folder, "--top", "1"]):
        assert main(command) == 0
        assert 50 < capsys.readouterr().out.count("word") * 5 + 5 <= 65
    assert main(["explain", folder, first]) == 0
    assert "last." in capsys.readouterr().out


def test_records_without_ids_of_their_own_cannot_be_judged(ranked: report.Report, tmp_path: Path) -> None:
    nameless = {**ranked.manifest, "dataset": {**ranked.manifest["dataset"], "ids": []}}
    first = report.top(ranked.folder, 1)[0]["record_id"]
    with pytest.raises(InputError, match="Ingest with --id COLUMN"):
        feedback.add(tmp_path / "log.parquet", replace(ranked, manifest=nameless), first, "anomaly")


def test_several_who_judge_at_once_lose_no_line(ranked: report.Report, tmp_path: Path) -> None:
    log = tmp_path / "feedback.parquet"
    ids = [row["record_id"] for row in report.top(ranked.folder, 12)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda key: feedback.add(log, ranked, key, "anomaly"), dict.fromkeys(ids)))
    assert set(feedback.read(log)["record_id"].to_pylist()) == set(ids)


def test_precision_is_the_share_of_anomalies_among_those_judged(
    ranked: report.Report, tmp_path: Path
) -> None:
    log = tmp_path / "feedback.parquet"
    ids = list(dict.fromkeys(row["record_id"] for row in report.top(ranked.folder, 30)))
    for place in (0, 1, 2, 20):
        feedback.add(log, ranked, ids[place], "anomaly" if place != 1 else "expected")
    found = feedback.precision(feedback.read(log), 10)
    assert [(row["judged"], row["anomalies"], row["precision"]) for row in found] == [(3, 2, 2 / 3)]
    feedback.add(log, ranked, ids[1], "anomaly")  # on second thoughts
    assert feedback.precision(feedback.read(log), 10)[0]["precision"] == 1
    assert feedback.precision(feedback.read(log), 30)[0]["judged"] == 4


def test_a_dataset_without_some_records_gives_all_others(tmp_path: Path) -> None:
    data = sources.open_dataset(make_dataset(tmp_path, rows=200, files=2))
    less = sources.leaving_out(data, ["k3", "k77", "no such key"])
    assert (less.left_out, less.rows) == (("k3", "k77"), 198)
    for stream in (sources.batches(less), sources.shuffled(less, 1)):
        keys = [key for batch in stream for key in batch["_record_id"].to_pylist()]
        assert len(keys) == 198 and not {"k3", "k77"} & set(keys)
    assert sources.leaving_out(data, ["no such key"]) is data


def test_judgements_mark_later_reports_and_confirmed_anomalies_are_not_trained_on(
    in_shop: shop.Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELBORANK_HOME", str(tmp_path / "home"))  # a log of its own
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{in_shop.home / 'mlflow.db'}")
    scoring = [*shop.SCORE, "--output", str(tmp_path / "out"), "--json"]
    assert main(scoring) == 0
    folder = json.loads(capsys.readouterr().out)["folder"]
    before = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    assert main(["feedback", "list"]) == 0
    assert "No feedback yet" in capsys.readouterr().out
    assert (
        main(["feedback", "add", folder, shop.STRANGE, "--verdict", "expected", "--note", "[b]sale[/b]"]) == 0
    )
    assert "Later reports mark it as known" in capsys.readouterr().out
    assert main(["report", folder, "--top", "3"]) == 0
    assert "[known: expected: [b]sale[/b]]" in capsys.readouterr().out.replace("\n", " ")
    assert main(["explain", folder, shop.STRANGE]) == 0
    assert "[known: expected" in capsys.readouterr().out
    assert before == {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    assert main(scoring) == 0
    assert json.loads(capsys.readouterr().out)["top"][0]["feedback"] == "expected"
    assert main([*scoring, "--dataset", "others"]) == 0  # the same ids in another dataset are other records
    assert json.loads(capsys.readouterr().out)["top"][0]["feedback"] is None
    assert main(["feedback", "add", folder, shop.STRANGE, "--verdict", "anomaly", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "anomaly"
    assert main(["feedback", "list", "--k", "5"]) == 0
    assert "precision at 5" in capsys.readouterr().out

    training = ["train", "sales.csv", "--name", "later", "--id", "sale", "--steps", "5", "--members", "1"]
    assert main([*training, "--kernel-weight", "0"]) == 0
    told = capsys.readouterr().out
    assert "Left out: 1 record confirmed as anomalies (--keep-anomalies trains on them)" in told
    assert main([*training, "--kernel-weight", "0", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["reused"], again["rows"], again["confirmed_left_out"]) == (True, shop.ROWS - 1, 1)
    assert main([*training, "--kernel-weight", "0", "--keep-anomalies", "--json"]) == 0
    kept = json.loads(capsys.readouterr().out)
    assert (kept["reused"], kept["rows"], kept["confirmed_left_out"]) == (False, shop.ROWS, 0)


def test_feedback_on_a_dataset_that_is_not_there_is_refused_with_those_that_are(
    in_shop: shop.Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["feedback", "list", "--dataset", "sails"]) == 2
    assert "Score one first: elborank score" in capsys.readouterr().err
    (tmp_path / "tills.csv").write_text("a,b\n1.5,2\n2.5,3\n")
    assert main(["ingest", "tills.csv"]) == 0
    (tmp_path / "reports" / "sales" / "run=0123456789ab").mkdir(parents=True)
    capsys.readouterr()
    assert main(["feedback", "list", "--dataset", "sails"]) == 2
    told = capsys.readouterr().err
    problem = 'elborank: there is no dataset "sails" here; the nearest name here is "sales".'
    assert told == f"{problem} There are: sales, tills.\n"
    for name in ("sales", "tills"):  # which nobody has judged yet
        assert main(["feedback", "list", "--dataset", name]) == 0
        assert "No feedback yet" in capsys.readouterr().out


def test_a_page_drawn_anew_marks_what_is_known_and_the_published_one_stays(
    ranked: report.Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELBORANK_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    folder, ids = str(ranked.folder), [row["record_id"] for row in report.top(ranked.folder, 2)]
    before = (ranked.folder / PAGE).read_bytes()
    for record, verdict in zip(ids, feedback.VERDICTS, strict=True):
        said = ["feedback", "add", folder, record, "--verdict", verdict, "--note", f"<i>{verdict}</i> 7.25"]
        assert main(said) == 0
    assert main(["report", folder, "--html", "--output", "anew.html"]) == 0
    rows = Path("anew.html").read_text().split("<tr ")
    marks = {record: [row for row in rows if f"<bdi>{record}</bdi></th>" in row] for record in ids}
    for record, verdict, words in zip(ids, feedback.VERDICTS, ("known: expected", "confirmed"), strict=True):
        mark = f'<span class="verdict {verdict}">{words}</span> <bdi>&lt;i&gt;{verdict}&lt;/i&gt; 7.25</bdi>'
        assert len(marks[record]) == 1 and mark in marks[record][0]
    assert sum('class="said"' in row for row in rows) == 2
    assert main(["report", folder, "--html", "--hide-values", "--output", "hidden.html"]) == 0
    hidden = Path("hidden.html").read_text()
    assert "known: expected" in hidden and "7.25" not in hidden
    assert (ranked.folder / PAGE).read_bytes() == before and b'class="said"' not in before
