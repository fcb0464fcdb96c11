"""The Nth call to the operating system inside a block fails."""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Counter", "failing"]

CALLS = (
    "open",
    "fsync",
    "rename",
    "replace",
    "unlink",
    "mkdir",
    "rmdir",
    "stat",
    "scandir",
    "listdir",
    "lstat",
)


class Counter:
    """Counts calls; the one with this number fails with this error."""

    def __init__(self, number: int, error: int) -> None:
        self.number, self.error, self.count, self.failed = number, error, 0, ""

    def call(self, name: str, original: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        self.count += 1
        if self.count == self.number:
            self.failed = name
            raise OSError(self.error, os.strerror(self.error), arguments[0] if arguments else None)
        return original(*arguments, **options)


@contextmanager
def failing(number: int, error: int = errno.EIO) -> Iterator[Counter]:
    """Inside the block the `number`th call that opens, flushes, names, lists or removes files fails."""
    counter, before = Counter(number, error), {}
    holders = [(os, name) for name in CALLS] + [(io, "open"), (builtins, "open")]
    for holder, name in holders:
        original = before[holder, name] = getattr(holder, name)

        def spoilt(*arguments: Any, _name: str = name, _original: Any = original, **options: Any) -> Any:
            return counter.call(_name, _original, *arguments, **options)

        setattr(holder, name, spoilt)
    try:
        yield counter
    finally:
        for (holder, name), original in before.items():
            setattr(holder, name, original)
