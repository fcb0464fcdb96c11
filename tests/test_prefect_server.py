"""A Prefect server that is not there, or that refuses: one line and exit code 2, whatever was typed."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import cli, prefect_server
from tests import shop

DATASET = """
name = "sales"
source = "sales.csv"
ids = ["sale"]
output = "reports"
[train]
cron = "0 3 * * 1"
"""
TYPED = (["ingest", "sales.csv", "--id", "sale"], ["deploy", "sales.toml"])


def said(
    port: int,
    typed: list[str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> str:
    """What a command says on standard error when the Prefect server should be at this port."""
    shop.sales().head(40).to_csv(folder / "sales.csv", index=False)
    (folder / "sales.toml").write_text(DATASET)
    address = f"http://somebody:hidden@127.0.0.1:{port}/api"
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PREFECT_API_URL", address)
    monkeypatch.setenv("PREFECT_HOME", str(folder / "prefect"))
    capsys.readouterr()
    with temporary_settings({PREFECT_API_URL: address}):
        assert cli.main(typed) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("elborank: the Prefect server at http://127.0.0.1:") and "hidden" not in line
    return line


@pytest.mark.parametrize("typed", TYPED, ids=lambda typed: typed[0])
def test_a_server_that_is_not_there(
    closed: int,
    typed: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "cannot be reached" in said(closed, typed, tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize("typed", TYPED, ids=lambda typed: typed[0])
def test_a_server_that_does_not_know_the_password(
    refusing: int,
    typed: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "PREFECT_API_AUTH_STRING" in said(refusing, typed, tmp_path, monkeypatch, capsys)


def test_an_error_of_ours_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="ours"), prefect_server.asked():
        raise RuntimeError("ours")
