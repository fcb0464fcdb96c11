"""Eight runs of one job at once, twenty times: one report each time, and only one run published it.

python -m tests.faults.overlap [--times 20]
"""

from __future__ import annotations

import argparse
import tempfile
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.stand_in import make_dataset, make_job
from vae_core import job, report


def overlapping(data: Path, output: Path, runs: int = 8, **settings: Any) -> list[job.Outcome]:
    """So many runs of one job at once."""
    outcomes: list[job.Outcome] = []
    start = threading.Barrier(runs)

    def go() -> None:
        start.wait()
        outcomes.append(job.run(make_job(data, output, **settings)))

    threads = [threading.Thread(target=go) for _ in range(runs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--times", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="elborank-overlap-") as temporary:
        folder = Path(temporary)
        data = make_dataset(folder, rows=1000, files=2)
        for number in range(options.times):
            as_of = datetime(2013, 1, 1, tzinfo=UTC) + timedelta(hours=number)
            outcomes = overlapping(data, folder / "reports", as_of=as_of)
            assert sorted(outcome.fresh for outcome in outcomes) == [False] * 7 + [True]
            assert len({outcome.folder for outcome in outcomes}) == 1
        reports = sorted((folder / "reports").glob("*/*"))
        assert len(reports) == options.times, reports
        for place in reports:
            report.verify(place)
        assert not list((folder / "reports").glob("*/.*"))
    print(f"8 overlapping runs, {options.times} times: {len(reports)} reports, one each time")


if __name__ == "__main__":
    main()
