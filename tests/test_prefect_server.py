"""A Prefect server that is not there, or that refuses: one line and exit code 2, whatever was typed."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

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


def test_only_our_deployed_runs_are_taken_for_dead() -> None:
    """Runs of other flows beat every 180 seconds, unless told otherwise: they would all be crashed."""
    from prefect.server.events.schemas.automations import EventTrigger
    from prefect.server.events.schemas.events import ReceivedEvent

    asked = prefect_server.zombie_triggers()
    triggers = [EventTrigger.model_validate(trigger.model_dump(mode="json")) for trigger in asked]

    def watched(event: str, *tags: str) -> list[bool]:
        run = ReceivedEvent(
            id=uuid4(),
            occurred=datetime.now(UTC),
            event=f"prefect.flow-run.{event}",
            resource={"prefect.resource.id": f"prefect.flow-run.{uuid4()}"},
            related=[
                {"prefect.resource.id": f"prefect.tag.{t}", "prefect.resource.role": "tag"} for t in tags
            ],
        )
        return [trigger.covers(run) for trigger in triggers]

    for event in ("heartbeat", "Pending", "Submitting"):
        assert any(watched(event, "nightly", prefect_server.TAG))
        assert not any(watched(event, "nightly")) and not any(watched(event))


def test_a_served_run_beats_more_often_than_it_is_waited_for() -> None:
    """Its process has no job variables: what it inherits decides."""
    asked = "import flows, prefect.settings as s; print(s.get_current_settings().flows.heartbeat_frequency)"
    bare = {k: v for k, v in os.environ.items() if "HEARTBEAT" not in k}
    done = subprocess.run([sys.executable, "-c", asked], env=bare, capture_output=True, text=True, check=True)
    assert 2 * int(done.stdout) < prefect_server.SILENCE.total_seconds()
