"""How many flags hang on the draws: what each block of noise alone would flag, as many as are flagged.

All records are scored with the same noise, so most of the noise's error is common to all of them, to the
held-out records too, and cancels in the ranking. What is left are differences between records, and they are
paired: within one block, each record is compared with the others under the same draws.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["BLOCKS", "BlockScores"]

BLOCKS = [f"_block_{b}" for b in range(4)]  # columns of a unit's file


class BlockScores:
    """Each record's score by each block alone, in files in rank order: flat memory."""

    def __init__(self, folder: Path) -> None:
        self._paths = [folder / f"{name}.float64" for name in BLOCKS]
        self._open = ExitStack()
        self._known = True

    def __enter__(self) -> Self:
        self._files = [self._open.enter_context(path.open("wb")) for path in self._paths]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def write(self, table: pa.Table, *, only_with_p_value: bool) -> None:
        """The next rows of the ranking; those that cannot be flagged lie below all others."""
        if not self._known or any(
            name not in table.column_names or table[name].null_count for name in BLOCKS
        ):
            self._known = False
            return
        score = table["anomaly_score"].to_numpy()
        out = pc.is_null(table["p_value"]).to_numpy() if only_with_p_value else np.zeros(len(score), bool)
        for name, file in zip(BLOCKS, self._files, strict=True):
            file.write(np.where(out, -np.inf, score + table[name].to_numpy()).tobytes())

    def turned(self, flags: Iterable[np.ndarray], flagged: int) -> tuple[int, int] | None:
        """Flagged records that at least one block alone would not flag, and others that one would.

        `flags` in rank order, piece by piece. None where there are no blocks to compare.
        """
        if not self._known:
            return None
        if flagged == 0:
            return 0, 0
        limits = [_around(path, flagged) for path in self._paths]
        lost = gained = 0
        with ExitStack() as stack:
            files = [stack.enter_context(path.open("rb")) for path in self._paths]
            for piece in flags:
                below, above = np.zeros(len(piece), bool), np.zeros(len(piece), bool)
                for file, (last, next_one) in zip(files, limits, strict=True):
                    score = np.frombuffer(file.read(8 * len(piece)), dtype=np.float64)
                    below |= score < last
                    above |= score > next_one  # which of equals is flagged does not hang on the draws
                lost += int((below & piece).sum())
                gained += int((above & ~piece).sum())
        return lost, gained


def _around(path: Path, k: int) -> tuple[float, float]:
    """The k-th largest number of a file and the one after it, -inf where there is none."""
    scratch = path.with_suffix(".sorted")
    shutil.copyfile(path, scratch)
    mapped = np.memmap(scratch, dtype=np.float64, mode="r+")
    place = len(mapped) - k
    mapped.partition(place)
    found = float(mapped[place]), float(mapped[:place].max(initial=-np.inf))
    del mapped
    scratch.unlink()
    return found
