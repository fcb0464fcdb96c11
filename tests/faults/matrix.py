"""Every named step of every flow meets every fault; the same command again ends the work, bit for bit.

    python -m tests.faults.matrix [--kills 200] [--seed 0] [--only TEXT]

Cases run in forks of this process, which has everything imported and has computed nothing. Each prints its
seed; `--seed N --only "random kill N"` runs one random kill again.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests import shop
from tests.faults.points import FAULTS, POINTS, Point, plant

SECONDS = 240  # after which a run hangs
INGEST = ["ingest", "sales.csv", "--id", "sale", "--store", "store"]
TRAIN = ["train", "sales.csv", "--name", "shop", "--id", "sale", "--steps", "24", "--draws", "4"]
SCORE = ["score", "new.csv", "--model", "models:/shop@champion", "--output", "reports"]
GENERATE = ["generate", "--model", "models:/shop@champion", "--n", "40", "--output", "made/new.parquet"]
COMMANDS = {"ingest": INGEST, "train": TRAIN, "score": SCORE, "generate": GENERATE}
SHORT = (  # in `make test`; the second one once left a lock behind
    "ingest: note the quarantine x SIGKILL",
    "train: set the alias x SIGTERM",
    "score: it is visible x EIO",
    "generate: the file has its name x ENOSPC",
)
Contents = dict[str, bytes]


@dataclass(frozen=True)
class Ended:
    """How a run ended: its code (negative: by a signal), and what it said on standard error."""

    code: int
    said: str


class Place:
    """A working folder at one path, laid out anew for each case (registries hold absolute paths)."""

    def __init__(self, folder: Path) -> None:
        self.work, self.templates = folder / "work", folder / "templates"
        self.reference: dict[str, Contents] = {}
        self.seconds: dict[str, float] = {}

    def prepare(self) -> None:
        """The shop's table, an empty registry, a trained model; what undisturbed runs give."""
        self.work.mkdir(parents=True)
        table = shop.sales().head(240)
        table.to_csv(self.work / "sales.csv", index=False)
        table.tail(60).to_csv(self.work / "new.csv", index=False)
        with (self.work / "sales.csv").open("a") as file:
            file.write("s9999,soon,1,2,apple,True\n")  # one record for the quarantine
        self.undisturbed(["models", "list"])  # the registry's tables: seconds that no case has to spend
        self.keep("ingest", "train")
        for flow in ("ingest", "train", "score", "generate"):
            if flow == "score":
                self.lay("train")
                self.undisturbed(TRAIN)
                self.keep("score", "generate")
            self.lay(flow)
            began = time.monotonic()
            self.undisturbed(COMMANDS[flow])
            self.seconds[flow] = time.monotonic() - began
            self.reference[flow] = self.results(flow)
            assert self.reference[flow], flow

    def keep(self, *names: str) -> None:
        for name in names:
            shutil.copytree(self.work, self.templates / name)

    def lay(self, flow: str) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.templates / flow, self.work)

    # ------------------------------------------------------------------------ runs

    def start(self, command: list[str], point: Point | None = None, fault: str = "") -> int:
        """A fork that runs a command in the working folder, in a process group of its own."""
        sys.stdout.flush()
        number = os.fork()
        if number:
            return number
        code = 70
        try:
            os.setsid()
            os.chdir(self.work)
            os.environ["TMPDIR"] = str(self.work)
            tempfile.tempdir = None
            os.environ["ELBORANK_HOME"] = str(self.work / ".elborank")
            out = os.open(self.work / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1)
            os.dup2(out, 2)
            for name in ("SIGTERM", "SIGINT"):
                signal.signal(getattr(signal, name), signal.SIG_DFL)
            if point is not None:
                plant(point, fault)
            from flows.cli import main

            code = main(command)
        except BaseException:  # noqa: BLE001 - whatever it is, the parent is told and this process ends
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def end(self, number: int, seconds: float = SECONDS) -> Ended:
        """Wait for a run; nothing of its process group may outlive it."""
        limit = time.monotonic() + seconds
        while True:
            done, status = os.waitpid(number, os.WNOHANG)
            if done:
                break
            if time.monotonic() > limit:
                os.killpg(number, signal.SIGKILL)
                os.waitpid(number, 0)
                raise AssertionError("it hangs")
            time.sleep(0.005)
        with contextlib.suppress(ProcessLookupError):
            for _ in range(100):
                os.killpg(number, 0)
                time.sleep(0.05)
            raise AssertionError("a process outlived its run")
        path = self.work / "said"
        return Ended(os.waitstatus_to_exitcode(status), path.read_text() if path.exists() else "")

    def undisturbed(self, command: list[str]) -> None:
        ended = self.end(self.start(command))
        assert ended.code == 0, f"{' '.join(command)}: {ended.code}\n{ended.said}"

    # ------------------------------------------------------------------------ what there is

    def results(self, flow: str) -> Contents:
        """What a user sees of a flow's results; each must be whole."""
        return RESULTS[flow](self.work)

    def leftovers(self) -> list[str]:
        """Hidden and temporary things that a finished run must not leave behind."""
        found = [
            p for p in self.work.rglob("*") if p.name.startswith((".staging-", ".ingest-", ".fetching-"))
        ]
        found += [p for p in self.work.rglob("*") if ".tmp-" in p.name or p.name.endswith(".lock")]
        made = self.work / "made"
        found += [p for p in made.iterdir() if p.name.startswith(".")] if made.is_dir() else []
        found += [p for p in self.work.iterdir() if p.name.startswith("elborank-")]
        return sorted(str(path.relative_to(self.work)) for path in found)


