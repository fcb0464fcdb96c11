"""Kill `elborank score` at random moments, run the same command again: one report, the same bytes each time.

    python -m tests.bench.kill [--kills 20] [--rows 4000]

Half of the moments are spread over the whole command, most of which is starting up; the others over the time
after its staging folder has appeared. A visible folder that is not a whole report fails at once.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vae_core import report

ELBORANK = [sys.executable, "-m", "flows.cli"]


def published(output: Path) -> dict[str, bytes] | None:
    """The one visible report under an output folder, verified: its files by name. None: no report yet."""
    folders = [path for path in output.glob("*/*") if not path.name.startswith(".")]
    if not folders:
        return None
    assert len(folders) == 1, f"{len(folders)} folders are visible"
    report.verify(folders[0])
    return {path.name: path.read_bytes() for path in sorted(folders[0].iterdir())}


def run(command: Sequence[str], folder: Path) -> float:
    """Seconds of an undisturbed run; the command must succeed."""
    start = time.monotonic()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return time.monotonic() - start


def run_and_kill(command: Sequence[str], folder: Path, output: Path, *, delay: float, staged: bool) -> bool:
    """Start, wait `delay` seconds (from the start, or from the staging folder on), kill. Was it running?"""
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    while staged and process.poll() is None and not list(output.glob("*/.staging-*")):
        time.sleep(0.01)
    time.sleep(delay)
    process.kill()
    return process.wait() == -signal.SIGKILL


def kill_again_and_again(
    command: Sequence[str], folder: Path, output: Path, *, kills: int, random_state: int = 0
) -> tuple[int, int]:
    """Returns how many of the kills hit a running command, and how many left a staging folder behind."""
    generator = np.random.default_rng(random_state)
    start = time.monotonic()
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not list(output.glob("*/.staging-*")):
        time.sleep(0.01)
    before = time.monotonic() - start
    _, errors = process.communicate()
    working = time.monotonic() - start - before
    assert process.returncode == 0, errors
    reference = published(output)
    assert reference is not None
    hit = inside = 0
    for number in range(kills):
        shutil.rmtree(output)
        staged = bool(number % 2)
        delay = generator.uniform(0, 0.9 * (working if staged else before + working))
        hit += run_and_kill(command, folder, output, delay=delay, staged=staged)
        inside += bool(list(output.glob("*/.staging-*")))
        assert published(output) in (None, reference), "a half report is visible"
        run(command, folder)
        assert published(output) == reference, "another report"
        assert not list(output.glob("*/.*")), "something hidden was left"
    return hit, inside


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rows", type=int, default=4000)
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
    with tempfile.TemporaryDirectory(prefix="elborank-kill-") as temporary:
        folder = Path(temporary)
        from tests import shop

        table = shop.sales()
        table.to_csv(folder / "sales.csv", index=False)
        run([*ELBORANK, *shop.TRAIN], folder)
        more = table.sample(options.rows, replace=True, random_state=0)
        more["sale"] = [f"m{number:06d}" for number in range(len(more))]
        more.to_csv(folder / "more.csv", index=False)
        command = [*ELBORANK, "score", "more.csv", "--model", "models:/shop@champion", "--output", "reports"]
        hit, inside = kill_again_and_again(command, folder, folder / "reports", kills=options.kills)
    print(
        f"{options.kills} kills, {hit} of a running command, {inside} amid its work: always the same report"
    )


if __name__ == "__main__":
    main()
