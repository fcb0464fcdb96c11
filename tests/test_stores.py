"""Stores: against a real S3-compatible server, one report for each place, whatever dies and whoever races."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pytest

from flows import remote, steps
from flows.cli import main
from tests import shop
from tests.test_publishing import OTHER, RUN, put
from vae_core import publishing, stores
from vae_core.errors import InputError, Refused
from vae_core.stores import objects
from vae_core.stores.lease import lease

BUCKET = "s3://reports-bucket"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an S3-compatible server with an empty bucket."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("s3") / "log"
    with log.open("w") as file:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 60
        while True:
            try:
                request = urllib.request.Request(f"{address}/reports-bucket", method="PUT")
                urllib.request.urlopen(request, timeout=2).close()
                break
            except OSError:
                assert time.monotonic() < end and process.poll() is None, log.read_text()
                time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def store(
    server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[stores.Store]:
    """A folder of the bucket for this test."""
    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    yield stores.open_store(f"{BUCKET}/{request.node.name[:40].replace('[', '-').replace(']', '')}")


PLACE = "weather/as_of=20130101T000000Z"


def names(store: stores.Store) -> list[str]:
    return [entry.name for entry in store.list()]


def test_an_object_is_written_once_however_many_try(
    store: stores.Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(objects, "PART", 5 << 20)  # S3's smallest part
    (tmp_path / "large").write_bytes(b"x" * (12 << 20))
    assert store.put_if_absent("large", tmp_path / "large")
    assert not store.put_if_absent("large", tmp_path / "large")
    won: list[int] = []

    def race(number: int) -> None:
        if store.put_if_absent("small", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=race, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.read("small") == str(won[0]).encode() and len(won) == 1
    store.put("large", b"small")
    store.put("large", tmp_path / "large")  # in parts too, whatever is there
    store.get("large", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "large").read_bytes()
    assert store.read("nothing") is None


def test_a_report_counts_from_its_manifest_on_and_the_same_again_changes_nothing(
    store: stores.Store, tmp_path: Path
) -> None:
    local = put(tmp_path, RUN, "one")
    assert stores.publish(local, store, PLACE) == PLACE
    assert names(store) == [f"{PLACE}/{publishing.MANIFEST}", f"{PLACE}/report.parquet"]
    before = {e.name: e.changed for e in store.list()}
    assert stores.publish(local, store, PLACE) == PLACE
    assert {e.name: e.changed for e in store.list()} == before
    copy = stores.fetch_report(store.address(PLACE), tmp_path / "cache")
    assert {p.name: p.read_bytes() for p in copy.iterdir()} == {
        p.name: p.read_bytes() for p in local.iterdir()
    }


def test_what_a_dead_run_left_counts_for_nothing_and_is_cleared(store: stores.Store, tmp_path: Path) -> None:
    store.put(f"{PLACE}/report.parquet", b"half of anoth")
    store.put(f"{PLACE}/images/rank-000001.png", b"of a dead run")
    dead = json.dumps({"host": "elsewhere", "pid": 1, "token": "x", "turn": 0}).encode()
    store.put("weather/.publishing-as_of=20130101T000000Z.lock-000007", dead)
    with pytest.raises(InputError, match="is not a published report"):
        stores.fetch_report(store.address(PLACE), tmp_path / "cache")
    from vae_core.stores import reports

    lasting = reports.lease
    with pytest.MonkeyPatch.context() as patch:  # a dead holder elsewhere is waited for: here not so long
        patch.setattr(reports, "lease", lambda s, name: lasting(s, name, seconds=1.0))
        stores.publish(put(tmp_path, RUN, "one"), store, PLACE)
    assert names(store) == [f"{PLACE}/{publishing.MANIFEST}", f"{PLACE}/report.parquet"]
    assert store.read(f"{PLACE}/report.parquet") == b"one"


def test_another_report_is_refused_or_laid_beside_and_pointed_to(store: stores.Store, tmp_path: Path) -> None:
    stores.publish(put(tmp_path / "1", RUN, "one"), store, PLACE)
    other = put(tmp_path / "2", OTHER, "two")
    with pytest.raises(Refused, match="--replace"):
        stores.publish(other, store, PLACE)
    assert stores.publish(other, store, PLACE, replace=True) == f"weather/run={OTHER[:12]}"
    assert store.read(f"{PLACE}/report.parquet") == b"one"
    assert stores.current(store, PLACE) == f"weather/run={OTHER[:12]}"
    copy = stores.fetch_report(store.address(PLACE), tmp_path / "cache")
    assert (copy / "report.parquet").read_bytes() == b"two"
    assert remote.places(store.address(), "weather") == ["as_of=20130101T000000Z"]
    told = remote.manifest_of(store.address(), "weather", "as_of=20130101T000000Z")
    assert told is not None
    assert told["run"] == OTHER
    found, damaged = stores.of_intervals(stores.open_store(store.address("weather")))
    assert (found, damaged) == ([(f"run={OTHER[:12]}", told)], [])
    store.put(f"weather/run={OTHER[:12]}/{publishing.MANIFEST}", b"{}")
    found, (damaged_line,) = stores.of_intervals(stores.open_store(store.address("weather")))
    assert not found
    assert "was changed or damaged after publishing" in damaged_line
    store.put(f"weather/run={OTHER[:12]}/{publishing.MANIFEST}", (other / publishing.MANIFEST).read_bytes())
    one = put(tmp_path / "1", RUN, "one")
    assert stores.publish(one, store, PLACE, replace=True) == PLACE
    assert stores.current(store, PLACE) == PLACE


def test_eight_runs_that_race_publish_one_report(store: stores.Store, tmp_path: Path) -> None:
    """Half of them with another report for the same place."""
    locals_ = [put(tmp_path / str(n), RUN if n % 2 else OTHER, "ab"[n % 2]) for n in range(8)]
    outcomes: list[str] = []

    def race(local: Path) -> None:
        try:
            stores.publish(local, stores.open_store(store.address()), PLACE)
            outcomes.append("published")
        except Refused:
            outcomes.append("refused")

    threads = [threading.Thread(target=race, args=(local,)) for local in locals_]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["published"] * 4 + ["refused"] * 4
    manifest = stores.read_manifest(store, PLACE)
    assert manifest is not None
    expected = b"b" if manifest["run"] == RUN else b"a"
    assert store.read(f"{PLACE}/report.parquet") == expected
    assert names(store) == [f"{PLACE}/{publishing.MANIFEST}", f"{PLACE}/report.parquet"]


def test_a_holder_that_slept_too_long_notices_that_it_lost_the_lease(store: stores.Store) -> None:
    with lease(store, "x/lock", seconds=60) as first:
        store.put("x/lock.lock-000002", b'{"host": "elsewhere"}')  # somebody took over
        with pytest.raises(InputError, match="taken over"):
            first.check()
    with lease(store, "x/lock", seconds=0.5) as later:
        assert later.number == 3
        later.check()


def test_only_what_has_changed_is_fetched_again(store: stores.Store, tmp_path: Path) -> None:
    for name in ("a.csv", "deep/b.csv", "_hidden.csv", "notes.txt"):
        store.put(f"raw/{name}", b"x\n1\n")
    time.sleep(3.1)
    first = stores.fetch(store.address("raw"), tmp_path)
    found = sorted(p.relative_to(first).as_posix() for p in first.rglob("*") if p.is_file())
    assert found == ["a.csv", "deep/b.csv"] and first.name == "raw"
    assert stores.fetch(store.address("raw"), tmp_path) == first
    store.put("raw/a.csv", b"x\n2\n")
    second = stores.fetch(store.address("raw"), tmp_path)
    assert (second / "a.csv").read_bytes() == b"x\n2\n" and (first / "a.csv").read_bytes() == b"x\n1\n"
    assert (second / "deep/b.csv").stat().st_ino == (first / "deep/b.csv").stat().st_ino
    assert stores.fetch(store.address("raw/a.csv"), tmp_path).read_bytes() == b"x\n2\n"
    assert stores.fetch(store.address("raw/*.csv"), tmp_path).is_dir()
    with pytest.raises(InputError, match="no data file"):
        stores.fetch(store.address("nowhere"), tmp_path)


def test_scoring_from_a_store_into_a_store_gives_the_local_report(
    store: stores.Store, in_shop: shop.Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.put("in/sales.csv", (in_shop.folder / "sales.csv").read_bytes())
    command = ["score", store.address("in/sales.csv"), *shop.SCORE[2:], "--as-of", "2024-01-25", "--json"]
    assert main([*command, "--output", store.address("out")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["folder"] == store.address("out/sales/as_of=20240125T000000Z") and told["published"]
    local = steps.score(
        "sales.csv", model="models:/shop@champion", output=str(tmp_path), start=shop.TRAINED_UNTIL,
        as_of="2024-01-25", replace=False, workers=1, members=None,
    )  # fmt: skip
    copy = stores.fetch_report(told["folder"], tmp_path / "cache")
    for file in Path(local["folder"]).iterdir():
        assert (copy / file.name).read_bytes() == file.read_bytes()
    assert main([*command, "--output", store.address("out")]) == 0
    assert not json.loads(capsys.readouterr().out)["published"]
    assert main(["report", told["folder"], "--top", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["records"][0]["record_id"] == shop.STRANGE
    assert main(["explain", told["folder"], shop.STRANGE]) == 0
    assert not list((in_shop.home / "outgoing").rglob("report.parquet"))
    capsys.readouterr()
    from pyarrow import fs

    remote, path = fs.FileSystem.from_uri(f"{told['folder']}/report.parquet")  # docs/operations.md
    ranked = ds.dataset(path, filesystem=remote).to_table().to_pandas()
    assert ranked.equals(pd.read_parquet(copy / "report.parquet"))


@pytest.mark.parametrize(
    "address",
    [
        "ftp://bucket/x",
        "s3://",
        "s3://key:secret@bucket/x",
        "s3://bucket/../x",
        "s3://bucket/a//b",
        "s3://[x/y",
    ],
)
def test_what_is_no_address_of_a_store_is_refused(address: str) -> None:
    with pytest.raises(InputError):
        stores.open_store(address)


def test_a_store_that_refuses_is_one_line_without_a_key(
    store: stores.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="no-such-bucket") as caught:
        stores.open_store("s3://no-such-bucket/x").read("y")
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="cannot be used"):
        stores.open_store("s3://bucket/x").read("y")


@pytest.fixture
def report(in_shop: shop.Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Two reports of the shop's last week: the second one of its last days."""
    command = [*shop.SCORE, "--output", str(tmp_path / "reports"), "--json"]
    folders = []
    for start in (shop.TRAINED_UNTIL, "2024-01-28"):
        assert main([*command, "--from", start]) == 0
        folders.append(json.loads(capsys.readouterr().out)["folder"])
    return folders


