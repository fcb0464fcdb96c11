"""Names and SHA-256 of a great many files, held small: a hundred thousand of them take a few megabytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

__all__ = ["Paths", "Sums", "sum_of"]

UNREADABLE = "unreadable"  # in place of the sum of a file that cannot be opened
BYTES = 32  # of a sum; all zeros for such a file


class Paths(Sequence[Path]):
    """Files in order, held as text: Path objects would weigh five times as much."""

    def __init__(self, names: Iterable[str | Path]) -> None:
        self._names: list[str] = [str(name) for name in names]

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, place: int) -> Path: ...

    @overload
    def __getitem__(self, place: slice) -> Paths: ...

    def __getitem__(self, place: int | slice) -> Path | Paths:
        chosen = self._names[place]
        return Path(chosen) if isinstance(chosen, str) else Paths(chosen)

    def in_order(self) -> Paths:
        """Folder by folder, as Path objects are ordered: a separator comes before every other character.

        >>> [str(path) for path in Paths(["a-b", "a/b", "a"]).in_order()]
        ['a', 'a/b', 'a-b']
        """
        ordered: list[str] = sorted(self._names, key=lambda name: name.replace(os.sep, "\0"))
        return Paths(ordered)


class Sums:
    """The SHA-256 of each file in hexadecimal digits, in order, or "unreadable"."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._sums = bytearray()
        for file in files:
            found = sum_of(file)
            self._sums += bytes(BYTES) if found == UNREADABLE else bytes.fromhex(found)

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self._sums), BYTES):
            own = bytes(self._sums[first : first + BYTES])
            yield own.hex() if any(own) else UNREADABLE

    def total(self) -> str:
        """One for all of them."""
        together = hashlib.sha256()
        for own in self:
            together.update(own.encode())
        return together.hexdigest()


def sum_of(file: Path) -> str:
    """The SHA-256 of a file in hexadecimal digits; "unreadable" where it cannot be opened: it goes to
    quarantine, or stops the run, when it is read."""
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError:
        return UNREADABLE
