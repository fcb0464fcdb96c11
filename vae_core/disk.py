"""What a publication needs of the disk: that what was written is there after a power cut, too."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["sync"]


def sync(path: Path) -> None:
    """Have the disk keep a file, or the names in a folder (so that a rename survives), before going on."""
    windows = os.name == "nt"  # where only a file that may be written can be synced, and no folder
    if windows and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
