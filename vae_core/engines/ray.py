"""Units over the actors of a Ray cluster: for jobs too big for one machine, and for machines that fail.

Every machine needs this package in its environment, and the dataset, the model and the output under the same
paths (a shared disk). Actors are plain: each has one unit at a time, so that a unit which kills its actor is
known by name, and one that waits for a processor holds no unit.
"""

from __future__ import annotations

import os
import secrets
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from vae_core.engines import crews
from vae_core.engines.local import RESTARTS, WorkerDied
from vae_core.errors import InputError

__all__ = ["on_ray"]

PATIENCE = 600.0  # seconds without any actor at work or any unit done: the cluster has no room
# Defaults, set before Ray starts: no report to its makers; who talks to the cluster must know its token.
ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token"}


def on_ray(
    units: Iterable[Any], work: Callable[[Any], Any], *, workers: int, gpu: bool = False
) -> Iterator[Any]:
    """The results of every unit, from `workers` actors of one processor each, with `gpu` also part of a GPU.

    The cluster is the one that is connected, or that RAY_ADDRESS names; without either, one of this machine's
    own. An actor that dies is replaced and its unit given out again, three times at most.
    """
    prepare()
    try:
        import ray
    except ImportError as missing:
        raise InputError("Ray is not installed", fix="pip install 'elborank[ray]'") from missing
    with _cluster(ray, workers), _crew(ray, workers, gpu=gpu) as crew:
        yield from crew.results(work, iter(units))


@contextmanager
def _cluster(ray: Any, workers: int) -> Iterator[None]:
    """A connection to a cluster, or the one that is there; a job's own one ends with the job."""
    own = not ray.is_initialized()
    if own:
        _connect(ray, workers)
    if own and crews.keep("cluster", None, ray.shutdown):
        own = False
    try:
        yield
    finally:
        if own:
            ray.shutdown()


@contextmanager
def _crew(ray: Any, workers: int, *, gpu: bool) -> Iterator[_Crew]:
    """Actors, or those that are at hand; whatever goes wrong (or a reader that stops early) ends them."""
    name = "actors", workers
    crew = (None if gpu else crews.taken(name)) or _Crew(ray, workers, gpu=gpu)
    try:
        yield crew
    except BaseException:
        crew.dismiss()
        raise
    if gpu or not crews.keep(name, crew, crew.dismiss):
        crew.dismiss()


def prepare() -> None:
    """Settings that Ray reads when it is imported. A cluster of our own gets a token of its own."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if not {"RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _connect(ray: Any, workers: int) -> None:
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
    else:  # results are small: the object store, which is memory, need not be large
        ray.init("local", num_cpus=workers, include_dashboard=False, object_store_memory=100 * 2**20, **quiet)


class _Worker:
    """What runs in an actor: one unit at a time, in one thread."""

    def ready(self) -> None:
        """Returns once the actor is there."""

    def run(self, work: Callable[[Any], Any], unit: Any) -> tuple[Any, Exception | None]:
        """The result, or the exception as it was raised (Ray would wrap it)."""
        try:
            return work(unit), None
        except Exception as problem:  # noqa: BLE001 - it is raised again where the job runs
            return None, problem


class _Crew:
    """The actors of one job, what each is doing, and how often a unit has lost its actor."""

    def __init__(self, ray: Any, workers: int, *, gpu: bool) -> None:
        self.ray = ray
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        # Restarts and retries are ours: Ray's own would hide which unit kills.
        once = {"max_restarts": 0, "max_task_retries": 0}
        share = {"num_gpus": _share_of_gpus(ray, workers)} if gpu else {}
        self.remote = ray.remote(num_cpus=1, runtime_env={"env_vars": threads}, **once, **share)(_Worker)
        self.work: Any = None
        self.lost: Counter[str] = Counter()
        self.idle: list[Any] = []
        self.doing: dict[Any, tuple[Any, Any]] = {}  # what is awaited -> (actor, unit; None: to get ready)
        for _ in range(workers):
            self._hire()

    def _hire(self) -> None:
        actor = self.remote.remote()
        self.doing[actor.ready.remote()] = (actor, None)

    def results(self, work: Callable[[Any], Any], units: Iterator[Any]) -> Iterator[Any]:
        """What `work` makes of every unit, as it gets ready."""
        self.work = self.ray.put(work)
        self.lost.clear()
        again: deque[Any] = deque()
        while True:
            self._give(again, units)
            if not self._at_work() and not again:
                left = next(units, None)
                if left is None:
                    return
                again.append(left)  # for the first one that gets ready
            done, _ = self.ray.wait(list(self.doing), num_returns=1, timeout=PATIENCE)
            if not done and not self._at_work():
                raise WorkerDied(
                    f"The cluster gave no processor to any actor for {PATIENCE:.0f} seconds. "
                    "Use fewer workers, or a larger cluster; the same command then goes on."
                )
            for ref in done:
                actor, unit = self.doing.pop(ref)
                try:
                    answer = self.ray.get(ref)
                except self.ray.exceptions.RayActorError as death:
                    self._replace(unit, again, death)
                    continue
                self.idle.append(actor)
                if unit is not None:
                    result, problem = answer
                    if problem is not None:
                        raise problem
                    self._give(again, units)
                    yield result

    def _give(self, again: deque[Any], units: Iterator[Any]) -> None:
        """A unit for each actor that has none, while there are any."""
        while self.idle:
            unit = again.popleft() if again else next(units, None)
            if unit is None:
                return
            actor = self.idle.pop()
            self.doing[actor.run.remote(self.work, unit)] = (actor, unit)

    def _at_work(self) -> bool:
        return any(unit is not None for _, unit in self.doing.values())

    def _replace(self, unit: Any, again: deque[Any], death: Exception) -> None:
        """Another actor for one that died, and its unit to be done again, unless it has cost too many."""
        name = "to start" if unit is None else str(getattr(unit, "id", unit))
        self.lost[name] += 1
        if self.lost[name] > RESTARTS:
            what = "could not start" if unit is None else f"was killed {self.lost[name]} times in unit {name}"
            raise WorkerDied(
                f"An actor {what} (out of memory?). Use smaller units or larger machines; "
                "the same command then goes on."
            ) from death
        if unit is not None:
            again.append(unit)
        self._hire()

    def dismiss(self) -> None:
        """End the actors; a unit that one is at stays unfinished, and leaves no half file."""
        for actor in [*self.idle, *(actor for actor, _ in self.doing.values())]:
            self.ray.kill(actor)
        self.idle.clear()
        self.doing.clear()


def _share_of_gpus(ray: Any, workers: int) -> float:
    """What an actor asks of the GPUs of the cluster: one of them, or a part where there are more actors."""
    there = int(ray.cluster_resources().get("GPU", 0))
    if not there:
        raise InputError("the Ray cluster has no GPU", fix="Say --device cpu, or add a machine that has one")
    return 1 / max(1, -(-workers // there))
