"""MLflow itself: where it is, how it is asked, how the run of a training is logged."""

from __future__ import annotations

import functools
import logging
import math
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from flows import collector
from vae_core import publishing
from vae_core.errors import InputError, one_line

__all__ = [
    "MODEL_FOLDER", "RegistryUnavailable", "asked", "end_killed", "home", "log_metrics", "log_pyfunc",
    "make_experiment", "parameter", "requirements", "tracking_uri", "unless_there",
]  # fmt: skip

# What load_context and predict import; the library itself travels with the model as source.
REQUIREMENTS = ("mlflow", "numpy", "pandas", "pillow", "pyarrow", "safetensors", "scipy", "torch")
MODEL_FOLDER = "model"  # its name inside the logged artifacts


class RegistryUnavailable(InputError):
    """The registry could not be asked, or answered with an error: worth another try.

    `away` where no answer came at all: a refusal is an answer.
    """

    away = False


def home() -> Path:
    """Where elborank keeps its own things: `.elborank` in the working folder, or ELBORANK_HOME."""
    place = os.environ.get("ELBORANK_HOME", ".elborank")
    if "://" in place:
        fix = "Set it to a folder"
        raise InputError("ELBORANK_HOME takes a folder of this machine, no address", file=place, fix=fix)
    return Path(place).absolute()


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, or a SQLite file beside the working folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / 'mlflow.db'}"


def registry_place() -> str:
    """Where the registry is, for people: the address without a password, of a SQLite file its path."""
    return _without_password(tracking_uri()).removeprefix("sqlite:///")


