"""Scoring while the registry is away: with what it said last, verified and said; a refusal is obeyed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from flows import last_known, registry, steps
from flows.registry import RegistryUnavailable
from tests import shop

CHAMPION = "models:/shop@champion"


@pytest.fixture
def away(closed: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a registry that has gone."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    return f"http://127.0.0.1:{closed}"


def test_the_last_answer_counts_while_the_registry_is_away(
    in_shop: shop.Shop, away: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"model": CHAMPION, "output": "away", "fdr": 0.05, "workers": 1, "members": None}
    options |= {"as_of": None, "replace": False}
    first = steps.score("sales.csv", **options)
    assert not [line for line in first["warnings"] if "registry" in line]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", away)
    again = steps.score("sales.csv", **options)
    assert not again["published"] and again["folder"] == first["folder"]
    assert CHAMPION in again["warnings"][0] and f"version {first['model_version']}" in again["warnings"][0]


def test_a_registry_that_hangs_counts_as_away(in_shop: shop.Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    version, _ = last_known.resolve(CHAMPION)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes connections and never answers
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        known, warnings = last_known.resolve(CHAMPION)
    assert (known.version, len(warnings)) == (version.version, 1)


def test_a_registry_that_hangs_is_given_up_within_two_minutes() -> None:
    """Unless somebody says otherwise; between the tries it waits for 2, 4 and 8 seconds."""
    asked = (
        "import flows, mlflow.environment_variables as v; "
        "print(v.MLFLOW_HTTP_REQUEST_TIMEOUT.get(), v.MLFLOW_HTTP_REQUEST_MAX_RETRIES.get())"
    )
    bare = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_HTTP")}
    done = subprocess.run([sys.executable, "-c", asked], env=bare, capture_output=True, text=True, check=True)
    timeout, retries = map(int, done.stdout.split())
    assert (retries + 1) * timeout + sum(2**n for n in range(1, retries + 1)) <= 120


def test_nothing_is_scored_by_a_copy_that_was_changed_or_never_noted(
    in_shop: shop.Shop, away: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    version, _ = last_known.resolve(CHAMPION)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", away)
    with pytest.raises(RegistryUnavailable):
        last_known.resolve("models:/shop@challenger")
    known, warnings = last_known.resolve(CHAMPION)
    assert (known.version, known.sha256, len(warnings)) == (version.version, version.sha256, 1)
    monkeypatch.setattr("vae_core.storage.model_digest", lambda _: "another")
    with pytest.raises(RegistryUnavailable):
        last_known.resolve(CHAMPION)


def test_a_registry_that_refuses_is_obeyed(
    in_shop: shop.Shop, refusing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    last_known.resolve(CHAMPION)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{refusing}")
    with pytest.raises(RegistryUnavailable) as refused:
        last_known.resolve(CHAMPION)
    assert not refused.value.away and "MLFLOW_TRACKING_PASSWORD" in str(refused.value)


def test_a_folder_needs_no_note(in_shop: shop.Shop) -> None:
    folder = registry.resolve(CHAMPION).folder
    assert last_known.resolve(str(folder))[1] == []
