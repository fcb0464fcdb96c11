"""Scoring, from Parquet to a ranked Parquet file: this detector, its peers and the bound, interleaved.

    python -m tests.bench.speed [--rows 3000000] [--peer-rows 60000] [--repeats 5]     (make bench-speed)

One core each (the process is pinned, torch has one thread): microseconds of processor time a record, medians
and ranges over the repetitions, the machine's load beside them. The bound is what no code can beat here:
reading the records, the network's matrix products, writing the report, measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch

from tests.bench.memory import make_raw
from vae_core import job, sources, storage, training
from vae_core.scoring import FittedModel

Measured = dict[str, list[float]]
OURS: dict[str, dict[str, Any]] = {  # name -> the job's options
    "vae, 1 draw": {"draws": 1, "members": ("vae",)},
    "vae, 16 draws": {"draws": 16, "members": ("vae",)},
    "default": {},
}


def make_model(folder: Path) -> Path:
    """The shipped recipe, fitted to records of the same making."""
    make_raw(folder / "train.parquet", 20_000)
    data = sources.ingest(folder / "train.parquet", folder / "store")
    settings = training.Settings(steps=600)
    storage.save(training.fit(lambda: sources.batches(data), settings=settings), folder / "shipped")
    return folder / "shipped"


def timed(work: Callable[[], Any], rows: int) -> tuple[float, float]:
    """Microseconds a record: processor time, and by the clock."""
    start, cpu = time.perf_counter(), time.process_time()
    work()
    return (time.process_time() - cpu) / rows * 1e6, (time.perf_counter() - start) / rows * 1e6


def score(data: Path, output: Path, model: Path, options: dict[str, Any], **more: Any) -> Path:
    """One scoring job of ours; its report's folder. One record in 300 gets reasons: 10,000 of 3 million."""
    given = dict(options) | {"explained": max(1, sources.open_dataset(data).rows // 300)}
    return job.run(job.Job(data, model, Path(tempfile.mkdtemp(dir=output)), **given), **more).folder


def products(model: FittedModel, rows: int, draws: int) -> None:
    """The network's matrix products and nothing else, in the shapes that scoring uses."""
    a, batch = model.vae.architecture, model.batch_rows
    m = len(a.likelihoods)
    sizes = [m, *a.hidden]
    encoder = [*pairwise(sizes), (sizes[-1], 2 * a.latent), (m, a.latent)]
    sizes = [a.latent, *a.hidden]
    decoder = [*pairwise(sizes), (sizes[-1], 2 * m), (a.latent, 2 * m)]
    shapes = [(shape, 1) for shape in encoder] + [(shape, draws) for shape in decoder]
    ready = [
        (torch.zeros(a.members, 1, o), torch.randn(a.members, batch, i), torch.randn(a.members, i, o), times)
        for (i, o), times in shapes
    ]
    for _ in range(-(-rows // batch)):
        for bias, x, weight, times in ready:
            for _ in range(times):
                torch.baddbmm(bias, x, weight)


def read_all(data: Path) -> None:
    """The records as Arrow tables, page checksums verified."""
    opened = sources.open_dataset(data)
    for unit in job.cut(opened):
        sources.read(opened, unit)


def peers(train: np.ndarray) -> dict[str, tuple[Callable[[np.ndarray], np.ndarray], int]]:
    """Fitted peers: name -> scoring function, and the share of the peer rows that it is given (1: all)."""
    from pyod.models.ecod import ECOD
    from pyod.models.vae import VAE
    from sklearn.decomposition import PCA
    from sklearn.ensemble import IsolationForest
    from sklearn.neighbors import NearestNeighbors
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(train)
    scaled = scaler.transform(train)
    found: dict[str, tuple[Callable[[np.ndarray], np.ndarray], int]] = {}
    for name, size in (("PyOD VAE, default", 32), ("PyOD VAE, batch 4096", 4096)):
        vae = VAE(batch_size=size, epoch_num=1, verbose=0, random_state=0).fit(train)
        found[name] = (vae.decision_function, 1)
    found["pythae VAE"] = (_pythae(scaled.shape[1], scaler), 1)
    forest = IsolationForest(random_state=0).fit(scaled)
    found["Isolation Forest"] = (lambda x: -forest.score_samples(scaler.transform(x)), 1)
    ecod = ECOD().fit(scaled[:5000])
    found["ECOD (fitted on 5,000)"] = (lambda x: ecod.decision_function(scaler.transform(x)), 8)
    nearest = NearestNeighbors(n_neighbors=5).fit(scaled)
    found["kNN"] = (lambda x: nearest.kneighbors(scaler.transform(x))[0].mean(1), 16)
    pca = PCA(n_components=6).fit(scaled)
    found["probabilistic PCA"] = (lambda x: -pca.score_samples(scaler.transform(x)), 1)
    return found


def _pythae(columns: int, scaler: Any) -> Callable[[np.ndarray], np.ndarray]:
    from pythae.models import VAE, VAEConfig

    vae = VAE(VAEConfig(input_dim=(columns,), latent_dim=8)).eval()

    @torch.no_grad()
    def negative_elbo(x: np.ndarray) -> np.ndarray:
        parts = []
        for batch in torch.from_numpy(scaler.transform(x).astype(np.float32)).split(4096):
            code = vae.encoder(batch)
            deviation = (0.5 * code.log_covariance).exp()
            z = code.embedding + deviation * torch.randn_like(deviation)
            miss = 0.5 * (vae.decoder(z).reconstruction - batch).square().sum(-1)
            kl = -0.5 * (1 + code.log_covariance - code.embedding.square() - deviation.square()).sum(-1)
            parts.append(miss + kl)
        return torch.cat(parts).numpy()

    return negative_elbo


def peer_job(raw: Path, output: Path, scorer: Callable[[np.ndarray], np.ndarray], rows: int) -> None:
    """What a script around a peer does: read, score, sort, write."""
    frame = pd.read_parquet(raw)
    scores = scorer(frame.to_numpy()[:rows])
    order = np.argsort(-scores, kind="stable")
    ranked = pd.DataFrame({"rank": np.arange(1, rows + 1), "row": order + 1, "score": scores[order]})
    ranked.to_parquet(output / "peer.parquet")


def summary(values: list[float]) -> dict[str, float]:
    return {
        name: round(f(values), 3) for name, f in (("median", statistics.median), ("min", min), ("max", max))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=3_000_000, help="For one draw.")
    parser.add_argument("--slow-rows", type=int, default=300_000, help="For 16 draws and the default.")
    parser.add_argument("--peer-rows", type=int, default=60_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, help="Where to write the results as JSON.")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[0]})
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="elborank-speed-") as temporary:
        result = run(Path(temporary), options, cores)
    for name, found in result["microseconds_a_record"].items():
        print(f"{name:32} {found['median']:9.2f}   ({found['min']:.2f} to {found['max']:.2f})")
    print(json.dumps({k: v for k, v in result.items() if k != "microseconds_a_record"}))
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n")


def run(folder: Path, options: argparse.Namespace, cores: list[int]) -> dict[str, Any]:
    model = make_model(folder)
    rows = {"many": options.rows, "some": options.slow_rows, "peers": options.peer_rows}
    data: dict[str, Path] = {}
    ingest = {}
    for name, count in rows.items():
        raw = folder / name / f"{name}.parquet"
        raw.parent.mkdir()
        make_raw(raw, count)
        ingest[name] = timed(lambda raw=raw, name=name: data.update(  # type: ignore[misc]
            {name: sources.ingest(raw, folder / "store", name=name).folder}), count)[0]  # fmt: skip
    known = pq.read_table(folder / "train.parquet").to_pandas().to_numpy()
    others = peers(known)
    cpu, clock, load = {}, {}, []
    shipped = storage.load(model)

    def note(name: str, work: Callable[[], Any], count: int) -> None:
        spent, waited = timed(work, count)
        cpu.setdefault(name, []).append(spent)
        clock.setdefault(name, []).append(waited)
        load.append(os.getloadavg()[0])
        print(f"{name}: {spent:.2f} microseconds a record", file=sys.stderr, flush=True)

    for _ in range(options.repeats):
        for name, chosen in OURS.items():
            size = "many" if chosen.get("draws") == 1 else "some"
            with tempfile.TemporaryDirectory(dir=folder) as output:
                note(name, partial(score, data[size], Path(output), model, chosen), rows[size])
                if name == "vae, 1 draw":
                    table = pq.read_table(next(Path(output).glob("*/*/*/report.parquet")))
                    target = Path(output) / "again.parquet"
                    again = partial(
                        pq.write_table, table, target, compression="zstd", write_page_checksum=True
                    )
                    note("bound: write", again, rows[size])
        note("bound: read", partial(read_all, data["many"]), rows["many"])
        note("bound: products", partial(products, shipped, rows["some"], 1), rows["some"])
        for name, (scorer, share) in others.items():
            count = rows["peers"] // share
            note(name, partial(peer_job, folder / "peers" / "peers.parquet", folder, scorer, count), count)
    os.sched_setaffinity(0, set(cores))
    two: dict[str, dict[int, list[float]]] = {name: {1: [], 2: []} for name in ("vae, 1 draw", "default")}
    for name, workers in product(two, (1, 2, 1, 2)):
        os.sched_setaffinity(0, set(cores[:workers]))
        with tempfile.TemporaryDirectory(dir=folder) as output:
            work = partial(score, data["many"], Path(output), model, OURS[name], workers=workers)
            two[name][workers].append(timed(work, rows["many"])[1])
    return result_of(
        cpu, clock, two, {"rows": rows, "ingest": ingest, "load": load, "repeats": options.repeats}
    )


def result_of(
    cpu: Measured, clock: Measured, two: dict[str, dict[int, list[float]]], facts: dict[str, Any]
) -> dict[str, Any]:
    median = {name: statistics.median(values) for name, values in cpu.items()}
    ends = median["bound: read"] + median["bound: write"]
    bound = {"vae, 1 draw": ends + median["bound: products"]}
    default, large = median["PyOD VAE, default"], median["PyOD VAE, batch 4096"]
    return {
        **facts,
        "load": summary(facts["load"]),
        "microseconds_a_record": {name: summary(values) for name, values in cpu.items()},
        "by_the_clock": {name: summary(values) for name, values in clock.items()},
        "times_pyod_default": {name: round(default / median[name], 2) for name in OURS},
        "times_pyod_4096": {name: round(large / median[name], 2) for name in OURS},
        "share_of_bound": {name: round(value / median[name], 3) for name, value in bound.items()},
        "two_cores_over_one": {name: round(min(own[1]) / min(own[2]), 2) for name, own in two.items()},
        "two_cores_clock": two,
    }


if __name__ == "__main__":
    main()