# ------------------------------------------------------------------------------- results


def of_ingest(work: Path) -> Contents:
    from vae_core import sources

    found: Contents = {}
    for folder in (work / "store").glob("sales/*"):
        if not folder.name.startswith("."):
            data = sources.open_dataset(folder)
            assert sum(batch.num_rows for batch in sources.batches(data)) == data.rows == 240
            found |= {f"{folder.name}/{p.name}": p.read_bytes() for p in folder.iterdir()}
    return found


def registry_of(work: Path) -> contextlib.closing[sqlite3.Connection]:
    path = work / ".elborank" / "mlflow.db"
    return contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True))


def running_in_mlflow(work: Path) -> int:
    """Runs that nobody has ended."""
    with registry_of(work) as database:
        found = database.execute("SELECT count(*) FROM runs WHERE status = 'RUNNING'").fetchone()
    return int(found[0])


def of_train(work: Path) -> Contents:
    """The champion's files, by the registry itself."""
    with registry_of(work) as database:
        versions = dict(
            database.execute("SELECT version, storage_location FROM model_versions WHERE name = 'shop'")
        )
        aliases = dict(
            database.execute("SELECT alias, version FROM registered_model_aliases WHERE name = 'shop'")
        )
    from vae_core import storage

    champion: Contents = {}
    for number, place in versions.items():
        folder = Path(str(place).removeprefix("file://")) / "artifacts" / "model"
        storage.load(folder)  # every version that can be seen is whole
        if aliases.get("champion") == number:
            champion = {p.name: p.read_bytes() for p in folder.iterdir()}
    return champion


def of_score(work: Path) -> Contents:
    from vae_core import report

    found: Contents = {}
    for folder in (work / "reports").glob("*/*"):
        if not folder.name.startswith("."):
            assert report.verify(folder)["counts"]["ranked"] == 60
            found |= {f"{folder.name}/{p.name}": p.read_bytes() for p in folder.iterdir()}
    return found


def of_generate(work: Path) -> Contents:
    folder = work / "made"
    return {p.name: p.read_bytes() for p in folder.glob("*") if not p.name.startswith(".")}


RESULTS = {"ingest": of_ingest, "train": of_train, "score": of_score, "generate": of_generate}


# ------------------------------------------------------------------------------- cases


