"""Folders for work in progress: what a killed run leaves in its own, the next run sweeps away."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.registry import home
from vae_core import publishing

__all__ = ["scratch", "sweep"]


@contextmanager
def scratch() -> Iterator[Path]:
    """An empty folder under our own, gone when the block ends; those of dead runs are swept away."""
    parent = _parent()
    with publishing.writing(parent):
        parent.mkdir(parents=True, exist_ok=True)
    sweep()
    folder = parent / f"{os.getpid()}-{secrets.token_hex(4)}"
    with publishing.lock(folder), publishing.writing(folder):
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def sweep() -> None:
    """Remove the folders of dead runs; those of running ones are locked, and stay."""
    parent = _parent()
    if not parent.is_dir():
        return
    for name in {path.name.removesuffix(".lock") for path in parent.iterdir()}:
        with publishing.lock(parent / name, wait=False) as mine:
            if mine:
                shutil.rmtree(parent / name, ignore_errors=True)


def _parent() -> Path:
    return home() / "scratch"
