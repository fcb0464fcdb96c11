"""The flows against a real Prefect server, one for all tests here; and a schedule that really fires."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flows import demo, prefect_server
from flows.cli import main
from tests import shop
from vae_core import publishing
from vae_core import report as reports

pytestmark = pytest.mark.server
ROOT = Path(__file__).resolve().parent.parent
STARTS_WITHIN = 120  # seconds: the first migration of the server's database, on a busy machine


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prefect server with a database of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("prefect")
    environment = {**os.environ, "PREFECT_HOME": str(folder), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    environment |= {"PREFECT_SERVER_UI_ENABLED": "false", "PREFECT_LOGGING_LEVEL": "WARNING"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}/api"
    try:
        wait_for(lambda: answers(port), STARTS_WITHIN, lambda: (folder / "log").read_text())
        yield address
    finally:
        process.terminate()
        process.wait(60)


def answers(port: int) -> bool:
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def wait_for(done: Any, seconds: float, complaint: Any) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, complaint()
        time.sleep(0.5)


@pytest.fixture
def on_server(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """Flows of this test run against the server."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    monkeypatch.setenv("PREFECT_API_URL", server)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    with temporary_settings({PREFECT_API_URL: server}):
        yield server


@pytest.fixture
def connected(in_shop: shop.Shop, on_server: str) -> str:
    """The same, in the shop's folder."""
    return on_server


def ask(question: str, **arguments: Any) -> Any:
    """One question to the server's client."""
    from prefect.client.orchestration import get_client

    async def go() -> Any:
        async with get_client() as client:
            return await getattr(client, question)(**arguments)

    return asyncio.run(go())


