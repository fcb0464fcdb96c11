"""Processes that torchrun launched to train one model: each runs the same command, the first registers."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

LAUNCHED = int(os.environ.get("WORLD_SIZE", "1")) > 1
_told: list[bool] = []  # what the others were told


def train(path: str, *, name: str, progress: Any = None, **options: Any) -> dict[str, Any] | None:
    """`steps.train` in each of the processes; all but the first return None."""
    from flows import judgements, steps
    from vae_core import distributed

    _told.clear()
    with distributed.joined() as (number, _):
        if number == 0:
            try:
                return steps.train(path, name=name, progress=progress, **options)
            except BaseException:
                if not _told:  # the others wait to hear of it, and have nothing to add
                    tell(False)
                raise
        if distributed.first_says(False):  # the first one has ingested, and there is something to train
            settings, kinds = options.pop("settings", {}), options.pop("kinds", {})
            options.pop("retrain", None)
            keep = options.pop("keep_anomalies", False)
            data = judgements.without_confirmed(steps.ingest(path, **options), keep=keep)
            with tempfile.TemporaryDirectory(prefix="elborank-") as folder:
                steps.fit(data, Path(folder), kinds=kinds, settings=settings)
    return None


def tell(train: bool) -> None:
    """Let the waiting processes know whether there is something to train. Alone: nothing."""
    if LAUNCHED:
        from vae_core import distributed

        _told.append(distributed.first_says(train))
