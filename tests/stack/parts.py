"""The parts of docker/compose.yaml as plain processes: the same settings, on ports of this machine.

PostgreSQL is Debian's, the store is moto's server; Prefect and MLflow start by docker/start.sh, as in their
containers. The servers and the worker see one clock, Debian's libfaketime, that the story can put forward.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
FAKETIME = "/usr/lib/*/faketime/libfaketimeMT.so.1"
POSTGRES = "/usr/lib/postgresql/*/bin/postgres"
INSTALL = "apt-get install postgresql faketime"


def found(pattern: str) -> Path:
    """The last file that a pattern finds."""
    files = sorted(Path("/").glob(pattern.lstrip("/")))
    if not files:
        raise SystemExit(f"stack-test: {pattern} is not here: {INSTALL}")
    return files[-1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Clock:
    """The time that all parts have: the real one and an offset that may grow."""

    def __init__(self, folder: Path, start: datetime) -> None:
        self.file = folder / "clock"
        self.offset = start.timestamp() - time.time() - 1
        self.put(start)

    def now(self) -> datetime:
        return datetime.fromtimestamp(time.time() + self.offset, UTC)

    def put(self, moment: datetime) -> None:
        """Forward only: servers do not bear a clock that goes back."""
        assert moment >= self.now(), f"it is {self.now():%a %H:%M:%S} already: this machine is too slow"
        self.offset = moment.timestamp() - time.time()
        partial = self.file.with_suffix(".new")
        partial.write_text(f"{self.offset:+.0f}s\n")
        partial.chmod(0o644)
        partial.replace(self.file)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(found(FAKETIME)),
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }


class Stack:
    """The running parts and how to reach them."""

    def __init__(self, folder: Path, start: datetime) -> None:
        self.folder, self.clock = folder, Clock(folder, start)
        names = ("postgres", "store", "prefect", "mlflow", "health")
        self.ports = {name: free_port() for name in names}
        self.compose = yaml.safe_load((DOCKER / "compose.yaml").read_text())
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        subprocess.run(
            [DOCKER / "make_secrets.sh", folder / "secrets"], check=True, stdout=subprocess.DEVNULL
        )

    # ---------------------------------------------------------------------------- settings

    def environment(self, service: str) -> dict[str, str]:
        """What the compose file gives a service, with the addresses of this machine."""
        image = re.findall(
            r"^(?:ENV)? +([A-Z_]+)=(\S+?)(?: \\)?$", (DOCKER / "Dockerfile").read_text(), re.MULTILINE
        )
        chosen = dict(image) | (self.compose["services"][service].get("environment") or {})
        for name, port in (("store", 9000), ("prefect", 4200), ("mlflow", 5000)):
            chosen = {
                k: re.sub(f"{name}:{port}", f"127.0.0.1:{self.ports[name]}", v) for k, v in chosen.items()
            }
        home = self.folder / service
        home.mkdir(exist_ok=True)
        chosen = {k: v.replace("/var/lib/elborank", str(home)) for k, v in chosen.items()}
        path = f"{Path(sys.executable).parent}:{found(POSTGRES).parent}:{os.environ['PATH']}"
        return (
            chosen
            | self.clock.environment
            | {
                "PATH": path,
                "HOME": str(home),
                "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'stack' / 'clock'}",
                "LISTEN": "127.0.0.1",
                "SECRETS_DIR": str(self.folder / "secrets"),
                "POSTGRES_HOST": "127.0.0.1",
                "POSTGRES_PORT": str(self.ports["postgres"]),
                "PREFECT_PORT": str(self.ports["prefect"]),
                "MLFLOW_PORT": str(self.ports["mlflow"]),
                "MLFLOW_HOSTS": f"127.0.0.1:{self.ports['mlflow']}",
                "PREFECT_WORKER_WEBSERVER_PORT": str(self.ports["health"]),
                # Sooner than by default, so that the story takes minutes.
                "PREFECT_WORKER_QUERY_SECONDS": "2",
                "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",
                "OMP_NUM_THREADS": "1",
            }
        )

    def secret(self, name: str) -> str:
        return (self.folder / "secrets" / name).read_text()

    # ---------------------------------------------------------------------------- processes

    def launch(self, name: str, command: list[Any], environment: Mapping[str, str], **more: Any) -> None:
        log = (self.folder / f"{name}.log").open("ab")
        self.processes[name] = subprocess.Popen(
            command,
            env=environment,
            cwd=environment["HOME"],
            stdout=log,
            stderr=log,
            start_new_session=True,
            **more,
        )

    def start(self, service: str, ready: Callable[[], bool]) -> None:
        command = self.compose["services"][service]["command"]
        self.launch(service, ["sh", DOCKER / "start.sh", *command], self.environment(service))
        self.wait(service, ready)

    def wait(self, what: str, ready: Callable[[], bool], seconds: float = 600) -> None:
        end = time.monotonic() + seconds
        while not ready():
            process = self.processes.get(what)
            if time.monotonic() > end or (process is not None and process.poll() is not None):
                raise AssertionError(f"{what} did not come:\n{self.log(what)}")
            time.sleep(0.5)

    def log(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace")[-6000:] if path.exists() else ""

    def stop(self, name: str, how: int = signal.SIGTERM) -> None:
        process = self.processes.pop(name)
        if process.poll() is None:
            process.send_signal(how)
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def stop_all(self) -> None:
        for name in [n for n in ("worker", "mlflow", "prefect", "store", "postgres") if n in self.processes]:
            self.stop(name, signal.SIGINT if name == "postgres" else signal.SIGTERM)

    # ---------------------------------------------------------------------------- the parts

    def start_postgres(self) -> None:
        """Debian's PostgreSQL in a folder of its own, not as root, with the compose file's arguments."""
        as_whom = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
        home = self.folder / "postgres"
        environment = self.environment("postgres")
        if as_whom:
            shutil.chown(home, "postgres", "postgres")
            self.folder.chmod(0o755)
        (home / "password").write_text(self.secret("postgres_password"))
        arguments = environment["POSTGRES_INITDB_ARGS"].split()
        quiet = {"stdout": subprocess.DEVNULL, "env": environment, "cwd": home, "check": True}
        initdb = ["initdb", "-D", str(home / "data"), "-U", "postgres", "--pwfile", str(home / "password")]
        subprocess.run([*initdb, *arguments], **quiet, **as_whom)
        port = str(self.ports["postgres"])
        command = [
            "postgres",
            "-D",
            str(home / "data"),
            "-p",
            port,
            "-c",
            "listen_addresses=127.0.0.1",
            "-k",
            str(home),
        ]
        self.launch("postgres", command, environment, **as_whom)
        asks = ["pg_isready", "-q", "-h", "127.0.0.1", "-p", port]
        self.wait("postgres", lambda: subprocess.run(asks, env=environment, check=False).returncode == 0)
        told = {"PGHOST": "127.0.0.1", "PGPORT": port, "PGPASSWORD": self.secret("postgres_password")}
        subprocess.run(["sh", DOCKER / "databases.sh"], env=environment | told, check=True)

    def start_store(self) -> None:
        port = self.ports["store"]
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        self.launch("store", command, self.environment("store"))
        self.wait("store", lambda: answers(f"http://127.0.0.1:{port}/"))
        done = self.typed(
            ["sh", DOCKER / "start.sh", *self.compose["services"]["buckets"]["command"]], "buckets"
        )
        assert done.returncode == 0, done.stderr

    def start_all(self) -> None:
        self.start_postgres()
        self.start_store()
        self.start("prefect", lambda: answers(f"http://127.0.0.1:{self.ports['prefect']}/api/health"))
        self.start("mlflow", lambda: answers(f"http://127.0.0.1:{self.ports['mlflow']}/health"))
        self.start_worker()

    def start_worker(self) -> None:
        self.start("worker", lambda: answers(f"http://127.0.0.1:{self.ports['health']}/health"))

    def typed(
        self, command: list[Any], service: str = "worker", **changed: str
    ) -> subprocess.CompletedProcess[str]:
        """A command in a service's environment; it asks servers, and does not need their clock."""
        environment = self.environment(service) | {"LD_PRELOAD": ""} | changed
        return subprocess.run(
            command, env=environment, cwd=environment["HOME"], capture_output=True, text=True, check=False
        )

    def elborank(self, *arguments: str, **changed: str) -> subprocess.CompletedProcess[str]:
        """As a user types it: docker compose run worker run elborank ..."""
        return self.typed(["sh", DOCKER / "start.sh", "run", "elborank", *arguments], **changed)


def answers(address: str, **headers: str) -> bool:
    return status_of(address, **headers) == 200


def status_of(address: str, **headers: str) -> int:
    """The code of an answer; 0 where there is none."""
    try:
        request = urllib.request.Request(address, headers=headers)
        with urllib.request.urlopen(request, timeout=5) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0