GENERATE = ["generate", "--model", "models:/shop@champion", "--n", "40", "--output"]


@pytest.mark.parametrize("name", ["new.parquet", "deep/new.csv", "diff.parquet", "deep/page.html"])
def test_a_file_that_a_command_writes_is_in_the_store_what_it_is_on_disk(
    store: stores.Store, report: list[str], name: str, tmp_path: Path
) -> None:
    commands = {
        "new": GENERATE,
        "dif": ["diff", *report, "--output"],
        "pag": ["report", report[0], "--html", "--output"],
    }
    command = commands[Path(name).name[:3]]
    before = set(Path().iterdir())
    assert main([*command, str(tmp_path / name)]) == main([*command, store.address(name)]) == 0
    assert name in names(store) and store.read(name) == (tmp_path / name).read_bytes()
    assert set(Path().iterdir()) == before, "a folder was named after the address"
    assert not list(Path(".elborank/scratch").iterdir())
    if not name.endswith("html"):  # a page is drawn anew
        store.put(name, b"precious")
        assert main([*command, store.address(name)]) == 3 and store.read(name) == b"precious"
        assert main([*command, store.address(name), "--replace"]) == 0
        assert store.read(name) == (tmp_path / name).read_bytes()


def test_nothing_is_written_into_a_published_report_in_a_store(
    store: stores.Store, in_shop: shop.Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stores.publish(put(tmp_path, RUN, "one"), store, PLACE)
    before = names(store)
    for name in ("new.parquet", "deep/new.parquet", "report.parquet"):
        assert main([*GENERATE, store.address(f"{PLACE}/{name}"), "--replace"]) == 2
        assert f"{store.address(PLACE)}: is published, and never written to" in capsys.readouterr().err
    assert names(store) == before


def test_images_and_their_contact_sheet_go_to_a_store(
    store: stores.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8))
    assert main(["train", "x.npy", "--name", "noise", "--steps", "20"]) == 0
    capsys.readouterr()
    command = ["generate", "--model", "models:/noise@champion", "--n", "2", "--json", "--output"]
    for output, sheet in (("made", "made/contact_sheet.png"), ("more.npz", "more-contact_sheet.png")):
        assert main([*command, store.address(output)]) == 0
        assert json.loads(capsys.readouterr().out)["contact_sheet"] == store.address(sheet)
    pictures = ["made/000001.png", "made/000002.png", "made/contact_sheet.png"]
    assert names(store) == [*pictures, "more-contact_sheet.png", "more.npz"]
    assert main([*command, store.address("made")]) == 3
    assert main([*command, "like.png", "--like", store.address("made/000001.png")]) == 2
    assert "--like takes a file of this machine, no address" in capsys.readouterr().err


