"""Progress, on standard error where that is a terminal; none for --json."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console


def _console(quiet: bool) -> Console:
    """Standard error. Into a file or a pipe not even the line break that ends a progress bar is written."""
    return Console(stderr=True, quiet=quiet or not Console(stderr=True).is_terminal)


@contextmanager
def spinner(text: str, *, quiet: bool = False) -> Iterator[None]:
    """A sign of life for a step without a measure."""
    with _console(quiet).status(text):
        yield None


@contextmanager
def training(*, quiet: bool = False) -> Iterator[Any]:
    """Yields a callback for `training.fit`: steps done, held-out ELBO, time left."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("Training"), BarColumn(bar_width=20), MofNCompleteColumn(),
        TextColumn("held-out ELBO {task.fields[elbo]}"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=_console(quiet), transient=True) as bar:
        task = bar.add_task("training", total=None, elbo="-")

        def show_step(state: Any) -> None:
            elbo = getattr(state, "heldout_elbo", None)
            fields = {} if elbo is None or math.isnan(elbo) else {"elbo": f"{elbo:.3f}"}
            bar.update(task, total=state.steps, completed=state.step, **fields)

        yield show_step


@contextmanager
def scoring(*, quiet: bool = False) -> Iterator[Any]:
    """Yields a callback (done, total) in units."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("Scoring"), BarColumn(bar_width=20), MofNCompleteColumn(), TextColumn("units"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=_console(quiet), transient=True) as bar:
        task = bar.add_task("scoring", total=None)

        def show_units(done: int, total: int) -> None:
            bar.update(task, total=total, completed=done)

        yield show_units
