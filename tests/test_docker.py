"""The files that describe the servers keep docs/operations.md's promises. No container engine is needed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows import dataset_file, deployments, prefect_server

ROOT = Path(__file__).resolve().parent.parent
DOCKER = ROOT / "docker"
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
SECRETS = (
    "postgres_password", "prefect_database", "mlflow_database", "prefect_password", "mlflow_password",
    "mlflow_session", "store_key", "store_secret",
)  # fmt: skip
START = ["sh", str(DOCKER / "start.sh")]


def test_the_stack_has_its_parts() -> None:
    assert set(SERVICES) == {"postgres", "store", "buckets", "prefect", "mlflow", "worker"}


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_hardened_pinned_watched_and_not_root(name: str) -> None:
    service = SERVICES[name]
    assert int(service["user"].split(":")[0]) > 0
    assert service["read_only"] and service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert "privileged" not in service and "/var/run/docker.sock" not in str(service)
    image = service["image"]
    assert ":" in image and not image.endswith(":latest")
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:"), "open to the network"
    if name != "buckets":  # which runs once
        assert service["healthcheck"]["test"]


@pytest.mark.parametrize("name", SERVICES)
def test_secrets_come_from_files_and_only_those_that_a_service_needs(name: str) -> None:
    service = SERVICES[name]
    assert set(service["secrets"]) <= set(SECRETS) == set(COMPOSE["secrets"])
    for key, value in (service.get("environment") or {}).items():
        assert key.endswith("_FILE") or not re.search("PASSWORD|SECRET|TOKEN|AUTH_STRING", key), key
        assert "@" not in str(value)
    assert all(list(about) == ["file"] for about in COMPOSE["secrets"].values())
    assert "postgres_password" not in service["secrets"] or name == "postgres"
    assert service["entrypoint"][0].endswith("start.sh")  # which refuses bad ones


def test_one_dockerfile_has_both_variants_and_runs_as_a_user() -> None:
    text = (DOCKER / "Dockerfile").read_text()
    assert re.findall("^USER (.*)$", text, re.MULTILINE) == ["10001:10001"] * 2
    assert "cpu)" in text and "cuda)" in text
    for image in re.findall("^ARG (?:BASE|STORE)=(.*)$", text, re.MULTILINE):
        assert re.search(r":[^:]*\d", image), f"{image} is not pinned"
    for install in re.findall(r"pip install [^&;\n]*", text):
        assert "-c constraints.txt" in install, f"{install} is not pinned"
    secret = re.search("password|secret|token", text.replace("no-new-privileges", ""), re.IGNORECASE)
    assert secret is None, "a secret in an image is one that everybody has"
    args = SERVICES["worker"]["build"]["args"]
    assert args == {"VARIANT": "${VARIANT:-cpu}"}


def secrets(folder: Path, **changed: str) -> Path:
    """A folder of good secrets, but for those given."""
    made = subprocess.run([DOCKER / "make_secrets.sh", folder], check=False, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    for name, value in changed.items():
        (folder / name).unlink()
        (folder / name).write_text(value)
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "SECRETS_DIR": str(folder)}
    return subprocess.run([*START, *arguments], env=environment, check=False, capture_output=True, text=True)


def test_secrets_are_made_once_and_differ(tmp_path: Path) -> None:
    folder = secrets(tmp_path / "secrets")
    assert sorted(path.name for path in folder.iterdir()) == sorted(SECRETS)
    values = [(folder / name).read_text() for name in SECRETS]
    assert len(set(values)) == len(SECRETS) and all(len(value) == 36 for value in values)
    assert folder.stat().st_mode & 0o077 == 0
    secrets(tmp_path / "secrets")
    assert [(folder / name).read_text() for name in SECRETS] == values
    done = run(folder, "run", "sh", "-c", 'echo "$PREFECT_API_AUTH_STRING $AWS_SECRET_ACCESS_KEY"')
    assert done.stdout.split() == [f"admin:{values[3]}", values[7]]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "is empty"),
        ("brief", "shorter than 16"),
        ("minioadminminioadmin", "everybody knows"),
        ("changeme-changeme-changeme", "everybody knows"),
        ("with a space and more", "other signs"),
        ("quote'; DROP TABLE x; --", "other signs"),
    ],
)
def test_empty_default_and_dangerous_secrets_are_refused(tmp_path: Path, value: str, message: str) -> None:
    done = run(secrets(tmp_path / "secrets", prefect_password=value), "run", "true")
    assert done.returncode == 78 and message in done.stderr and "prefect_password" in done.stderr
    assert not value or value not in done.stderr


@pytest.mark.parametrize("part", ["database", "store", "buckets", "prefect", "mlflow", "worker", "run"])
def test_no_part_starts_without_its_secrets(tmp_path: Path, part: str) -> None:
    done = run(tmp_path, part, "true")
    assert done.returncode == 78 and "is missing: run docker/make_secrets.sh" in done.stderr


def test_the_deployments_are_those_of_the_dataset_file_and_the_pool_is_ours() -> None:
    made = deployments.document(dataset_file.read(DOCKER / "weather.toml"))
    assert yaml.safe_load((ROOT / "prefect.yaml").read_text()) == json.loads(json.dumps(made))
    assert json.loads((DOCKER / "pool.json").read_text()) == prefect_server.template("docker")


def test_the_compose_files_are_read_by_docker_compose(tmp_path: Path) -> None:
    command = compose()
    if command is None:
        pytest.skip("there is no docker compose here")
    for name in SECRETS:  # newer versions look whether they are there
        (tmp_path / "secrets").mkdir(exist_ok=True)
        (tmp_path / "secrets" / name).write_text("x")
    for file in DOCKER.iterdir():
        if file.is_file():
            shutil.copy(file, tmp_path / file.name)
    files = ["-f", str(tmp_path / "compose.yaml"), "-f", str(tmp_path / "compose.cuda.yaml")]
    done = subprocess.run([*command, *files, "config"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(yaml.safe_load(done.stdout)["services"]) == set(SERVICES)


def compose() -> list[str] | None:
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]):
            done = subprocess.run([*command, "version"], check=False, capture_output=True)
            if done.returncode == 0:
                return command
    return None


@pytest.mark.parametrize(
    ("tool", "files"),
    [("hadolint", ["Dockerfile"]), ("shellcheck", ["start.sh", "make_secrets.sh", "databases.sh"])],
)
def test_a_linter_finds_nothing(tool: str, files: list[str]) -> None:
    beside = Path(sys.executable).parent / tool
    program = str(beside) if beside.exists() else shutil.which(tool)
    if program is None:
        pytest.skip(f"there is no {tool} here (make stack-test installs hadolint)")
    done = subprocess.run(
        [program, *(str(DOCKER / file) for file in files)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
