"""Dataset files, back-filled intervals, and messages: each interval one report, and somebody hears of it."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import pandas as pd
import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.runner._hook_runner import HookRunner
from prefect.settings import PREFECT_LOGGING_TO_API_ENABLED, temporary_settings
from prefect.states import Crashed

from flows import dataset_file, deployments, notifications, scheduled
from flows.cli import main
from flows.dataset_file import Notify
from flows.generate import generate_flow
from flows.score import score_flow
from flows.standing import Standing
from flows.train import train_flow
from tests import shop
from vae_core import publishing
from vae_core.errors import InputError


@pytest.fixture
def file(in_shop: shop.Shop, tmp_path: Path) -> Path:
    path = in_shop.folder / "shop.toml"
    path.write_text(shop.DATASET_FILE.format(every="1d", output=tmp_path / "out"))
    return path


def day(number: int) -> datetime:
    return datetime(2024, 1, number, tzinfo=UTC)


def test_a_backfill_gives_each_interval_its_records_and_one_report(file: Path, tmp_path: Path) -> None:
    chosen = dataset_file.read(file)
    first = scheduled.backfill(chosen, day(29), datetime(2024, 2, 2, tzinfo=UTC))
    assert (first["published"], first["kept"], first["failed"]) == (4, 0, 0)
    assert [row["ranked"] for row in first["intervals"]] == [24, 24, 24, 0]  # the table ends with January
    ranked = [pd.read_parquet(Path(row["folder"]) / "report.parquet") for row in first["intervals"]]
    told = pd.concat(ranked)
    assert sorted(told["record_id"]) == sorted(shop.sales()["sale"].iloc[28 * 24 :])
    again = scheduled.backfill(chosen, day(28), day(31))
    assert [row["outcome"] for row in again["intervals"]] == ["published", "kept", "kept"]
    assert len(list((tmp_path / "out" / "shop").glob("as_of=*"))) == 5


def test_a_late_run_finds_the_report_although_its_input_has_grown(
    file: Path, in_shop: shop.Shop, tmp_path: Path
) -> None:
    chosen = dataset_file.read(file)
    scheduled.backfill(chosen, day(29), day(30))
    later = shop.sales()
    later["price"] += 1.0
    later.to_csv(tmp_path / "grown.csv", index=False)
    grown = chosen.model_copy(update={"source": str(tmp_path / "grown.csv")})
    assert scheduled.backfill(grown, day(29), day(30))["kept"] == 1
    before = publishing.read_manifest(tmp_path / "out/shop/as_of=20240129T000000Z")
    replaced = scheduled.backfill(grown, day(29), day(30), replace=True)
    assert replaced["published"] == 1
    assert publishing.read_manifest(tmp_path / "out/shop/as_of=20240129T000000Z") == before
    assert replaced["intervals"][0]["folder"] != str(tmp_path / "out/shop/as_of=20240129T000000Z")


def test_an_interval_that_is_not_over_is_left_to_the_schedule(file: Path, tmp_path: Path) -> None:
    chosen = dataset_file.read(file)
    noon = day(30).replace(hour=12)
    done = scheduled.backfill(chosen, day(29), day(31), now=noon)
    assert (done["published"], done["not_over"]) == (1, 1)
    assert [row["start"] for row in done["intervals"]] == [day(29)]
    due = (day(30), day(31))
    assert Standing(chosen.output, "shop").report_for(due, only=True) is None
    with pytest.raises(InputError, match="from 2024-01-31 00:00 UTC on, and it is 2024-01-30 12:00"):
        scheduled.backfill(chosen, day(30), day(31), now=noon)


def test_records_that_may_still_arrive_late_are_waited_for(file: Path) -> None:
    chosen = dataset_file.read(file)
    assert chosen.score is not None
    late = chosen.model_copy(update={"score": chosen.score.model_copy(update={"delay": "2h"})})
    early, due = day(30).replace(hour=1, minute=59), day(30).replace(hour=2)
    with pytest.raises(InputError, match="from 2024-01-30 02:00 UTC on, and it is 2024-01-30 01:59"):
        scheduled.backfill(late, day(29), day(30), now=early)
    done = scheduled.backfill(late, day(29), day(30), now=due)
    assert (done["published"], done["not_over"]) == (1, 0)


def test_a_deployment_whose_intervals_change_is_told_of(file: Path) -> None:
    def made() -> list[deployments.Deployment]:
        return deployments.deployments(dataset_file.read(file))

    before = {f"{one.flow}/{one.name}": one.parameters for one in made()}
    assert deployments.rescheduled(before, made()) == []
    file.write_text(file.read_text().replace("top_k = 1", "top_k = 2\ndelay = '1h'"))
    assert deployments.rescheduled(before, made()) == []
    file.write_text(file.read_text().replace('every = "1d"', 'every = "1h"'))
    (line,) = deployments.rescheduled(before, made())
    assert line.startswith("score/shop ran every 1d and runs every 1h from now on.")
    assert deployments.rescheduled({}, made()) == []


def test_a_backfill_into_the_future_says_what_it_left_out(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    span = ["--from", f"{today - timedelta(days=1):%F}", "--until", f"{today + timedelta(days=3):%F}"]
    assert main(["backfill", str(file), *span]) == 0
    told = capsys.readouterr().out
    assert re.search("[12] published, 0 there already, 0 failed", told)  # 2 where midnight came between
    assert re.search("[23] intervals are left out: not over yet", told)
    assert main(["backfill", str(file), "--from", f"{today + timedelta(days=2):%F}", *span[2:]]) == 2
    assert "is over yet" in capsys.readouterr().err


@pytest.mark.parametrize("when", ['every = "30s"', 'cron = "0 * * * *"'])
def test_a_backfill_without_an_end_in_sight_is_refused_at_once(
    file: Path, when: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(re.sub('every = "1d"', when, file.read_text()))
    assert main(["backfill", str(file), "--from", "2024-01-29", "--until", "9999-12-31"]) == 2
    assert "lies more than a year ahead" in capsys.readouterr().err
    every = dataset_file.read(file).score.schedule
    start = datetime(2024, 1, 29, 0, 0, 5, tzinfo=UTC)
    for seconds in (0, 20, 40, 3600, 7230, 90_000):
        until = start + timedelta(seconds=seconds)
        assert every.count(start, until) == len(list(every.intervals(start, until)))


def test_intervals_of_seconds_are_told_to_the_second(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(file.read_text().replace('"1d"', '"30s"'))
    span = ["--from", "2024-01-29T00:00:00Z", "--until", "2024-01-29T00:01:00Z"]
    assert main(["backfill", str(file), *span]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "2024-01-29 00:00 to 2024-01-29 00:00:30" in told
    assert "2024-01-29 00:00:30 to 2024-01-29 00:01" in told


def test_one_interval_that_fails_does_not_stop_the_others(
    file: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    blocked = tmp_path / "out" / "shop" / "as_of=20240130T000000Z"
    blocked.mkdir(parents=True)
    assert main(["backfill", str(file), "--from", "2024-01-29", "--to", "2024-02-01"]) == 2
    told = capsys.readouterr()
    assert "1 of 3 intervals failed" in told.err and "is in the way" in told.err
    assert "2 published, 0 there already, 1 failed" in told.out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "is not TOML"),
        ('nam = "a"', 'the key "name" is missing'),
        ('name = "a"\nsource = "x"', "nothing to run"),
        ('name = "a b"\nsource = "x"\n[score]', "cannot name a model"),
        ('name = "a-"\nsource = "x"\n[score]', '"a-" cannot be the name of a dataset'),
        ('name = "a."\nsource = "x"\n[score]', 'for example "a"'),
        (f'name = "{"a" * 101}"\nsource = "x"\n[score]', "cannot be the name of a dataset"),
        ('name = "a"\nsource = "x"\n[score]\nevry = "1h"', 'no key "score.evry"'),
        ('name = "a"\nsource = "x"\n[score]\nevery = "1h"', "score.only_interval needs `time`"),
        ('name = "a"\nsource = "x"\n[train]\nwindow = "7d"', "train.window needs `time`"),
        ('name = "a"\nsource = "x"\n[score]\nfdr = 0.1\ntop_k = 3', "one of fdr, alpha and top_k"),
        ('name = "a"\nsource = "x"\n[score]\n[deploy]\ntype = "docker"', "image"),
        ('name = "a"\nsource = "x"\n[score]\n[notify]\n', "one of webhook and webhook_file"),
        ('name = "a"\nsource = "x"\n[generate]\n', 'the key "generate.n" is missing'),
    ],
)
def test_a_mistake_in_a_dataset_file_is_one_line_with_its_key(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "a.toml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        dataset_file.read(path)
    assert message in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_intervals_follow_each_other_without_gap_or_overlap() -> None:
    moment = datetime(2024, 10, 27, 0, 30, tzinfo=UTC)  # European clocks go back this night
    for every, cron in (("1h", None), ("15m", None), ("1d", None), (None, "0 * * * *"), (None, "15 2 * * *")):
        first = deployments.interval(moment, every, cron)
        following = deployments.interval(first[1] + (first[1] - first[0]), every, cron)
        assert following[0] == first[1]
        assert first[1] <= moment < following[1]


def test_a_late_run_stands_for_the_interval_of_its_schedule() -> None:
    due = datetime(2024, 1, 1, 9, tzinfo=UTC)
    assert deployments.interval(due, "1h", None) == (due - timedelta(hours=1), due)
    assert deployments.interval(due + timedelta(minutes=59), "1h", None)[1] == due


@pytest.mark.parametrize("text", ["1", "h", "0h", "-1h", "1w", "1.5h", ""])
def test_what_is_no_length_of_time_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="length of time"):
        deployments.every_of(text)


def test_what_is_no_cron_expression_is_refused() -> None:
    with pytest.raises(InputError, match="not a schedule"):
        deployments.interval(datetime.now(UTC), None, "every hour")


# ------------------------------------------------------------------------------- messages


class Inbox(HTTPServer):
    """Keeps what is posted to it; answers with the codes that it is given, then 200."""

    def __init__(self, *codes: int) -> None:
        super().__init__(("127.0.0.1", 0), Postman)
        self.codes, self.messages = list(codes), list[dict[str, Any]]()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook"


class Postman(BaseHTTPRequestHandler):
    server: Inbox

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        code = self.server.codes.pop(0) if self.server.codes else 200
        if code == 200:
            self.server.messages.append(json.loads(body))
        self.send_response(code)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Silence."""


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    with Inbox() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()


