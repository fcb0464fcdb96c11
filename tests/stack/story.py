"""The whole story against real servers: deploy, train, promote, score on time, late, doubled, afterwards.

    python -m tests.stack.story [--keep]

Three hourly intervals are scored by their schedule, one when its worker was down, one three times, two
afterwards: in the store lies exactly one report for each, made by the champion. Wrong passwords are refused.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

from tests.stack.parts import ROOT, Stack, status_of

MONDAY = datetime(2013, 1, 28, tzinfo=UTC)
HOUR = timedelta(hours=1)
DELAY = timedelta(minutes=10)
TRAINING = MONDAY + 2 * HOUR + timedelta(minutes=30)  # long before 03:10, however slow the machine
DOWN = timedelta(minutes=5)
DATASET = """
name = "nyc-weather"
source = "s3://raw/nyc-weather"
ids = ["origin", "time_hour"]
time = "time_hour"
output = "s3://reports"
[train]
cron = "30 2 * * 1"
window = "28d"
settings = {{steps = 300}}
[score]
every = "1h"
delay = "10m"
top_k = 1
[notify]
webhook = "{webhook}"
[deploy]
env = {{OMP_NUM_THREADS = "1", LD_PRELOAD = "", ELBORANK_HOME = "{home}"}}
"""


class Inbox(BaseHTTPRequestHandler):
    """Keeps the messages of the runs."""

    messages: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        self.messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Silence."""