def published(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def test_a_flow_and_the_typed_command_publish_the_same_bytes(
    connected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*shop.SCORE, "--output", str(tmp_path / "flow"), "--top-k", "5", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    monkeypatch.delenv("PREFECT_API_URL")
    assert main([*shop.SCORE, "--output", str(tmp_path / "typed"), "--top-k", "5"]) == 0
    assert published(tmp_path / "flow") == published(tmp_path / "typed")
    assert told["top"][0]["record_id"] == shop.STRANGE


def test_a_flow_tells_of_reports_of_another_path_under_one_name(connected: str, tmp_path: Path) -> None:
    from flows.score import score_flow

    told = []
    for place in ("north", "south"):
        (tmp_path / place / "sales").mkdir(parents=True)
        shop.sales()[:60].to_csv(tmp_path / place / "sales" / "1.csv", index=False)
        path, options = str(tmp_path / place / "sales"), {"output": str(tmp_path / "out"), "top_k": len(told)}
        told.append(score_flow(path, "models:/shop@champion", **options)["warnings"])
    assert told[0] == [] and "under one name" in told[1][0]


def test_a_flows_name_tasks_and_artifacts_tell_what_was_done(connected: str, tmp_path: Path) -> None:
    assert main([*shop.SCORE, "--output", str(tmp_path), "--as-of", "2024-01-25"]) == 0
    runs = [run for run in ask("read_flow_runs") if run.name == "score sales 2024-01-25"]
    assert runs and runs[0].state.is_completed()
    names = {task.name.rpartition("-")[0] for task in ask("read_task_runs") if task.flow_run_id == runs[0].id}
    assert names == {"resolve", "ingest", "rank"}
    artifacts = {a.key: a for a in ask("read_artifacts") if a.flow_run_id == runs[0].id}
    assert set(artifacts) == {"ranking-sales", "report-sales", "summary-sales", "drift-sales"}
    table = json.loads(artifacts["ranking-sales"].data)
    assert table[0]["record"] == shop.STRANGE and table[0]["rank"] == 1
    assert (tmp_path / "sales" / "as_of=20240125T000000Z").as_uri() in artifacts["report-sales"].data


def test_training_as_a_flow_finds_what_was_trained_by_hand(
    connected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*shop.TRAIN, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reused"]


def test_a_mistake_in_a_flow_is_one_line_without_a_traceback(connected: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "flows.cli", "score", "nowhere.csv", "--model", "models:/shop@champion"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path)],
        env=away_from_home(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("elborank: nowhere.csv")
    assert "Traceback" not in done.stderr


def away_from_home() -> dict[str, str]:
    """The environment of a process that works in another folder than the checkout's."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_bad_parameters_are_refused_before_anything_runs(
    connected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*shop.SCORE, "--fdr", "7"]) == 2
    assert "elborank: fdr: Input should be less than 1" in capsys.readouterr().err


def test_generation_as_a_flow_writes_the_same_records(
    connected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["generate", "--model", "models:/shop@champion", "--n", "20", "--output"]
    assert main([*command, str(tmp_path / "flow.csv")]) == 0
    monkeypatch.delenv("PREFECT_API_URL")
    assert main([*command, str(tmp_path / "typed.csv")]) == 0
    assert (tmp_path / "flow.csv").read_bytes() == (tmp_path / "typed.csv").read_bytes()


def test_a_schedule_fires_and_its_report_is_that_of_the_typed_command(
    connected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "scheduled"
    command = [sys.executable, "-m", "flows.cli", "deploy", *shop.SCORE[1:], "--output", str(output)]
    environment = away_from_home() | {"PREFECT_RUNNER_POLL_FREQUENCY": "2", "PREFECT_LOGGING_LEVEL": "INFO"}
    with (tmp_path / "log").open("w") as log:
        serving = subprocess.Popen(
            [*command, "--every", "20s", "--top-k", "5"],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        log_text = (tmp_path / "log").read_text
        wait_for(lambda: list(output.glob("sales/as_of=*Z")) or "Failed(" in log_text(), 150, log_text)
    finally:
        serving.terminate()
        serving.wait(60)
    assert list(output.glob("sales/as_of=*Z")), log_text()
    fired = sorted(output.glob("sales/as_of=*Z"))[0]
    as_of = publishing.read_manifest(fired)["as_of"]
    assert datetime.fromisoformat(as_of).timestamp() % 20 == 0
    typed = tmp_path / "typed"
    monkeypatch.delenv("PREFECT_API_URL")
    assert main([*shop.SCORE, "--output", str(typed), "--top-k", "5", "--as-of", as_of]) == 0
    assert published(fired) == published(typed / "sales" / fired.name)


SCHEDULED = """
name = "corner-shop"
source = "sales.csv"
ids = ["sale"]
time = "hour"
[train]
cron = "0 3 * * 1"
timezone = "Europe/Berlin"
window = "7d"
[score]
every = "1h"
delay = "5m"
"""


def test_a_dataset_file_becomes_deployments_and_its_yaml_says_the_same(
    connected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "shop.toml").write_text(SCHEDULED)
    for _ in range(2):  # again: brought up to date, nothing doubled
        assert main(["deploy", str(tmp_path / "shop.toml"), "--json"]) == 0
        made = [row["deployment"] for row in json.loads(capsys.readouterr().out)["deployments"]]
    assert made == ["train/corner-shop", "score/corner-shop"]
    direct = {name: on_the_server(name) for name in made}
    assert [facts["limit"] for facts in direct.values()] == [(1, "ENQUEUE")] * 2
    for name in (prefect_server.ZOMBIES, prefect_server.STILLBORN):
        assert len(ask("read_automations_by_name", name=name)) == 1
    assert main(["deploy", str(tmp_path / "shop.toml"), "--yaml"]) == 0
    (tmp_path / "prefect.yaml").write_text(capsys.readouterr().out)
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    done = subprocess.run(
        command, cwd=tmp_path, env=away_from_home(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert {name: on_the_server(name) for name in made} == direct


def test_a_deployment_that_the_file_no_longer_asks_for_is_named_with_how_to_remove_it(
    connected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "shop.toml"
    file.write_text(SCHEDULED.replace("corner-shop", "late-shop"))
    assert main(["deploy", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["left"] == []
    file.write_text(file.read_text().partition("[train]")[0] + "[generate]\nn = 1\noutput = 'made.csv'\n")
    assert main(["deploy", str(file)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "prefect deployment delete 'train/late-shop'" in told
    assert "prefect deployment delete 'score/late-shop'" in told and "'generate/" not in told
    assert on_the_server("score/late-shop")["schedules"]  # somebody else may have made it: it stays
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deployment", "delete", "train/late-shop"]
    subprocess.run(command, env=os.environ, check=True, capture_output=True)
    assert main(["deploy", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["left"] == ["score/late-shop"]


def test_a_dataset_file_that_takes_over_the_deployments_of_another_one_says_so(
    connected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for place in ("north", "north", "south"):
        (tmp_path / place).mkdir(exist_ok=True)
        (tmp_path / place / "shop.toml").write_text(SCHEDULED.replace("corner-shop", "twin-shop"))
        assert main(["deploy", str(tmp_path / place / "shop.toml"), "--json"]) == 0
        told = capsys.readouterr()
        said.append(told.err.strip().splitlines())
        assert len(json.loads(told.out)["warnings"]) == len(said[-1])
    assert said[:2] == [[], []]
    (line,) = said[2]
    assert "train/twin-shop and score/twin-shop read" in line
    assert all(str(tmp_path / place / "sales.csv") in line for place in ("north", "south"))


def test_a_run_that_was_taken_up_and_never_began_crashes_and_one_that_waits_its_turn_does_not(
    connected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.states import AwaitingConcurrencySlot, Pending, Running, Submitting

    (tmp_path / "shop.toml").write_text(SCHEDULED.replace("corner-shop", "dead-shop"))
    monkeypatch.setattr(prefect_server, "START", timedelta(seconds=10))
    assert main(["deploy", str(tmp_path / "shop.toml")]) == 0
    deployment = ask("read_deployment_by_name", name="train/dead-shop").id
    went = {
        "taken up": [Pending()],
        "submitted": [Pending(), Submitting()],
        "begun": [Pending(), Submitting(), Running()],
        "waiting": [Pending(), AwaitingConcurrencySlot()],
    }
    runs = {}
    for name, states in went.items():
        runs[name] = ask("create_flow_run_from_deployment", deployment_id=deployment).id
        for state in states:
            ask("set_flow_run_state", flow_run_id=runs[name], state=state, force=True)

    def now(name: str) -> str:
        return str(ask("read_flow_run", flow_run_id=runs[name]).state.name)

    try:
        wait_for(
            lambda: now("taken up") == now("submitted") == "Crashed", 90, lambda: {n: now(n) for n in runs}
        )
        time.sleep(10)  # the others would have had their turn
        assert (now("begun"), now("waiting")) == ("Running", "AwaitingConcurrencySlot")
    finally:
        monkeypatch.undo()
        prefect_server.make_zombie_automations()  # with the usual time again: other tests start runs


def test_an_automation_that_is_there_gets_the_trigger_of_this_release_and_keeps_what_it_does(
    on_server: str,
) -> None:
    from prefect.automations import Automation
    from prefect.events.actions import DoNothing

    prefect_server.make_zombie_automations()
    there = Automation.read(name=prefect_server.ZOMBIES)
    there.trigger.within, there.actions, there.enabled = timedelta(seconds=70), [DoNothing()], False
    there.update()
    assert prefect_server.make_zombie_automations()["zombies"] == str(there.id)
    after = Automation.read(name=prefect_server.ZOMBIES)
    assert after.trigger.within == prefect_server.SILENCE
    assert [action.type for action in after.actions] == ["do-nothing"] and not after.enabled


def on_the_server(name: str) -> dict[str, Any]:
    """What the server holds of a deployment."""
    held = ask("read_deployment_by_name", name=name)
    return {
        "parameters": held.parameters,
        "schedules": [s.schedule.model_dump(mode="json", exclude={"day_or"}) for s in held.schedules],
        "pool": held.work_pool_name,
        "job": held.job_variables,
        "limit": (held.global_concurrency_limit.limit, held.concurrency_options.collision_strategy.value),
        "entrypoint": held.entrypoint,
    }


@pytest.mark.slow
def test_the_demo_finds_the_real_error_and_planted_ones_and_repeats_nothing(
    on_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("ELBORANK_HOME", raising=False)
    (tmp_path / "data").symlink_to(ROOT / "data")
    first, second = demonstrated(), demonstrated()
    (folder,) = (tmp_path / "reports" / "nyc-weather").glob("run=*")
    strangest = reports.top(folder, 1)[0]
    assert strangest["record_id"] == "EWR|2013-02-12T08:00:00Z"  # data/nyc_weather/ABOUT.md
    reason = strangest["reasons"][0]
    assert reason["feature"] == "wind_speed" and float(reason["value"]) == pytest.approx(1048.36, abs=0.01)
    assert 0 < float(reason["expected"]) < 43 and reason["nats"] < -1000
    found = re.search(r"this model +([0-9]+) of 20", first)
    assert found and int(found[1]) >= 18
    missed = re.search(r"independent columns +([0-9]+) of 20", first)
    assert missed and int(missed[1]) <= 2
    told = re.search(r"([0-9]+) of the [0-9]+ name the dew point", first)
    assert told and int(told[1]) >= 18
    assert "Nothing was trained and nothing published" in second
    assert "Nothing was trained" not in first


def demonstrated() -> str:
    """What the demo shows."""
    console = Console(file=io.StringIO(), width=100)
    demo.demo(console)
    return str(console.file.getvalue())
