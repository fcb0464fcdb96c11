"""What commands write where the user says: never into a published report; and what is hidden stays hidden."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import shop
from tests.test_cli import complaint, run_json
from vae_core import publishing
from vae_core.page.wording import HIDDEN


@pytest.fixture
def folder(in_shop: shop.Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    return str(run_json(capsys, *shop.SCORE, "--output", str(tmp_path))["folder"])


@pytest.mark.parametrize("name", ["report.parquet", "new.parquet", "deep/new.parquet"])
@pytest.mark.parametrize("command", ["diff", "generate"])
def test_nothing_is_written_into_a_published_report(
    folder: str, command: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    what = [folder, folder] if command == "diff" else ["--model", "models:/shop@champion", "--n", "5"]
    told = complaint(capsys, 2, command, *what, "--output", f"{folder}/{name}", "--replace")
    assert "is published, and never written to" in told and "Give --output another place" in told
    publishing.verify(Path(folder))


def test_our_own_folder_is_no_address(
    in_shop: shop.Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ELBORANK_HOME", "s3://bucket/home")
    told = complaint(capsys, 2, "ingest", "sales.csv")
    assert "s3://bucket/home: ELBORANK_HOME takes a folder of this machine, no address" in told
    assert not Path("s3:").exists()


@pytest.mark.parametrize("command", ["report", "explain", "page"])
def test_hidden_values_are_hidden_in_json_too(
    in_shop: shop.Shop, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.sales().assign(price=lambda frame: 1000 * frame["price"]).to_csv(tmp_path / "cents.csv", index=False)
    moved = [
        str(tmp_path / "cents.csv"),
        "--model",
        "models:/shop@champion",
        "--output",
        str(tmp_path / "out"),
    ]
    scored = run_json(capsys, "score", *moved)
    given = {
        "report": ["report", scored["folder"]],
        "explain": ["explain", scored["folder"], scored["top"][0]["record_id"]],
        "page": ["report", scored["folder"], "--html", "--output", str(tmp_path / "page.html")],
    }[command]
    plain, hidden = (run_json(capsys, *given, *more)["drift"]["moved"] for more in ([], ["--hide-values"]))
    (price,) = (row for row in plain if row["column"] == "price")
    assert price["median_training"] and "above" in price["change"]
    (price,) = (row for row in hidden if row["column"] == "price")
    assert price["median_training"] is price["median_current"] is None and price["change"] == HIDDEN