class Story:
    """The stack, and what is asked of its servers."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        for name, value in {
            "PREFECT_API_URL": f"http://127.0.0.1:{stack.ports['prefect']}/api",
            "PREFECT_API_AUTH_STRING": f"admin:{stack.secret('prefect_password')}",
            "PREFECT_HOME": str(stack.folder / "asking"),
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{stack.ports['store']}",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": stack.secret("store_key"),
            "AWS_SECRET_ACCESS_KEY": stack.secret("store_secret"),
        }.items():
            os.environ[name] = value
        self.began = time.monotonic()

    def tell(self, text: str) -> None:
        print(
            f"{time.monotonic() - self.began:5.0f} s  {self.stack.clock.now():%a %H:%M:%S}  {text}",
            flush=True,
        )

    # ---------------------------------------------------------------------------- asking

    def runs(self, flow: str) -> list[Any]:
        """The runs of a flow that were due by now, newest first."""
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.filters import FlowFilter, FlowFilterName

        with get_client(sync_client=True) as client:
            found = client.read_flow_runs(flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])), limit=200)
        due = [run for run in found if run.expected_start_time <= self.stack.clock.now()]
        return sorted(due, key=lambda run: run.expected_start_time)

    def wait_for(self, flow: str, count: int, seconds: float = 1800) -> list[Any]:
        """Wait until so many runs of a flow have ended well."""
        end = time.monotonic() + seconds
        while True:
            runs = self.runs(flow)
            bad = [r for r in runs if r.state.is_failed() or r.state.is_crashed() or r.state.is_cancelled()]
            assert not bad, f"{bad[0].name}: {bad[0].state}\n{self.stack.log('worker')}"
            done = [r for r in runs if r.state.is_completed()]
            if len(done) >= count:
                return done
            told = Counter(r.state.name for r in runs)
            assert time.monotonic() < end, f"{flow}: {told}\n{self.stack.log('worker')}"
            time.sleep(1)

    def reports(self) -> dict[str, dict[str, Any]]:
        """The manifests in the store, by the folder of their report; every object belongs to one."""
        from vae_core import stores

        store = stores.open_store("s3://reports")
        names = [entry.name for entry in store.list()]
        ends = "/_manifest.json"
        found = {
            n.removesuffix(ends): stores.read_manifest(store, n.removesuffix(ends))
            for n in names
            if n.endswith(ends)
        }
        strays = [n for n in names if n.rpartition("/")[0] not in found]
        assert not strays, f"objects outside reports: {strays}"
        return {folder: manifest for folder, manifest in found.items() if manifest is not None}

    # ---------------------------------------------------------------------------- telling

    def fill_the_store(self) -> None:
        from vae_core import stores

        raw = stores.open_store("s3://raw/nyc-weather")
        for month in ("01", "02"):
            name = f"2013-{month}.parquet"
            assert raw.put_if_absent(name, ROOT / "data" / "nyc_weather" / name)

    def deploy(self, file: Path) -> None:
        done = self.stack.elborank("deploy", str(file), "--json")
        assert done.returncode == 0, done.stderr
        made = [row["deployment"] for row in json.loads(done.stdout)["deployments"]]
        self.tell(f"deployed {', '.join(made)}; the zombie automations are there")

    def train(self) -> str:
        """Monday at 02:30 the schedule trains; the checks make the first version champion. Its hash."""
        self.stack.clock.put(TRAINING - timedelta(seconds=5))
        (run,) = self.wait_for("train", 1)
        assert run.auto_scheduled and run.expected_start_time == TRAINING
        done = self.stack.elborank("models", "list", "--json")
        (model,) = json.loads(done.stdout)["models"]
        assert model["aliases"] == ["champion"], done.stdout
        checks = json.loads(
            self.stack.elborank("models", "checks", "nyc-weather", "--version", "1", "--json").stdout
        )
        assert checks["passed"]
        self.tell(
            f"trained by schedule, {len(checks['checks'])} checks passed, champion {model['sha256'][:12]}"
        )
        return str(model["sha256"])

    def score_by_schedule(self, hour: int, count: int) -> None:
        """The interval before `hour` is scored ten minutes after it."""
        self.stack.clock.put(MONDAY + hour * HOUR + DELAY - timedelta(seconds=4))
        run = self.wait_for("score", count)[-1]
        assert run.auto_scheduled and run.expected_start_time == MONDAY + hour * HOUR + DELAY
        self.tell(f"scored by schedule: [{hour - 1:02}:00, {hour:02}:00)")
        time.sleep(3)  # the clock jumps next: what the server still writes of this run belongs before it

    def late(self, hour: int, count: int) -> None:
        self.stack.stop("worker")
        self.stack.clock.put(MONDAY + hour * HOUR + DELAY + DOWN)
        end = time.monotonic() + 300
        while self.runs("score")[-1].state.name != "Late":
            assert time.monotonic() < end, self.runs("score")[-1].state
            time.sleep(1)
        self.stack.start_worker()
        self.wait_for("score", count)
        self.tell(
            f"late: [{hour - 1:02}:00, {hour:02}:00), its worker was down for {DOWN.seconds // 60} minutes"
        )

    def doubled(self, hour: int, count: int) -> None:
        """Two more runs for an interval that has its report, at once."""
        from prefect.client.orchestration import get_client
        from prefect.states import Scheduled

        before = self.reports()
        with get_client(sync_client=True) as client:
            deployment = client.read_deployment_by_name("score/nyc-weather")
            for _ in range(2):
                due = Scheduled(scheduled_time=MONDAY + hour * HOUR + DELAY)
                client.create_flow_run_from_deployment(deployment.id, state=due)
        self.wait_for("score", count)
        assert self.reports() == before
        self.tell(f"doubled: [{hour - 1:02}:00, {hour:02}:00) run twice more, its report stands")

    def backfill(self, file: Path) -> None:
        command = [
            "backfill",
            str(file),
            "--from",
            "2013-01-27T22:00:00Z",
            "--to",
            "2013-01-28T00:00:00Z",
            "--json",
        ]
        for published, kept in ((2, 0), (0, 2)):
            done = self.stack.elborank(*command)
            assert done.returncode == 0, done.stderr
            told = json.loads(done.stdout)
            assert (told["published"], told["kept"], told["failed"]) == (published, kept, 0), told
        self.tell("back-filled: [22:00, 23:00) and [23:00, 24:00) of Sunday; again: nothing to do")

    def one_report_each(self, champion: str) -> None:
        hours = [MONDAY - 2 * HOUR, MONDAY - HOUR, *(MONDAY + n * HOUR for n in range(2, 6))]
        expected = [f"nyc-weather/as_of={hour:%Y%m%dT%H%M%SZ}" for hour in hours]
        found = self.reports()
        assert sorted(found) == expected, sorted(found)
        assert {m["model"]["sha256"] for m in found.values()} == {champion}
        ranked = [found[folder]["counts"]["ranked"] for folder in expected]
        assert ranked == [3] * 6  # three airports
        flagged = [m for m in Inbox.messages if m["event"] == "flagged"]
        assert sorted({m["as_of"] for m in flagged}) == [f"{h:%Y-%m-%dT%H:%M:%SZ}" for h in hours[2:]]
        assert len(flagged) == 4
        self.tell(
            f"in the store: {len(found)} reports, one for each interval, {sum(ranked)} records, all by "
            f"{champion[:12]}; {len(flagged)} messages"
        )

    def wrong_passwords(self) -> None:
        stack = self.stack
        wrong = f"Basic {base64.b64encode(b'admin:wrong-password').decode()}"
        prefect = f"http://127.0.0.1:{stack.ports['prefect']}/api/admin/version"
        mlflow = f"http://127.0.0.1:{stack.ports['mlflow']}/api/2.0/mlflow/registered-models/search"
        codes = [status_of(a, **h) for a in (prefect, mlflow) for h in ({}, {"Authorization": wrong})]
        assert codes == [401] * 4, codes
        right = base64.b64encode(f"admin:{stack.secret('mlflow_password')}".encode()).decode()
        assert status_of(mlflow, Authorization=f"Basic {right}") == 200
        other = stack.folder / "wrong"
        shutil.copytree(stack.folder / "secrets", other)
        for name in ("mlflow_password", "prefect_password"):
            (other / name).unlink()
            (other / name).write_text("this-is-not-the-right-one")
        lines = []
        for arguments in (["models", "list"], ["deploy", str(stack.folder / "weather.toml")]):
            done = stack.elborank(*arguments, SECRETS_DIR=str(other))
            assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
            lines.append(done.stderr.strip().splitlines()[-1])
        environment = stack.environment("postgres") | {"PGPASSWORD": "this-is-not-the-right-one"}
        command = [
            "psql",
            "-h",
            "127.0.0.1",
            "-p",
            str(stack.ports["postgres"]),
            "-U",
            "prefect",
            "prefect",
            "-c",
            "SELECT 1",
        ]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode != 0 and "authentication failed" in done.stderr
        self.tell("wrong passwords: Prefect 401, MLflow 401, PostgreSQL refused; the command line says:")
        for line in lines:
            print(f"           {line}", flush=True)


def tell(folder: Path) -> None:
    """From empty folders to six reports."""
    stack = Stack(folder, MONDAY)
    story = Story(stack)
    inbox = HTTPServer(("127.0.0.1", 0), Inbox)
    threading.Thread(target=inbox.serve_forever, daemon=True).start()
    file = folder / "weather.toml"
    webhook = f"http://127.0.0.1:{inbox.server_port}/hook"
    file.write_text(DATASET.format(webhook=webhook, home=folder / "worker" / "home"))
    try:
        stack.start_all()
        story.tell("PostgreSQL, the store, Prefect, MLflow and a worker are up")
        stack.clock.put(MONDAY + 2 * HOUR + DELAY + timedelta(minutes=1))  # after 02:10, before the training
        story.fill_the_store()
        story.deploy(file)
        champion = story.train()
        for count, hour in enumerate((3, 4, 5), start=1):
            story.score_by_schedule(hour, count)
        story.late(6, 4)
        story.doubled(4, 6)
        story.backfill(file)
        story.one_report_each(champion)
        story.wrong_passwords()
    finally:
        stack.stop_all()
        inbox.shutdown()
    story.tell("done")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--keep", action="store_true", help="Leave the folder with logs and data.")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="elborank-stack-"))
    try:
        tell(folder)
    except BaseException:
        print(f"stack-test: the logs are in {folder}", file=sys.stderr)
        raise
    if options.keep:
        print(folder)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
