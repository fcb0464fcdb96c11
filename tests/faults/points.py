"""The named steps of each flow at which a fault is put, and the faults.

A step is a function of ours (or of a library, at the place where we call it) and whether the fault comes
before or after it; `call` says at which of its calls.
"""

from __future__ import annotations

import errno
import functools
import importlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["FAULTS", "POINTS", "Point", "plant"]

FAULTS = ("SIGKILL", "SIGTERM", "ENOSPC", "EIO")


@dataclass(frozen=True)
class Point:
    """One named step: `module:attribute`, before or after it, at its `call`th call."""

    flow: str
    name: str
    target: str
    after: bool = False
    call: int = 1

    def __str__(self) -> str:
        return f"{self.flow}: {self.name}"


INGEST = "vae_core.sources.ingest"
POINTS = (
    Point("ingest", "find the files", f"{INGEST}:find"),
    Point("ingest", "hash the input", f"{INGEST}:content_digest"),
    Point("ingest", "claim the folder", "vae_core.sources.claim:_still"),
    Point("ingest", "find the types", f"{INGEST}:_table"),
    Point("ingest", "type a block", f"{INGEST}:typed_records"),
    Point("ingest", "write a part", "vae_core.sources.parts:PartWriter._write", after=True),
    Point("ingest", "note the quarantine", "vae_core.sources.parts:QuarantineWriter.add"),
    Point("ingest", "finish the parts", "vae_core.sources.parts:PartWriter.close"),
    Point("ingest", "look for repeated keys", "vae_core.sources.parts:Keys.later_copies"),
    Point("ingest", "describe the dataset", f"{INGEST}:manifest_text"),
    Point("ingest", "flush the files", "vae_core.sources.claim:sync"),
    Point("ingest", "give the folder its name", "pathlib:Path.rename"),
    Point("ingest", "the folder has its name", "pathlib:Path.rename", after=True),
    Point("train", "look for this training", "flows.registry:find"),
    Point("train", "take the records", "vae_core.training:_prepare"),
    Point("train", "write a checkpoint's tensors", "vae_core.checkpoint:save_file", after=True, call=2),
    Point("train", "a checkpoint is there", "vae_core.checkpoint:Checkpoint.save", after=True, call=3),
    Point("train", "finish the model", "vae_core.training:_finish"),
    Point("train", "calibrate", "vae_core.training:_calibrate"),
    Point("train", "write the model", "vae_core.storage:_contents", after=True),
    Point("train", "flush the model", "vae_core.storage:sync"),
    Point("train", "the model is written", "vae_core.storage:save", after=True),
    Point("train", "make the experiment", "flows.registry:make_experiment"),
    Point("train", "log the model", "flows.registry:log_pyfunc"),
    Point("train", "the model is logged", "flows.registry:log_pyfunc", after=True),
    Point("train", "name the model", "mlflow:MlflowClient.create_registered_model", after=True),
    Point("train", "make the version", "mlflow:MlflowClient.create_model_version", after=True),
    Point("train", "set the alias", "mlflow:MlflowClient.set_registered_model_alias", after=True),
    Point("score", "resolve the model", "flows.registry:resolve"),
    Point("score", "make the plan", "vae_core.job:prepare"),
    Point("score", "take the lock", "vae_core.publishing:_acquire", after=True),
    Point("score", "score a unit", "vae_core.work:write_unit"),
    Point("score", "a unit is written", "vae_core.work:write_unit", after=True),
    Point("score", "rank", "vae_core.report:rank"),
    Point("score", "give reasons", "vae_core.work:ExplainUnit._reasons"),
    Point("score", "write the report", "vae_core.report:write"),
    Point("score", "the report is written", "vae_core.report:write", after=True),
    Point("score", "seal", "vae_core.publishing:_seal"),
    Point("score", "write the manifest", "vae_core.publishing:write_json", after=True, call=3),
    Point("score", "check the place", "vae_core.publishing:check_place", after=True, call=3),
    Point("score", "make it visible", "pathlib:Path.rename"),
    Point("score", "it is visible", "pathlib:Path.rename", after=True),
    Point("score", "sweep", "vae_core.publishing:sweep"),
    Point("generate", "load the model", "vae_core.storage:load"),
    Point("generate", "draw", "vae_core.generation:sample"),
    Point("generate", "write the records", "flows.synthetic:_write_whole"),
    Point("generate", "the records are written", "pyarrow.parquet:write_table", after=True),
    Point("generate", "give the file its name", "pathlib:Path.replace"),
    Point("generate", "the file has its name", "pathlib:Path.replace", after=True),
    Point("generate", "compare", "flows.synthetic:compare"),
)


def plant(point: Point, fault: str) -> None:
    """Make this process meet the fault at the point. Once: a step that is tried again goes well."""
    module, _, path = point.target.partition(":")
    holder: Any = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        holder = getattr(holder, parent)
    original: Callable[..., Any] = getattr(holder, name)
    count = 0

    @functools.wraps(original)
    def spoilt(*arguments: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        meets = count == point.call
        if meets and not point.after:
            strike(fault)
        result = original(*arguments, **options)
        if meets and point.after:
            strike(fault)
        return result

    setattr(holder, name, spoilt)


def strike(fault: str) -> None:
    """The fault itself."""
    if fault.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, fault))
        signal.pause()
    number = getattr(errno, fault)
    raise OSError(number, os.strerror(number))
