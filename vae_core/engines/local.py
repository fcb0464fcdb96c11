"""Units in this process, or in a pool of processes that share this machine's cores."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from itertools import chain
from multiprocessing.connection import wait as wait_for_any
from typing import Any

from vae_core.engines import crews

__all__ = ["RESTARTS", "WorkerDied", "import_ahead", "local"]

RESTARTS = 2  # a unit that kills its worker (out of memory, say) must end the job, not repeat for ever
# What workers import, once for all of them: the next one then starts in a blink, also for the next stage.
IMPORTED_ONCE = ["vae_core.storage", "vae_core.explanation", "vae_core.work"]
QUEUED = 2  # units handed to each worker at a time: enough to keep it busy, however many units there are


class WorkerDied(RuntimeError):
    """Workers were killed again and again. Finished units stay, and the same command goes on."""


def local(
    units: Iterable[Any], work: Callable[[Any], Any], *, workers: int, gpu: bool = False
) -> Iterator[Any]:
    """One worker: a plain loop in this process. More: spawned processes that share the processors' cores."""
    if workers == 1:
        yield from map(work, units)
        return
    waiting, died = iter(units), 0
    while True:
        running: dict[Future[Any], Any] = {}
        try:
            with _crew(workers, gpu=gpu) as pool:
                yield from _drain(pool, waiting, work, running, limit=QUEUED * workers)
                return
        except BrokenProcessPool as problem:
            died, unfinished = died + 1, list(running.values())
            waiting = chain(unfinished, waiting)
            if died > RESTARTS:
                names = ", ".join(str(getattr(unit, "id", unit)) for unit in unfinished)
                raise WorkerDied(
                    f"A worker process was killed {died} times (out of memory?), in one of the units "
                    f"{names}. Use fewer workers or smaller units; the same command then goes on."
                ) from problem


@contextmanager
def _crew(workers: int, *, gpu: bool) -> Iterator[ProcessPoolExecutor]:
    """A pool, or the one that is at hand; whatever goes wrong (or a reader that stops early) ends it."""
    name = "processes", workers
    pool = (None if gpu else crews.taken(name)) or _pool(workers, gpu=gpu)
    try:
        yield pool
    except BaseException:
        pool.shutdown(cancel_futures=True)  # start nothing new
        raise
    if gpu or not crews.keep(name, pool, pool.shutdown):
        pool.shutdown()


def _drain(
    pool: ProcessPoolExecutor,
    waiting: Iterator[Any],
    work: Callable[[Any], Any],
    running: dict[Future[Any], Any],
    *,
    limit: int,
) -> Iterator[Any]:
    """Keep up to `limit` units in the pool until none is left; `running` always holds the unfinished ones."""
    while True:
        while len(running) < limit:
            try:
                unit = next(waiting)
            except StopIteration:
                break
            try:
                running[pool.submit(work, unit)] = unit
            except BrokenProcessPool:
                running[Future()] = unit  # never ran: to be handed out again with the others
                raise
        if not running:
            return
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            result = future.result()  # raises before the unit is taken off the list of unfinished ones
            del running[future]
            yield result


def _pool(workers: int, *, gpu: bool) -> ProcessPoolExecutor:
    """Forked from a server that has imported what they need and computed nothing: a fork of this process, in
    which threads of torch and Arrow are at work, can hang. Spawned where there is no such server."""
    threads = max(1, (os.cpu_count() or 1) // workers)
    context = _context()
    started = context.Value("i", 0) if gpu else None
    start = partial(_start_worker, threads, dict(os.environ), started)
    return ProcessPoolExecutor(workers, mp_context=context, initializer=start)


def import_ahead() -> None:
    """Start the server that workers are forked from; it imports while this process does other things."""
    if _context().get_start_method() == "forkserver":
        from multiprocessing import forkserver

        forkserver.ensure_running()


def _context() -> Any:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED_ONCE)  # not the caller's own module: it may start threads
    return context


def _start_worker(threads: int, environment: dict[str, str], started: Any) -> None:
    """In a new worker: the parent's environment as it is now, a fair share of the cores, and its death.

    `started` counts the workers that share GPUs: each gets a number, and by it its GPU (`devices.device`).
    """
    os.environ.clear()
    os.environ.update(environment)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    if started is not None:
        with started.get_lock():
            os.environ["LOCAL_RANK"] = str(started.value)
            started.value += 1
    if "torch" in sys.modules:  # has read the variables already
        sys.modules["torch"].set_num_threads(threads)
    threading.Thread(target=_die_with_parent, name="die with parent", daemon=True).start()


def _die_with_parent() -> None:
    """A worker holds both ends of its queue, so that it never notices a killed parent: watch for that."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for_any([parent.sentinel])
        os._exit(1)
