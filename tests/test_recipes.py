"""Every recipe of docs/recipes.md: what DuckDB answers is what pandas answers, and it is not empty."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import duckdb
import pandas as pd
import pytest

from flows.cli import main
from tests import shop
from vae_core import publishing

PAGE = Path(__file__).parents[1] / "docs" / "recipes.md"
WEEKS = {
    "2024-01-08": {"s0700": 300.0, "s0640": 400.0},
    "2024-01-15": {"s0700": 300.0, "s0710": 250.0},
    "2024-01-22": {"s0700": 320.0, "s0690": 1.0},
}


REPLACED = "2024-01-15"


@pytest.fixture(scope="module")
def weeks(opened_shop: shop.Shop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the reports of three Mondays, and the last one's source."""
    place = tmp_path_factory.mktemp("weeks")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("ELBORANK_HOME", str(opened_shop.home))
        for monday, wrong in WEEKS.items():
            sales = shop.sales().tail(120).astype({"price": object})
            for sale, price in wrong.items():
                sales.loc[sales["sale"] == sale, "price"] = price
            sales.loc[sales["sale"].isin(["s0650", "s0651"]), "price"] = "n/a?"
            sales.to_csv("shop.csv", index=False)
            command = ["score", "shop.csv", "--model", "models:/shop", "--output", "reports/"]
            if monday == REPLACED:  # first a wrong one: no answer may come from it
                assert main([*command, "--as-of", monday, "--top-k", "5", "--draws", "2"]) == 0
                command.append("--replace")
            assert main([*command, "--as-of", monday, "--top-k", "2"]) == 0
    return place


def blocks(language: str) -> dict[str, str]:
    """Question -> its code in one language; the start of the page has the question ""."""
    parts = re.split(r"^## (.*)$", "\n## \n" + PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    found = {}
    for question, text in zip(parts[::2], parts[1::2], strict=True):
        code = re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        assert len(code) <= 1, question
        if code:
            found[question.strip()] = code[0]
    return found


SQL, PANDAS = blocks("sql"), blocks("python")
FIRST_SQL = SQL.pop("")


@pytest.fixture
def listed(weeks: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """The same folder with what the page's first command writes."""
    monkeypatch.chdir(weeks)
    assert "\nelborank reports reports/shop --json > reports.json\n" in PAGE.read_text(encoding="utf-8")
    capsys.readouterr()
    assert main(["reports", "reports/shop", "--json"]) == 0
    (weeks / "reports.json").write_text(capsys.readouterr().out)
    return weeks


def test_every_question_has_both_answers() -> None:
    assert [question for question in PANDAS if question] == list(SQL)
    assert len(SQL) >= 8


@pytest.mark.parametrize("question", SQL)
def test_duckdb_and_pandas_give_the_same_answer(question: str, listed: Path) -> None:
    with duckdb.connect() as connection:
        connection.execute(FIRST_SQL)
        by_duckdb = connection.execute(SQL[question]).df()
    names: dict[str, object] = {}
    exec(compile(PANDAS[""] + PANDAS[question], "recipes.md", "exec"), names)  # noqa: S102 - our own page
    by_pandas = names["answer"]
    assert isinstance(by_pandas, pd.DataFrame) and len(by_pandas) > 0
    for frame in (by_duckdb, by_pandas):
        for name in frame.select_dtypes(["datetime", "datetimetz"]).columns:
            frame[name] = pd.to_datetime(frame[name], utc=True).astype("datetime64[us, UTC]")
    pd.testing.assert_frame_equal(by_pandas.reset_index(drop=True), by_duckdb, check_dtype=False)


def test_the_list_has_the_report_that_counts(listed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads((listed / "reports.json").read_text())["reports"]
    assert [row["as_of"] for row in rows] == [f"{monday}T00:00:00Z" for monday in WEEKS]
    assert [Path(row["folder"]).name.split("=")[0] for row in rows] == ["as_of", "run", "as_of"]
    assert [row["flagged"] for row in rows] == [2, 2, 2]
    old = listed / f"reports/shop/as_of={REPLACED.replace('-', '')}T000000Z"
    assert publishing.read_manifest(old)["counts"]["flagged"] == 5
    assert main(["reports", "reports/shop"]) == 0
    assert Path(rows[1]["folder"]).name in capsys.readouterr().out
    shutil.copytree(old, old.with_name(f"{old.name}.bak"))
    assert main(["reports", "reports/shop", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reports"] == rows
    assert main(["reports", "reports"]) == 2
    assert "holds no report of an interval" in (told := capsys.readouterr().err) and "reports/shop" in told


def test_the_answers_are_those_of_the_story(listed: Path) -> None:
    with duckdb.connect() as connection:
        connection.execute(FIRST_SQL)
        told = {question: connection.execute(code).fetchall() for question, code in SQL.items()}
    assert [row[0] for row in told["Which records were flagged in three reports in a row"]] == ["s0700"]
    assert told["Why rows are in quarantine"][0][1:3] == ("price", 2)
    assert [row[1:3] for row in told["How many were flagged in each interval"]] == [(118, 2)] * 3
    assert told["The first ten of this week"][0][1] == "s0700"