@contextmanager
def asked() -> Iterator[Any]:
    """MLflow, imported late (2 CPU-seconds), set to our store; its errors as one line."""
    uri = tracking_uri()
    if uri.startswith(f"sqlite:///{home()}"):
        home().mkdir(parents=True, exist_ok=True)
    with collector.paused():
        import mlflow

        errors = _errors(mlflow, uri)
    for noisy in ("mlflow", "alembic", "mlflow.store.db.utils"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    _point_at(mlflow, uri)
    try:
        _make_database(uri)
        yield mlflow
    except errors as error:
        reason = one_line(str(error).splitlines()[0] if str(error) else type(error).__name__)
        fix = "Check MLFLOW_TRACKING_URI, or unset it to use the one in .elborank"
        if getattr(error, "error_code", "") in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
            reason = "this user may not, or the password is another"
            fix = "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD as the server has them"
        told = _without_password(f"the model registry at {uri} said: {reason}")
        problem = RegistryUnavailable(told, fix=fix)
        problem.away = _is_away(error)
        raise problem from error


def _errors(mlflow: Any, uri: str) -> tuple[type[Exception], ...]:
    """What MLflow raises for a store that does not do what it is asked."""
    from sqlalchemy.exc import SQLAlchemyError

    if uri.startswith("http"):
        return mlflow.exceptions.MlflowException, SQLAlchemyError
    from alembic.util import CommandError  # of a database's migrations; a third of a second to import

    return mlflow.exceptions.MlflowException, SQLAlchemyError, CommandError


def _make_database(uri: str) -> None:
    """A SQLite file that is not there yet, by one process while others wait, and whole or not at all.

    MLflow makes its tables in hundreds of steps in the file itself: two first commands at once ruined each
    other's, and one that was killed left a file that no later one could complete.
    """
    from sqlalchemy.engine import make_url

    if not uri.startswith("sqlite:"):
        return
    named = make_url(uri).database or ":memory:"
    target = Path(named).absolute()
    if named.startswith((":", "file:")) or target.exists() or not os.access(target.parent, os.W_OK):
        return  # none of ours to make, or one that MLflow refuses by itself
    from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    hidden = target.with_name(f".{target.name}-unfinished")
    with publishing.lock(hidden), publishing.writing(target.parent):
        if target.exists():  # another process made it meanwhile
            return
        for left in (hidden, Path(f"{hidden}-journal")):  # by a process that was killed
            left.unlink(missing_ok=True)
        SqlAlchemyStore(f"sqlite:///{hidden}", DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH).engine.dispose()
        publishing.commit(hidden, target)


def _is_away(error: BaseException) -> bool:
    """Whether no answer came: MLflow's exception was made where the network's was caught."""
    from requests import exceptions as network

    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    return any(isinstance(c, network.ConnectionError | network.Timeout | network.RetryError) for c in causes)


def _point_at(mlflow: Any, uri: str) -> None:
    """Use this store in this process. MLflow also writes it to the environment, where it would outlive us."""
    configured = {name: os.environ.get(name) for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")}
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(configured["MLFLOW_REGISTRY_URI"] or uri)
    for name, value in configured.items():
        if value is None:
            os.environ.pop(name, None)


def end_killed(mlflow: Any, experiment: str, tag: str, value: str) -> None:
    """Runs of a training that was killed say RUNNING for ever: nobody else can end them."""
    client = mlflow.MlflowClient()
    running = f"tags.`{tag}` = '{value}' and attributes.status = 'RUNNING'"
    for run in client.search_runs([experiment], running):
        client.set_terminated(run.info.run_id, "KILLED")


@contextmanager
def unless_there(mlflow: Any) -> Iterator[None]:
    """Around the making of what another process may make at the same moment: then it is there."""
    try:
        yield
    except mlflow.exceptions.MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def make_experiment(mlflow: Any) -> str:
    """One experiment for all, by its id; for the SQLite store its artifacts lie beside the database."""
    name = "elborank"
    client = mlflow.MlflowClient()
    if client.get_experiment_by_name(name) is None:
        local = tracking_uri().startswith(f"sqlite:///{home()}")
        with unless_there(mlflow):
            client.create_experiment(name, (home() / "artifacts").as_uri() if local else None)
    return str(mlflow.set_experiment(name).experiment_id)


def log_pyfunc(mlflow: Any, folder: Path, columns: Mapping[str, str], example: Any) -> Any:
    """Log the folder as a model from code: no pickle, and no requirement on a package of ours."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import AnyType

    import vae_core

    # Any type: what pandas makes of whole numbers, times, categories and empty columns a strict signature
    # refuses. Its price: MLflow's server, which asks it for pandas' types, takes JSON and Parquet and no CSV.
    # Without a signature it would take CSV, and JSON as "instances" or "inputs" no more.
    signature = ModelSignature(
        inputs=Schema([ColSpec(AnyType(), column) for column in columns]),
        params=ParamSchema([ParamSpec("top", DataType.long, 5)]),
    )
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # hints for those who log by hand
        copy = Path(temporary) / MODEL_FOLDER
        shutil.copytree(folder, copy)
        return mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).with_name("pyfunc_model.py")),
            artifacts={MODEL_FOLDER: str(copy)},
            code_paths=[str(Path(vae_core.__file__).parent)],
            pip_requirements=requirements(),
            signature=signature,
            input_example=example,
        )


@functools.cache
def requirements() -> list[str]:
    """What a place that loads the model needs, with the versions it was made with."""
    return [f"{package}=={installed_version(package).split('+')[0]}" for package in REQUIREMENTS]


def log_metrics(
    mlflow: Any, run_id: str, history: list[dict[str, float]], metrics: Mapping[str, float]
) -> None:
    """The curve of training and single numbers; not inf, which MLflow would make 1.8e308."""
    from mlflow.entities import Metric

    points = [
        Metric(key, float(value), timestamp=0, step=int(entry["step"]))
        for entry in history
        for key, value in entry.items()
        if key != "step" and value is not None and math.isfinite(value)
    ]
    points += [Metric(k, float(v), timestamp=0, step=0) for k, v in metrics.items() if math.isfinite(v)]
    client = mlflow.MlflowClient()
    for first in range(0, len(points), 500):  # a request takes at most 1,000
        client.log_batch(run_id, metrics=points[first : first + 500])


def parameter(value: Any) -> str:
    return str(value)[:6000]  # longer ones are refused


def _without_password(text: str) -> str:
    """Addresses in a message without who asks, and by which password.

    >>> _without_password("http://me:secret@host:5000/api is down")
    'http://host:5000/api is down'
    """
    return re.sub(r"://[^/@\s]+@", "://", text)
