"""What `--help` shows, and what it costs."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from itertools import pairwise

import pytest

from tests.test_cli import COMMANDS, run


@pytest.mark.parametrize("width", [80, 60])
@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_the_paragraphs_of_help_fill_the_terminal(
    command: str, width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert run(*command.split(), "--help") == 0
    shown = capsys.readouterr().out
    assert max(len(line) for line in shown.splitlines()) <= width
    lines = [line.rstrip() for line in shown.partition("╭")[0].splitlines()]
    for line, following in pairwise(lines):
        if line and following:
            room = width - 1 - len(line)  # a margin of one on the right
            assert len(following.split()[0]) + 1 > room, f"{line}\n{following}"


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_teaches_by_example_in_80_columns(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run(*command.split(), "--help") == 0
    shown = capsys.readouterr().out
    assert f"$ elborank {command}".rstrip() in shown
    assert max(len(line) for line in shown.splitlines()) <= 80


def test_help_takes_less_than_half_a_second_of_processor_time() -> None:
    def used() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "flows.cli", "--help"]
        subprocess.run(command, check=True, capture_output=True, env=os.environ)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    used()  # the first run after an installation writes byte code
    # The least of many: what a core's neighbours do to its caches comes and goes.
    assert any(used() < 0.5 for _ in range(25))


def test_the_command_line_imports_nothing_heavy() -> None:
    code = "import sys, flows.cli; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert not {"torch", "pandas", "numpy", "pyarrow", "mlflow", "prefect", "pydantic", "sklearn"} & set(
        loaded
    )
