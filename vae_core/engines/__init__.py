"""Engines run the same work on every unit of a plan: in this process, in a pool of them, or on a cluster.

An engine has to run each unit *at least* once. Exactly once follows from elsewhere: a unit's result has one
name and one content, so that doing it twice changes nothing, and a report is published by one rename.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

from vae_core.engines.crews import one_crew
from vae_core.engines.local import WorkerDied, import_ahead, local
from vae_core.engines.ray import on_ray
from vae_core.errors import InputError

__all__ = ["ENGINES", "Engine", "WorkerDied", "get_ready", "map_units", "one_crew"]

U = TypeVar("U")
R = TypeVar("R")


class Engine(Protocol):
    """Runs `work` on every unit and yields the results in the order in which they get ready."""

    def __call__(
        self, units: Iterable[Any], work: Callable[[Any], Any], *, workers: int, gpu: bool = False
    ) -> Iterator[Any]: ...


def get_ready(engine: str, workers: int) -> None:
    """Where work will soon be given to workers on this machine: let them import what they need meanwhile."""
    if engine == "local" and workers > 1:
        import_ahead()


def map_units(
    units: Iterable[U],
    work: Callable[[U], R],
    *,
    engine: str = "local",
    workers: int = 1,
    gpu: bool = False,
    on_done: Callable[[R], None] | None = None,
) -> Iterator[R]:
    """The results of `work(unit)` for every unit, in the order in which they get ready (one worker: in turn).

    `work` must be picklable when `workers` > 1: give it paths, not weights. An exception in one unit ends the
    job with that exception; results written before stay. `on_done` is called here, for each result. With
    `gpu` the workers share out the GPUs that there are.

    >>> sorted(map_units(["b", "a"], str.upper))
    ['A', 'B']
    """
    if engine not in ENGINES:
        raise InputError(f'there is no engine "{engine}"', fix=f"Choose one of: {', '.join(ENGINES)}")
    if workers < 1:
        raise InputError(f"{workers} workers cannot do anything", fix="Give 1 or more")
    for result in ENGINES[engine](units, work, workers=workers, gpu=gpu):
        if on_done is not None:
            on_done(result)
        yield result


ENGINES: dict[str, Engine] = {"local": local, "ray": on_ray}
