"""The garbage collector pauses for imports, and for nothing else."""

from __future__ import annotations

import gc
from collections.abc import Iterator

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
        import a_module_that_is_not_there  # noqa: F401
    assert gc.isenabled()


def test_what_a_large_import_made_is_not_visited_later_and_small_garbage_is_still_freed() -> None:
    gc.unfreeze()
    gc.collect()
    with collector.paused():
        cycle: list[object] = []
        cycle.append(cycle)
        del cycle
    assert gc.get_freeze_count() == 0
    assert gc.collect() >= 1
    with collector.paused():
        kept = [[] for _ in range(collector.MANY + 1000)]
    assert gc.get_freeze_count() >= len(kept)
