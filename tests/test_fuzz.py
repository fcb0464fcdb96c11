"""The short tier of the fuzzing: `make fuzz` tries thousands (tests/fuzz.py)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.skipif(not hasattr(os, "fork"), reason="cases run in forks")
def test_mutated_files_are_read_as_something_or_refused_in_one_line() -> None:
    counts = ["--parquet", "50", "--csv", "50", "--images", "50", "--models", "20"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *counts],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" 0 wrong") == 4
