"""One small TOML file says all about a dataset that runs on a schedule: where it is, when, and what for.

`elborank deploy FILE` makes Prefect deployments of it, `elborank backfill FILE` scores intervals of the past,
`elborank deploy FILE --yaml` prints the same as a prefect.yaml. Relative paths start from the file's folder.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from flows import outputs
from flows.intervals import Schedule, every_of
from flows.registry import check_name
from vae_core.errors import InputError, one_line

__all__ = ["DatasetFile", "is_dataset_file", "read"]

Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Occasion = Literal["flagged", "drift", "failed"]
SECTIONS = ("train", "score", "generate")


class Section(BaseModel):
    """A table of the file; what it does not know is refused, so that no misspelt key is silently ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Scheduled(Section):
    """When something runs: `every` (counted from 1970-01-01 UTC) or `cron` on `timezone`'s wall clock."""

    every: str | None = None
    cron: str | None = None
    timezone: str = "UTC"
    delay: str | None = None

    @model_validator(mode="after")
    def _readable(self) -> Scheduled:
        if self.every is not None or self.cron is not None or self.delay is not None:
            _ = self.schedule
        return self

    @property
    def schedule(self) -> Schedule:
        """The schedule; refused where there is none."""
        return Schedule(self.every, self.cron, self.timezone, self.delay)

    @property
    def scheduled(self) -> bool:
        """Whether it runs by itself; without a schedule it is deployed to be started by hand."""
        return self.every is not None or self.cron is not None


class Train(Scheduled):
    """Training: on the records of the last `window` before the run (all records without one)."""

    window: str | None = None
    settings: dict[str, int | float | str | bool] = {}
    kinds: dict[str, str] = {}
    promote: bool = True  # ask the checks of `elborank models promote` whether it becomes champion

    @field_validator("window")
    @classmethod
    def _length(cls, value: str | None) -> str | None:
        return None if value is None else value if every_of(value) else None


# What scoring takes from its section as it stands there.
SCORED_BY = ("fdr", "alpha", "top_k", "workers", "device", "members", "on_drift", "hide_values")


class Score(Scheduled):
    """Scoring: each run ranks the records of its interval (`only_interval`), or all that there are."""

    fdr: Share | None = None
    alpha: Share | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    workers: Count = 1
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    members: str | None = None
    only_interval: bool = True
    on_drift: Literal["warn", "fail"] = (
        "warn"  # strong drift since training: fail publishes, then fails the run
    )

    hide_values: bool = False  # no value of a record in the page, in artifacts and in what is printed

    @model_validator(mode="after")
    def _one_decision(self) -> Score:
        if sum(value is not None for value in (self.fdr, self.alpha, self.top_k)) > 1:
            raise ValueError("give one of fdr, alpha and top_k")
        return self


class Generate(Scheduled):
    """Generation of n records into the file `output`."""

    n: Count
    output: str
    missing: bool = False
    seed: Annotated[int, Field(ge=0)] = 0

    @field_validator("output")
    @classmethod
    def _writable(cls, value: str) -> str:
        outputs.check_address(value)
        return value


class Notify(Section):
    """Whom to tell: an address that takes JSON by POST; a secret one is read from `webhook_file`."""

    webhook: str | None = None
    webhook_file: str | None = None
    on: tuple[Occasion, ...] = ("flagged", "drift", "failed")

    @model_validator(mode="after")
    def _one_address(self) -> Notify:
        if (self.webhook is None) == (self.webhook_file is None):
            raise ValueError("give one of webhook and webhook_file")
        return self


class Deploy(Section):
    """Where it runs: a work pool of processes, or of containers made from `image`."""

    pool: str = "elborank"
    type: Literal["process", "docker"] = "process"
    image: str | None = None
    working_dir: str | None = None
    env: dict[str, str] = {}

    @model_validator(mode="after")
    def _image(self) -> Deploy:
        if (self.type == "docker") != (self.image is not None):
            raise ValueError('type = "docker" and image go together')
        return self


