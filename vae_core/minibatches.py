"""What training takes its steps on: random slices of records in memory, or a shuffled stream of them.

Which records a step sees follows from the seed and the step alone, so that a resumed training goes on with
the same ones. Of several processes each takes its own share of a step's records.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from vae_core import distributed
from vae_core.encoding import Encoded, TableEncoding
from vae_core.model import VAE
from vae_core.records import are_among, finite, identities

__all__ = ["InMemory", "Minibatch", "Minibatches", "Stream", "Streamed", "tensors"]

BUFFER_CELLS = 8_000_000  # of a stream, held at once and shuffled
Stream = Callable[
    [int], Iterator[pa.RecordBatch]
]  # the number of the pass -> all records, in an order of its own


@dataclass(frozen=True)
class Minibatch:
    """This process's records of one step, on the device; `together` is how many all processes take."""

    values: Tensor  # (n, m) float32
    mask: Tensor  # (n, m) bool, or (1, m) where nothing is missing
    inputs: Tensor  # (n, d)
    context: Tensor  # (n, c)
    together: int


class Minibatches(Protocol):
    """Where the records of each step come from."""

    size: int  # records of a step, over all processes

    def take(self, step: int) -> Minibatch:
        """The records of a step."""

    def digest(self) -> str:
        """A hash of what decides which records come."""


def tensors(encoded: Encoded, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Values (float32), mask and context of encoded records, on a device."""
    values = torch.from_numpy(np.ascontiguousarray(encoded.values, np.float32)).to(device)
    mask = torch.from_numpy(np.ascontiguousarray(encoded.mask)).to(device)
    return values, mask, torch.from_numpy(encoded.context).to(device)


class InMemory:
    """All records on the device; each epoch in a new order, each step one slice of that order."""

    def __init__(self, parts: tuple[Tensor, Tensor, Tensor, Tensor], size: int, seed: int) -> None:
        values, mask, inputs, context = parts
        self.rows = len(values)
        self.size = min(size, self.rows)
        self.seed = seed
        self.complete = bool(mask.all())
        self.same = values.shape == inputs.shape and torch.equal(values, inputs)
        # One tensor, so that a step gathers its records at once.
        self.packed = torch.cat([values, context] if self.same else [values, context, inputs], -1)
        self.widths = values.shape[1], context.shape[1], 0 if self.same else inputs.shape[1]
        self.mask = mask
        self.order: tuple[int, Tensor] | None = None  # the epoch at hand and its order

    def take(self, step: int) -> Minibatch:
        """A random slice; the order follows from the seed and the epoch alone."""
        epoch, place = divmod(step, max(1, self.rows // self.size))
        if self.order is None or self.order[0] != epoch:  # 40 ms for a million records: once an epoch
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self.order = epoch, torch.randperm(self.rows, generator=generator).to(self.packed.device)
        number, processes = distributed.place()
        rows = self.order[1][place * self.size : (place + 1) * self.size][number::processes]
        values, context, inputs = self.packed.index_select(0, rows).split(self.widths, -1)
        mask = self.mask[:1] if self.complete else self.mask.index_select(0, rows)
        return Minibatch(values, mask, values if self.same else inputs, context, self.size)

    def digest(self) -> str:
        content = hashlib.sha256(self.packed.cpu().numpy().tobytes())
        content.update(self.mask.cpu().numpy().tobytes())
        return content.hexdigest()


class Streamed:
    """Records that do not fit in memory: read pass by pass, mixed in a buffer, without those held out.

    A pass's order is the stream's own (row groups at random, for a dataset); within the buffer, of 8 million
    cells, it is uniform. Of several processes each reads every so many-th batch.
    """

    def __init__(
        self,
        stream: Stream,
        encoding: TableEncoding,
        vae: VAE,
        held_out: np.ndarray,
        *,
        size: int,
        seed: int,
        device: torch.device,
        identity: str,
    ) -> None:
        self.stream, self.encoding, self.vae = stream, encoding, vae
        self.held_out = held_out  # sorted identities
        self.size, self.seed, self.device = size, seed, device
        self.identity = identity  # of the records: a content hash, or what stands for one
        self.next = 0
        self.coming: Iterator[tuple[Tensor, Tensor, Tensor]] = self._endless()

    def take(self, step: int) -> Minibatch:
        """The next records; a step that is not the next one is reached by reading up to it."""
        if step < self.next:
            self.next, self.coming = 0, self._endless()
        for _ in range(step - self.next):
            next(self.coming)
        self.next = step + 1
        values, mask, context = (self._on_device(part) for part in next(self.coming))
        return Minibatch(values, mask, self.vae.inputs(values, mask), context, self.size)

    def _on_device(self, part: Tensor) -> Tensor:
        """The copy runs beside the computing, from memory that the GPU can read by itself."""
        return part.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else part

    def digest(self) -> str:
        return hashlib.sha256(self.identity.encode() + self.held_out.tobytes()).hexdigest()

    def _endless(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Minibatches for ever: values, mask, context."""
        number, processes = distributed.place()
        share = max(1, self.size // processes)
        capacity = max(2 * share, BUFFER_CELLS // len(self.encoding.features))
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        waiting: list[tuple[Tensor, ...]] = []
        for epoch in itertools.count():
            for batch in itertools.islice(self.stream(epoch), number, None, processes):
                waiting.append(self._encoded(batch))
                if sum(len(part[0]) for part in waiting) >= capacity:
                    mixed = _shuffled(waiting, generator)
                    sent = (
                        max(1, len(mixed[0]) // (2 * share)) * share
                    )  # half of it; the rest mixes with what comes
                    yield from _pieces(mixed, share, sent)
                    waiting = [tuple(part[sent:].clone() for part in mixed)]
            mixed = _shuffled(waiting, generator)
            sent = len(mixed[0]) // share * share
            yield from _pieces(mixed, share, sent)
            waiting = [tuple(part[sent:].clone() for part in mixed)]

    def _encoded(self, batch: pa.RecordBatch) -> tuple[Tensor, ...]:
        fitted = batch.filter(pa.array(~are_among(identities(batch), self.held_out)))
        return tensors(finite(self.encoding.encode(fitted), self.encoding), torch.device("cpu"))


def _shuffled(waiting: list[tuple[Tensor, ...]], generator: torch.Generator) -> tuple[Tensor, ...]:
    together = [torch.cat(parts) for parts in zip(*waiting, strict=True)]
    order = torch.randperm(len(together[0]), generator=generator)
    return tuple(part[order] for part in together)


def _pieces(mixed: tuple[Tensor, ...], share: int, rows: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for first in range(0, rows, share):
        values, mask, context = (part[first : first + share] for part in mixed)
        yield values, mask, context
