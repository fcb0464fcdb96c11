"""A report is there whole or not at all, whatever happens to the run, the disk, or a second run."""

from __future__ import annotations

import json
import os
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from vae_core import publishing, report
from vae_core.errors import InputError, Refused

RUN = "ab" * 32
OTHER = "cd" * 32
Contents = dict[str, bytes]  # of a folder, by file name
JANUARY = datetime(2013, 1, 1, tzinfo=UTC)


def contents(folder: Path) -> Contents:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", ".hidden", "a\\b"])
def test_a_dataset_cannot_name_a_folder_elsewhere(name: str) -> None:
    with pytest.raises(InputError, match="cannot name a folder"):
        publishing.final_folder(Path("out"), name, RUN)


# ------------------------------------------------------------------------------- replacing


def staged(final: Path, run: str, text: str) -> Path:
    staging = publishing.staging_folder(final, run)
    outgoing = staging / publishing.OUTGOING
    outgoing.mkdir(parents=True, exist_ok=True)
    (outgoing / "report.parquet").write_text(text)
    return staging


def place(tmp_path: Path, run: str = RUN) -> Path:
    return publishing.final_folder(tmp_path, "weather", run, JANUARY)


def put(tmp_path: Path, run: str, text: str, *, replace: bool = False) -> Path:
    final = place(tmp_path, run)
    return publishing.publish(staged(final, run, text), final, {"run": run}, replace=replace)


def text_of(folder: Path) -> str:
    return report.read_report(folder).path.read_text()


def test_another_report_for_the_same_interval_is_refused_and_the_first_stays(tmp_path: Path) -> None:
    first = put(tmp_path, RUN, "one")
    before = contents(first)
    with pytest.raises(Refused, match="--replace"):
        put(tmp_path, OTHER, "two")
    assert contents(first) == before
    assert text_of(place(tmp_path)) == "one"


def test_a_replacement_leaves_the_first_folder_untouched_and_moves_a_pointer(tmp_path: Path) -> None:
    first = put(tmp_path, RUN, "one")
    before = contents(first)
    second = put(tmp_path, OTHER, "two", replace=True)
    assert (first.name, second.name) == ("as_of=20130101T000000Z", "run=cdcdcdcdcdcd")
    assert contents(first) == before
    assert text_of(place(tmp_path)) == "two"
    assert text_of(second) == "two"
    with pytest.raises(Refused):
        put(tmp_path, RUN, "one")
    assert put(tmp_path, RUN, "one", replace=True) == first
    assert text_of(place(tmp_path)) == "one"
    assert put(tmp_path, OTHER, "two", replace=True) == second
    assert text_of(place(tmp_path)) == "two"


def test_a_pointer_that_points_nowhere_is_said_plainly(tmp_path: Path) -> None:
    put(tmp_path, RUN, "one")
    put(tmp_path, OTHER, "two", replace=True)
    pointer = tmp_path / "weather" / "_current-as_of=20130101T000000Z.json"
    for text in ("", "[]", '{"folder": 3}', '{"folder": "../elsewhere"}'):
        pointer.write_text(text)
        with pytest.raises(InputError, match="does not name a report folder"):
            report.read_report(place(tmp_path))
    pointer.write_text(json.dumps({"folder": "run=000000000000"}))
    with pytest.raises(InputError, match="is not a published report"):
        report.read_report(place(tmp_path))
    with pytest.raises(Refused):
        put(tmp_path, OTHER, "two")


def test_a_folder_that_is_no_report_is_never_written_over(tmp_path: Path) -> None:
    final = place(tmp_path)
    final.mkdir(parents=True)
    with pytest.raises(InputError, match="is in the way"):
        put(tmp_path, RUN, "one")
    assert list(final.iterdir()) == []


# ------------------------------------------------------------------------------- locks


def test_a_lock_keeps_a_second_run_waiting_and_leaves_no_file(tmp_path: Path) -> None:
    order: list[str] = []
    waits = threading.Event()

    def second() -> None:
        with publishing.lock(tmp_path / ".staging-1", on_wait=waits.set):
            order.append("second")

    with publishing.lock(tmp_path / ".staging-1"):
        thread = threading.Thread(target=second)
        thread.start()
        assert waits.wait(10)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert list(tmp_path.iterdir()) == []


def test_no_two_of_many_hold_the_lock_together(tmp_path: Path) -> None:
    held: list[int] = []
    most = 0

    def take(_: int) -> None:
        nonlocal most
        for _ in range(20):
            with publishing.lock(tmp_path / ".staging-1"):
                held.append(1)
                most = max(most, len(held))
                time.sleep(0.0005)
                held.pop()

    threads = [threading.Thread(target=take, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_what_a_run_left_that_was_killed_after_publishing_is_tidied_unless_it_is_held(tmp_path: Path) -> None:
    staging = tmp_path / ".staging-1"
    for name in (".staging-1.lock", ".publishing.lock"):
        (tmp_path / name).touch()
    staging.mkdir()
    with publishing.lock(staging):
        publishing.tidy(staging)
        assert staging.exists()
    publishing.tidy(staging)
    assert list(tmp_path.iterdir()) == []


def test_sweeping_takes_old_staging_folders_that_no_run_holds(tmp_path: Path) -> None:
    old, held, new = (tmp_path / f".staging-{name}" for name in ("old", "held", "new"))
    for staging in (old, held, new):
        (staging / "units").mkdir(parents=True)
        if staging != new:
            for path in (staging / "units", staging):
                os.utime(path, (0, 0))
    with publishing.lock(held):
        assert publishing.sweep(tmp_path) == [old]
    assert held.exists()
    assert new.exists()
    assert not old.exists()


def test_a_folder_in_a_files_place_is_named_and_stays(tmp_path: Path) -> None:
    (tmp_path / "page").mkdir()
    refused = pytest.raises(InputError, match=r"page: is a folder, not a file. Name a file in it")
    with refused, publishing.whole_file(tmp_path / "page"):
        raise AssertionError("it was begun")
    assert list(tmp_path.iterdir()) == [tmp_path / "page"]
