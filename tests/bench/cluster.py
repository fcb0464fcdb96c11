"""Score on a Ray cluster of two nodes, on this machine: the local engine's bits, whatever is killed.

    python -m tests.bench.cluster [--rows 1000000] [--kills 10]     (make bench-cluster)

First a real model on real files: local engine against two actors, the bytes of every unit and of the report
compared. Then actors, nodes and the driver are killed with SIGKILL at random moments, so many times each;
the driver is run again. Each time there must be one report with the bytes of the undisturbed one.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.kill import published
from tests.stand_in import make_dataset, make_job

ACTOR = b"ray::_Worker"
PAUSE = 0.15  # seconds a unit of the stand-in model takes


def drive(dataset: str, output: str, pause: str) -> None:
    """The job as a process of its own, on the cluster that RAY_ADDRESS names."""
    from vae_core import job

    job.run(make_job(Path(dataset), Path(output), pause=float(pause)), engine="ray", workers=2)


def start_cluster() -> Any:
    """A head without processors for actors, and two nodes of two processors each."""
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0"}
    from ray.cluster_utils import Cluster

    size = {"object_store_memory": 100 * 2**20}
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **size}
    )
    for _ in range(2):
        cluster.add_node(num_cpus=2, **size)
    cluster.wait_for_nodes()
    os.environ["RAY_ADDRESS"] = cluster.address
    return cluster


def actors() -> list[int]:
    """Process ids of the actors of our own cluster: descendants of this process."""
    parents, named = {}, []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if (entry / "cmdline").read_bytes().startswith(ACTOR):
                named.append(int(entry.name))
        except (OSError, IndexError):
            continue
    return [pid for pid in named if os.getpid() in _ancestors(pid, parents)]


def _ancestors(pid: int, parents: dict[int, int]) -> list[int]:
    line = []
    while pid := parents.get(pid, 0):
        line.append(pid)
    return line


def begin(dataset: Path, output: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.bench.cluster", "--drive", str(dataset), str(output), str(PAUSE)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors.decode()[-3000:]


def units_done(output: Path) -> int:
    return len(list(output.glob("*/.staging-*/units/*.json")))


def kill(what: str, cluster: Any, process: subprocess.Popen[bytes], generator: np.random.Generator) -> bool:
    """Kill one, and say whether the job was still at work."""
    running = process.poll() is None
    if what == "actor":
        if not (alive := actors()):
            return False
        os.kill(int(generator.choice(alive)), signal.SIGKILL)
    elif what == "node":
        node = list(cluster.worker_nodes)[int(generator.integers(2))]
        cluster.remove_node(node, allow_graceful=False)
        cluster.add_node(num_cpus=2, object_store_memory=100 * 2**20)
    else:
        process.kill()
        process.wait()
    return running


def kill_again_and_again(cluster: Any, folder: Path, kills: int, seed: int = 0) -> dict[str, int]:
    """How many of the kills, of each kind, hit a job at work."""
    generator = np.random.default_rng(seed)
    dataset, output = make_dataset(folder, rows=9000, files=3), folder / "reports"
    finish(begin(dataset, output))
    reference = published(output)
    assert reference is not None
    hits = {}
    for what in ("actor", "node", "driver"):
        hits[what] = 0
        for _ in range(kills):
            shutil.rmtree(output)
            process = begin(dataset, output)
            moment = int(generator.integers(1, 25))
            while process.poll() is None and units_done(output) < moment:
                time.sleep(0.02)
            hits[what] += kill(what, cluster, process, generator)
            if what == "driver":
                assert published(output) in (None, reference), "a half report is visible"
                process = begin(dataset, output)
            finish(process)
            assert published(output) == reference, f"another report after the {what} was killed"
        print(f"{what}: {kills} kills, {hits[what]} of a job at work: always the same report", flush=True)
    return hits


def same_bits(folder: Path, rows: int) -> dict[str, Any]:
    """A real model on real files: seconds of the local engine and of Ray, and whether all bytes agree."""
    from tests.bench.memory import make_raw, train
    from vae_core import job, publishing, sources

    model = train(folder)
    raw = folder / "rows" / "rows.parquet"
    raw.parent.mkdir()
    make_raw(raw, rows)
    data = sources.ingest(raw, folder / "store").folder
    seconds, sums, reports = {}, {}, {}
    for engine, workers in (("local", 2), ("ray", 2)):
        what = job.Job(data, model, folder / engine, draws=1, members=("vae",))
        start, plan = time.monotonic(), job.prepare(what)
        with publishing.lock(plan.staging):
            results = job.score(plan, engine=engine, workers=workers)
            sums[engine] = [(result.id, result.sha256) for result in results]
            published_at = job.publish(plan, job.rank(plan, results, engine=engine, workers=workers))
        seconds[engine] = round(time.monotonic() - start, 1)
        reports[engine] = publishing.read_manifest(published_at)["files"]
    assert sums["local"] == sums["ray"], "units differ"
    assert reports["local"] == reports["ray"], "reports differ"
    return {"rows": rows, "units": len(sums["ray"]), "bitwise_equal": True, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--output", type=Path, help="Where to write the results as JSON.")
    parser.add_argument("--drive", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        drive(*options.drive)
        return
    cluster = start_cluster()
    try:
        with tempfile.TemporaryDirectory(prefix="elborank-cluster-") as temporary:
            folder = Path(temporary)
            result: dict[str, Any] = {"kills": options.kills}
            if options.rows:
                result["same_bits"] = same_bits(folder, options.rows)
                print(json.dumps(result["same_bits"]), flush=True)
            result["hit_at_work"] = kill_again_and_again(cluster, folder / "kills", options.kills)
    finally:
        cluster.shutdown()
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
