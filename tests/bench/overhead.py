"""A job of 1,000 rows: processor seconds of everything beside the computing, stage by stage.

    python -m tests.bench.overhead [--rows 1000] [--repeats 3]     (make bench-overhead)

`elborank score` as a user types it, in a process of its own; and the same verbs one by one, timed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STAGES = """
import json, sys, time
from pathlib import Path
from types import SimpleNamespace
last = time.process_time()
spent = {"start of Python": last}
def note(name):
    global last
    now = time.process_time()
    spent[name], last = round(now - last, 3), now
import flows.cli
from flows import collector
note("command line: typer, rich")
with collector.paused():  # as the command does
    import torch
    note("import torch")
    import pandas, pyarrow.parquet
    note("import pandas, pyarrow")
    import mlflow
    note("import mlflow")
    from flows import registry, steps
    from vae_core import job, publishing, storage
    note("import our own")
    version = registry.resolve("models:/bench@champion")
    note("registry: resolve the model")
    reads = steps.as_the_model_reads(version)
data = steps.ingest("rows.csv", dataset="bench", **reads)
note("ingest: read, type, check")
what = job.Job(data.folder, version.folder, Path("reports"), model_name="bench", model_version="1")
plan = job.prepare(what)
with publishing.lock(plan.staging):
    results = job.score(plan)
    note("compute: score")
    manifest = job.rank(plan, results)
    note("compute: rank, explain, write")
    job.publish(plan, manifest)
    note("publish")
print(json.dumps(spent))
"""


def make_table(path: Path, rows: int) -> None:
    import numpy as np
    import pandas as pd

    generator = np.random.default_rng(0)
    mixing = generator.normal(size=(3, 12))
    values = generator.normal(size=(rows, 3)) @ mixing + 0.3 * generator.normal(size=(rows, 12))
    pd.DataFrame(values, columns=[f"c{j}" for j in range(12)]).to_csv(path, index=False)


def run(command: list[str], folder: Path) -> tuple[float, str]:
    """Processor seconds of a command and its children, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(done.stderr + done.stdout)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, help="Where to write the results as JSON.")
    options = parser.parse_args()
    elborank = [sys.executable, "-m", "flows.cli"]
    with tempfile.TemporaryDirectory(prefix="elborank-overhead-") as temporary:
        folder = Path(temporary)
        make_table(folder / "train.csv", 2000)
        make_table(folder / "rows.csv", options.rows)
        run([*elborank, "train", "train.csv", "--name", "bench", "--steps", "50"], folder)
        whole, stages = [], []
        for number in range(options.repeats):
            command = [*elborank, "score", "rows.csv", "--model", "models:/bench@champion"]
            whole.append(run([*command, "--output", f"out-{number}"], folder)[0])
            for old in (folder / "reports").glob("*/*"):
                old.rename(folder / f"old-{number}-{time.monotonic_ns()}")
            seconds, told = run([sys.executable, "-c", STAGES], folder)
            stages.append(json.loads(told))
            stages[-1]["end of the process"] = seconds - sum(stages[-1].values())
    by_stage = {name: round(statistics.median(stage[name] for stage in stages), 2) for name in stages[0]}
    by_stage["command, besides"] = round(statistics.median(whole) - sum(by_stage.values()), 2)
    compute = sum(value for name, value in by_stage.items() if name.startswith("compute"))
    result = {"rows": options.rows, "command_cpu_seconds": [round(w, 2) for w in whole], "stages": by_stage}
    result |= {
        "beside_the_computing": round(statistics.median(whole) - compute, 2),
        "load": os.getloadavg()[0],
    }
    print(json.dumps(result, indent=1))
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
