"""The garbage collector pauses for imports, and for nothing else."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

import pytest

from flows import collector


@pytest.fixture(autouse=True)
def _thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_nothing_is_collected_in_a_pause_and_everything_after_it() -> None:
    collections: list[str] = []
    gc.callbacks.append(lambda phase, _: collections.append(phase))
    try:
        with collector.paused():
            with collector.paused():  # the inner one ends, the outer one goes on
                pass
            kept = [[] for _ in range(10_000)]
            assert collections == []
        kept += [[] for _ in range(10_000)]
        assert collections
    finally:
        gc.callbacks.pop()


def test_a_failed_import_ends_the_pause() -> None:
    with pytest.raises(ModuleNotFoundError), collector.paused():
        import_module("a_module_that_is_not_there")
    assert gc.isenabled()


def test_what_a_large_import_made_is_not_visited_later_and_small_garbage_is_still_freed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gc.unfreeze()
    gc.collect()
    with collector.paused():
        cycle: list[object] = []
        cycle.append(cycle)
        del cycle
    assert gc.get_freeze_count() == 0
    assert gc.collect() >= 1
    with collector.paused():  # a large import
        kept = [[] for _ in range(collector.MANY + 1000)]
        for number in range(collector.MODULES + 1):
            monkeypatch.setitem(sys.modules, f"imported_{number}", ModuleType(f"imported_{number}"))
    assert gc.get_freeze_count() >= len(kept)


def test_garbage_of_a_pause_without_an_import_is_freed_after_it() -> None:
    gc.unfreeze()
    gc.collect()
    for _ in range(3):
        with collector.paused():
            for _ in range(collector.MANY + 1000):
                cycle: list[object] = []
                cycle.append(cycle)
            del cycle
        assert gc.get_freeze_count() == 0
        gc.collect()
    kept: weakref.WeakSet[_Thing] = weakref.WeakSet()
    with collector.paused():
        thing = _Thing()
        thing.itself = thing
        kept.add(thing)
        del thing
    gc.collect()
    assert len(kept) == 0


class _Thing:
    itself: object