def check_after(place: Place, flow: str, ended: Ended) -> None:
    """After the fault nothing half is visible; the same command again gives what an undisturbed run gives."""
    assert "Traceback" not in ended.said, ended.said
    assert place.results(flow) in ({}, place.reference[flow]), "something half is visible"
    command = COMMANDS[flow]
    if flow == "generate" and place.results(flow):
        command = [*command, "--replace"]  # else the file that is there is refused: exit code 3
    place.undisturbed(command)
    assert place.results(flow) == place.reference[flow], "another result"
    left = place.leftovers()
    assert not left, f"left behind: {left}"
    assert not (running := running_in_mlflow(place.work)), f"{running} runs in MLflow never ended"


def meet(place: Place, point: Point, fault: str) -> str:
    """One step meets one fault. How the run ended."""
    place.lay(point.flow)
    ended = place.end(place.start(COMMANDS[point.flow], point, fault))
    expected = {-getattr(signal, fault)} if fault.startswith("SIG") else {2}
    assert ended.code in expected | {0}, f"exit code {ended.code}: {ended.said}"
    assert ended.code != 0 or not fault.startswith("SIG"), "the step was not reached"
    check_after(place, point.flow, ended)
    return "met" if ended.code else "went on"


def random_kill(place: Place, seed: int) -> str:
    """A kill at any moment of any flow; one that comes too late is tried again, sooner."""
    generator = np.random.default_rng(seed)
    flow = sorted(COMMANDS)[seed % len(COMMANDS)]
    wait = place.seconds[flow]
    while True:
        place.lay(flow)
        wait = generator.uniform(0, wait)
        number = place.start(COMMANDS[flow])
        time.sleep(wait)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(number, signal.SIGKILL)
        ended = place.end(number)
        if ended.code < 0:
            break
    check_after(place, flow, ended)
    return f"{flow}: killed after {wait:.2f} s"


def warm_up() -> None:
    """Import all that the commands import, and run nothing: threads would not survive the fork."""
    os.environ |= {"OMP_NUM_THREADS": "1", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        os.environ.pop(name, None)
    import mlflow
    import mlflow.models
    import mlflow.pyfunc
    import mlflow.store.tracking.sqlalchemy_store
    import sklearn.ensemble  # noqa: F401 - loaded once here, for all forks
    import torch

    from flows import cli, pictures, remote, steps, synthetic  # noqa: F401 - the same
    from vae_core import explanation, job, realism, report, storage, training  # noqa: F401 - the same

    torch.set_num_threads(1)
    _ = mlflow.MlflowClient


@contextlib.contextmanager
def prepared() -> Iterator[Place]:
    """A place with its references, in a folder that goes when the work is done."""
    warm_up()
    with tempfile.TemporaryDirectory(prefix="elborank-faults-") as folder:
        place = Place(Path(folder))
        place.prepare()
        yield place


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="Only cases whose name holds this.")
    parser.add_argument("--short", action="store_true", help="One step of each flow, each fault once.")
    options = parser.parse_args()
    wrong: list[str] = []
    count = 0
    with prepared() as place:
        cases = [(f"{point} x {fault}", point, fault) for point in POINTS for fault in FAULTS]
        if options.short:
            cases = [case for case in cases if case[0] in SHORT]
            options.kills = 0
        cases += [
            (f"random kill {options.seed + n}", None, str(options.seed + n)) for n in range(options.kills)
        ]
        for name, point, fault in cases:
            if options.only not in name:
                continue
            count += 1
            try:
                told = meet(place, point, fault) if point else random_kill(place, int(fault))
            except AssertionError as problem:
                told = f"WRONG: {problem}"
                wrong.append(name)
            print(f"{count:4}  {name} (seed {fault if point is None else 0}): {told}", flush=True)
    print(
        f"{count} cases over {len(POINTS)} steps, {len(wrong)} wrong{': ' if wrong else ''}{'; '.join(wrong)}"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
