"""Similar normal records of a strange one: who they are, where they come from, and what can be hidden."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests import shop
from tests.test_cli import complaint, run, run_json


def test_similar_normal_records_are_those_that_are_like_the_rest_of_a_strange_one(
    in_shop: shop.Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = run_json(capsys, *shop.SCORE, "--output", str(tmp_path))
    found = run_json(capsys, "explain", scored["folder"], shop.STRANGE, "--similar", "3")
    assert len(found["similar"]) == 3
    distances = [row["distance"] for row in found["similar"]]
    assert distances == sorted(distances) and distances[0] > 0
    report = pq.read_table(Path(scored["folder"]) / "report.parquet")
    for row in found["similar"]:
        own = report.filter(pc.equal(report["record_id"], row["record_id"])).to_pylist()[0]
        assert own["p_value"] >= 0.5 and not own["flagged"] and own["rank"] == row["rank"]
        # The price is what is strange: similar are records of its kind, with a price that goes with it.
        assert row["values"]["kind"] == found["values"]["kind"] == "[red]plum[/red]"
        assert float(row["values"]["price"]) > 15
    monkeypatch.setenv("COLUMNS", "80")
    assert run("explain", scored["folder"], shop.STRANGE, "--similar", "2") == 0
    shown = capsys.readouterr().out
    assert found["similar"][0]["record_id"] in shown and "[red]plum[/red]" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert run("explain", scored["folder"], shop.STRANGE, "--similar", "2", "--hide-values") == 0
    hidden = capsys.readouterr().out
    assert found["similar"][0]["record_id"] in hidden
    assert "plum" not in hidden
    assert not any(row["values"]["price"] in hidden for row in found["similar"])


def test_similar_records_need_the_dataset_that_was_ranked(
    in_shop: shop.Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = run_json(capsys, *shop.SCORE, "--output", str(tmp_path))
    for folder in (in_shop.home / "datasets" / "sales").iterdir():
        if json.loads((folder / "_dataset.json").read_text())["digest"] == report_digest(scored["folder"]):
            folder.rename(tmp_path / folder.name)
    told = complaint(capsys, 2, "explain", scored["folder"], shop.STRANGE, "--similar", "2")
    assert "the records that were ranked" in told and "Score its file again" in told


def report_digest(folder: str) -> str:
    return json.loads((Path(folder) / "_manifest.json").read_text())["dataset"]["digest"]
