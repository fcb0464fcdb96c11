"""Python's garbage collector, kept from walking again and again over what imports leave and nobody frees.

torch, pandas, MLflow and SQLAlchemy together make half a million objects that stay until the process ends.
While they are made, the collector visits all of them again and again, and so does the interpreter before it
ends: of the 12 processor seconds of a small job these were 4.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["paused"]

MANY = 50_000  # new objects,
MODULES = 100  # and new modules: then something large was imported, which happens once


@contextmanager
def paused() -> Iterator[None]:
    """No collection meanwhile; what a large import left behind is never visited later either.

    Without such an import nothing is frozen: garbage would stay for ever, and more at every pause.
    """
    if not gc.isenabled():  # by a caller who pauses already
        yield
        return
    known = len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if gc.get_count()[0] > MANY and len(sys.modules) - known > MODULES:
            gc.freeze()
        gc.enable()