def test_a_scheduled_generation_gives_each_interval_its_file_in_the_store(
    store: stores.Store, in_shop: shop.Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import generate, registry, synthetic

    monkeypatch.setattr(generate, "resolve", registry.resolve)  # without a server
    monkeypatch.setattr(generate, "write", synthetic.write_sample)
    due = {"model": "models:/shop@champion", "n": 3, "output": store.address("new.parquet"), "every": "3650d"}
    made = generate.generate_flow.fn(**due)["output"]
    assert made.startswith(store.address("new-20")) and [made] == [
        store.address(name) for name in names(store)
    ]
    assert generate.generate_flow.fn(**due) == {"output": made, "published": False}


@pytest.mark.parametrize("command", [["reports"], ["ingest"], ["score", "--model", "models:/shop@champion"]])
def test_a_bucket_that_is_not_there_is_said_to_be_missing(
    store: stores.Store, in_shop: shop.Shop, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command[0], "s3://nobucket/none", *command[1:]]) == 2
    assert "s3://nobucket: there is no such bucket. Make it" in capsys.readouterr().err
    assert main([command[0], store.address("none"), *command[1:]]) == 2
    assert store.address("none") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("AWS_ENDPOINT_URL", "127.0.0.1:9329", 'AWS_ENDPOINT_URL "127.0.0.1:9329" is no address of a server'),
        ("AWS_ENDPOINT_URL_S3", "http://store:port", 'AWS_ENDPOINT_URL_S3 "http://store:port" is no address'),
        ("AWS_ENDPOINT_URL", "me:word@store", 'AWS_ENDPOINT_URL "store" is no address'),
        ("AWS_PROFILE", "nothere", "The config profile (nothere) could not be found. Check AWS_ENDPOINT_URL"),
        ("AWS_DEFAULT_REGION", "bad region", "Provided region_name 'bad region' doesn't match"),
        ("AWS_ENDPOINT_URL", "http://a b:90", "Invalid endpoint"),
    ],
)
def test_a_wrong_setting_of_the_store_is_one_line_that_names_it(
    name: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv(name, value)
    assert main(["reports", "s3://bucket/x/alpha"]) == 2
    said = capsys.readouterr().err
    assert told in said and said.count("\n") == 1 and "word" not in said
