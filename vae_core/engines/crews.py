"""What the stages of a job share: workers stay for the next stage, with the model that they have loaded."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

__all__ = ["keep", "one_crew", "taken"]

Kept = dict[Hashable, tuple[Any, Callable[[], None]]]

_kept: ContextVar[Kept | None] = ContextVar("kept", default=None)


@contextmanager
def one_crew() -> Iterator[None]:
    """Within it the workers of one stage do the next one too. One stage at a time.

    Workers with GPUs leave after their stage: they would hold the GPUs' memory for nothing.
    """
    kept: Kept = {}
    token = _kept.set(kept)
    try:
        yield
    finally:
        _kept.reset(token)
        for _, end in reversed(kept.values()):
            end()


def keep(name: Hashable, crew: Any, end: Callable[[], None]) -> bool:
    """Leave a crew for the next stage; whether there will be one. At the end of the job `end` is called."""
    kept = _kept.get()
    if kept is not None:
        kept[name] = crew, end
    return kept is not None


def taken(name: Hashable) -> Any:
    """The crew that the stage before has left under this name; None where there is none."""
    crew, _ = (_kept.get() or {}).pop(name, (None, None))
    return crew
