"""A lock in a store, by nothing but "write if absent": numbered leases that their holders keep alive.

A holder writes `<name>.lock-000001` and renews its content every few seconds. Who finds it unchanged for
longer than a lease, by the own clock alone, takes over with the next number: exactly one can. A holder that
was only slow finds a higher number than its own and stops. On its own machine a dead holder is noticed at
once.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from vae_core.errors import InputError
from vae_core.stores.objects import Store

__all__ = ["Lease", "lease", "sweep"]

SECONDS = 45.0  # without renewal a lease is dead
RENEWALS = 4  # within that time


@dataclass
class Lease:
    """A lock that is held: `number` grows with every take-over."""

    store: Store
    name: str
    number: int
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def check(self) -> None:
        """Raises InputError when somebody has taken over: whoever publishes asks before the last step."""
        content = self.store.read(_place(self.name, self.number)) or b"{}"
        highest = max(_numbers(self.store, self.name), default=0)
        if highest != self.number or json.loads(content).get("token") != self.token:
            raise InputError(
                "another run has taken over",
                file=self.store.address(self.name),
                fix="Nothing was published by this one; run it again to see the report",
            )


@contextmanager
def lease(
    store: Store, name: str, *, seconds: float = SECONDS, on_wait: Callable[[], None] | None = None
) -> Iterator[Lease]:
    """Keep others out of what `name` stands for until this block ends, or this process does."""
    held = _acquire(store, name, seconds, on_wait)
    done = threading.Event()
    renewing = threading.Thread(target=_renew, args=(held, seconds, done), daemon=True)
    renewing.start()
    try:
        yield held
    finally:
        done.set()
        renewing.join()
        _release(held)


def _acquire(store: Store, name: str, seconds: float, on_wait: Callable[[], None] | None) -> Lease:
    seen: tuple[int, bytes | None] = (0, None)
    since = time.monotonic()
    while True:
        number = max(_numbers(store, name), default=0)
        content = store.read(_place(name, number)) if number else None
        if (number, content) != seen:
            seen, since = (number, content), time.monotonic()
        if content is None or _is_over(content) or time.monotonic() - since > seconds:
            mine = Lease(store, name, number + 1)
            if store.put_if_absent(_place(name, mine.number), _content(mine, 0)):
                return mine
            continue  # another one was faster: look again
        if on_wait is not None:
            on_wait()
            on_wait = None
        time.sleep(min(1.0, seconds / 10))


def _renew(held: Lease, seconds: float, done: threading.Event) -> None:
    turn = 0
    while not done.wait(seconds / RENEWALS):
        turn += 1
        with suppress(
            InputError
        ):  # the store stumbles: the next turn may succeed, and `check` tells the rest
            held.store.put(_place(held.name, held.number), _content(held, turn))


def _release(held: Lease) -> None:
    """Say that it is over, and take the numbers below away; the highest one has to stay."""
    with suppress(InputError):
        numbers = _numbers(held.store, held.name)
        if max(numbers, default=0) == held.number:
            held.store.put(_place(held.name, held.number), json.dumps({"over": True}).encode())
        for number in numbers:
            if number < held.number:
                held.store.delete(_place(held.name, number))


def sweep(store: Store, name: str) -> None:
    """Remove the locks of something that is finished for ever: whoever comes later finds it so."""
    for number in _numbers(store, name):
        content = store.read(_place(name, number))
        if content is not None and _is_over(content):
            store.delete(_place(name, number))


def _numbers(store: Store, name: str) -> list[int]:
    folder, _, base = name.rpartition("/")
    start = f"{folder}/{base}.lock-" if folder else f"{base}.lock-"
    found = [entry.name.removeprefix(start) for entry in store.list(folder) if entry.name.startswith(start)]
    return sorted(int(number) for number in found if number.isdigit())


def _place(name: str, number: int) -> str:
    return f"{name}.lock-{number:06d}"


def _content(held: Lease, turn: int) -> bytes:
    return json.dumps({"host": _host(), "pid": os.getpid(), "token": held.token, "turn": turn}).encode()


def _host() -> str:
    """This machine since it was started: another boot, other process numbers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{socket.gethostname()}/{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _is_over(content: bytes) -> bool:
    """Released; or held by a process of this very machine that is there no longer."""
    try:
        told = json.loads(content)
        if told.get("over"):
            return True
        if not told["host"] or told["host"] != _host():
            return False
        os.kill(int(told["pid"]), 0)
    except ProcessLookupError:
        return True
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        return False
    return False