class DatasetFile(Section):
    """What a dataset file holds."""

    name: str
    source: str
    output: str = "reports"
    model: str | None = None  # default: models:/NAME@champion
    ids: tuple[str, ...] = ()
    time: str | None = None
    null_values: tuple[str, ...] = ()
    encoding: str = "utf-8"
    delimiter: str | None = None
    on_schema: Literal["warn", "stop"] = "warn"
    train: Train | None = None
    score: Score | None = None
    generate: Generate | None = None
    notify: Notify | None = None
    deploy: Deploy = Deploy()

    @field_validator("name")
    @classmethod
    def _plain(cls, value: str) -> str:
        from vae_core.sources.files import dataset_name

        return dataset_name(value, check_name(value))  # of a model and of a folder of reports

    @model_validator(mode="after")
    def _intervals_need_a_time(self) -> DatasetFile:
        window = self.train is not None and self.train.window is not None
        only = self.score is not None and self.score.scheduled and self.score.only_interval
        if self.time is None and (window or only):
            key = "train.window" if window else "score.only_interval"
            raise ValueError(f"{key} needs `time`, the timestamp column of the records")
        if not any(getattr(self, section) for section in SECTIONS):
            raise ValueError(f"nothing to run: give one of {', '.join(f'[{s}]' for s in SECTIONS)}")
        return self

    @property
    def champion(self) -> str:
        """The model that scores and generates."""
        return self.model or f"models:/{self.name}@champion"


def is_dataset_file(path: str) -> bool:
    """Whether a command was given a dataset file instead of data.

    >>> is_dataset_file("weather.toml"), is_dataset_file("weather.csv")
    (True, False)
    """
    return Path(path).suffix.lower() == ".toml"


def read(path: str | Path) -> DatasetFile:
    """Read and check a dataset file. Raises InputError: one line with the file, the key and what is wrong."""
    file = Path(path)
    if "://" in str(path):
        raise InputError(
            "a dataset file is read from this machine, from no store", file=path, fix="Copy it here"
        )
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError("there is no such dataset file", file=path) from error
    except IsADirectoryError as error:
        raise InputError("is a folder, not a dataset file", file=path) from error
    except UnicodeDecodeError as error:
        raise InputError("is not UTF-8 text", file=path, fix="Save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(
            f"is not TOML: {one_line(str(error))}", file=path, fix='Write key = "value"'
        ) from error
    from flows import dataset_checks  # which knows what a DatasetFile is

    try:
        found = DatasetFile.model_validate(content)
        dataset_checks.check(found)
    except ValidationError as error:
        raise InputError(_first(error), file=path, fix="See docs/operations.md") from error
    except InputError as error:
        raise InputError(str(error), file=path) from error
    return _absolute(found, file.absolute().parent)


def _first(error: ValidationError) -> str:
    """The first complaint, with the key as the file has it."""
    problem = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f'there is no key "{one_line(key)}"'
    if problem["type"] == "missing":
        return f'the key "{one_line(key)}" is missing'
    told = problem["msg"].removeprefix("Value error, ")
    return f"{one_line(key)}: {one_line(told)}" if key else one_line(told)


def _absolute(found: DatasetFile, folder: Path) -> DatasetFile:
    """The same with paths that hold anywhere: a run may start in another folder."""

    def place(text: str) -> str:
        return text if "://" in text else str((folder / text).absolute())

    changes: dict[str, Any] = {"source": place(found.source), "output": place(found.output)}
    if found.model is not None and not found.model.startswith("models:"):
        changes["model"] = place(found.model)
    if found.generate is not None:
        changes["generate"] = found.generate.model_copy(update={"output": place(found.generate.output)})
    if found.notify is not None and found.notify.webhook_file is not None:
        secret = place(found.notify.webhook_file)
        changes["notify"] = found.notify.model_copy(update={"webhook_file": secret})
    return found.model_copy(update=changes)