RESULT = {
    "published": True, "flagged": 1, "dataset": "shop", "as_of": "2024-01-29T00:00:00Z", "folder": "out",
    "top": [{"rank": 1, "record_id": "s0650", "anomaly_score": 40.5, "why": "price"}],
}  # fmt: skip


def test_flagged_records_are_told_once_and_a_server_that_stumbles_is_asked_again(inbox: Inbox) -> None:
    inbox.codes = [503, 502]
    notify, warnings = Notify(webhook=inbox.address), list[str]()
    assert notifications.tell(notify, RESULT, warn=warnings.append) == ["flagged"]
    assert notifications.tell(notify, RESULT | {"published": False}, warn=warnings.append) == []
    (message,) = inbox.messages
    assert (message["event"], message["dataset"]) == ("flagged", "shop")
    assert message["top"][0]["record_id"] == "s0650"
    assert warnings == []


def test_a_message_that_cannot_be_delivered_is_a_warning_without_the_secret(
    inbox: Inbox, tmp_path: Path
) -> None:
    inbox.codes = [403]
    secret = tmp_path / "webhook"
    secret.write_text(f"{inbox.address}?token=s3cret\n")
    warnings: list[str] = []
    assert (
        notifications.tell(Notify(webhook_file=str(secret)), RESULT, warn=lambda m: warnings.append(m)) == []
    )
    assert notifications.tell(Notify(webhook_file="nowhere"), RESULT, warn=warnings.append) == []
    assert notifications.tell(Notify(webhook="file:///etc/passwd"), RESULT, warn=warnings.append) == []
    assert len(warnings) == 3 and "403" in warnings[0] and not any("s3cret" in line for line in warnings)


@pytest.mark.parametrize("flow", [train_flow, score_flow, generate_flow], ids=lambda flow: flow.name)
def test_a_crash_is_told_by_the_process_that_watched_the_run(flow: Any, inbox: Inbox) -> None:
    """The run's own process is gone: Prefect's runner and workers call the hooks, by its hook runner."""
    given = {"name": "shop", "notify": {"webhook": inbox.address}}
    crashed = FlowRun(id=uuid4(), name="vain-attempt", flow_id=uuid4(), parameters=given)

    async def resolve(_: FlowRun) -> Any:
        return flow

    with temporary_settings({PREFECT_LOGGING_TO_API_ENABLED: False}):  # no server is there to be told
        hooks = HookRunner(resolve_flow=resolve)
        asyncio.run(hooks.run_crashed_hooks(crashed, Crashed(message="exit code -9")))
    (message,) = inbox.messages
    told = {name: message[name] for name in ("event", "flow_run", "state", "message", "dataset")}
    assert told == {
        "event": "failed", "flow_run": "vain-attempt", "state": "Crashed", "message": "exit code -9",
        "dataset": "shop",
    }  # fmt: skip
