"""Python's garbage collector, kept from walking again and again over what imports leave and nobody frees.

torch, pandas, MLflow and SQLAlchemy together make half a million objects that stay until the process ends.
While they are made, the collector visits all of them again and again, and so does the interpreter before it
ends: of the 12 processor seconds of a small job these were 4.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["paused"]

MANY = 50_000  # new objects: then something large was imported


@contextmanager
def paused() -> Iterator[None]:
    """No collection meanwhile; what an import left behind is never visited later either.

    For imports and small work beside them: cycles that hold much memory would stay.
    """
    if not gc.isenabled():  # by a caller who pauses already
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if gc.get_count()[0] > MANY:  # not at every pause: whatever garbage there is stays, too
            gc.freeze()
        gc.enable()
