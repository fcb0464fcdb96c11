"""Two inputs under one name: told once at each change, and never of one input that is written in two ways."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from flows import namesakes
from flows.cli import main
from tests import shop

TOGETHER = "--dataset sales if they belong together"


@pytest.fixture
def shops(in_shop: shop.Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folders north/sales and south/sales, with the shop's model."""
    monkeypatch.setenv("ELBORANK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{in_shop.home / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)
    for name, rows in (("north", slice(0, 60)), ("south", slice(60, 120))):
        (tmp_path / name / "sales").mkdir(parents=True)
        shop.sales()[rows].to_csv(tmp_path / name / "sales" / "1.csv", index=False)
    return tmp_path


def score(capsys: pytest.CaptureFixture[str], path: object, *more: str) -> list[str]:
    """The warnings of a scoring run that speak of a name."""
    command = ["score", str(path), "--model", "models:/shop@champion", "--output", "out", *more, "--json"]
    assert main(command) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["published"]
    return [warning for warning in result["warnings"] if "under one name" in warning]


def test_reports_of_another_path_under_the_same_name_are_told(
    shops: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score(capsys, "north/sales") == []
    (told,) = score(capsys, "south/sales")
    assert told.startswith(
        f"The last report in out/sales is of {shops}/north/sales, this one of {shops}/south/sales: "
    )
    assert told.endswith(f"Tell them apart by --dataset, or say {TOGETHER}.")
    assert score(capsys, "south/sales", "--top-k", "1") == []  # told already
    assert len(score(capsys, "north/sales", "--top-k", "1")) == 1
    assert score(capsys, "south/sales", "--dataset", "south") == []
    assert score(capsys, "south/sales", "--dataset", "sales", "--top-k", "2") == []
    assert not [p for p in (shops / "out").rglob("_manifest.json") if str(shops) in p.read_text()]
    shutil.rmtree("out")
    assert score(capsys, "south/sales") == []  # nothing is beside it


def test_one_input_written_in_two_ways_is_no_other_input(
    shops: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (shops / "link").symlink_to(shops / "north")
    ways = ["north/sales", "north/sales/", shops / "north/sales", "south/../north/sales", "north/sales/*.csv"]
    for number, path in enumerate([*ways, "link/sales"]):
        assert score(capsys, path, "--top-k", str(number)) == []
    shop.sales()[60:120].to_csv("north/sales/2.csv", index=False)  # the next day's file
    assert score(capsys, "north/sales") == []


def test_folders_that_differ_by_a_date_are_one_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELBORANK_HOME", str(tmp_path))
    report = tmp_path / "out" / "sales" / "run=1"
    report.mkdir(parents=True)
    (report / "_manifest.json").touch()
    namesakes.note("/in/2024-01-09/sales.csv", "out", "sales", str(report))
    assert namesakes.warning("/in/2024-01-10/sales.csv", "out", "sales") == []
    assert namesakes.warning("/in/2025_02_28T0600/sales.csv", "out", "sales") == []
    assert namesakes.warning("/other/2024-01-10/sales.csv", "out", "sales")
    namesakes.note("/shop1/sales.csv", "out", "sales", str(report))
    assert namesakes.warning("/shop2/sales.csv", "out", "sales")
    namesakes.note("/in/2024/01/31/sales.csv", "out", "sales", str(report))
    assert namesakes.warning("/in/2024/02/01/sales.csv", "out", "sales") == []


def test_the_refusal_of_a_report_of_another_path_says_so(
    shops: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    day = ["--as-of", "2024-01-01"]
    assert score(capsys, "north/sales", *day) == []
    refused = ["score", "south/sales", "--model", "models:/shop@champion", "--output", "out", *day]
    assert main(refused) == 3
    told = capsys.readouterr().err
    assert "holds another report" in told and TOGETHER in told and len(told.splitlines()) == 1
    assert main([*refused, "--dataset", "sales"]) == 3
    assert TOGETHER not in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"origin": 1}'])
def test_a_note_that_cannot_be_read_is_none(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELBORANK_HOME", str(tmp_path))
    namesakes.note("/a/x", "out", "x", str(tmp_path / "out" / "x" / "run=1"))
    (note,) = (tmp_path / "origins").iterdir()
    note.write_text(text)
    assert namesakes.warning("/b/x", "out", "x") == []
