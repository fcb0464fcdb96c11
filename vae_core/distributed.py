"""Several processes that train one model together: what a training has to know of the others.

The only place that asks `torch.distributed`. The same `training.fit` runs alone or, launched by torchrun, as
one of several equal processes; alone every function here is free and changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

# One process reads and checks the input while the others wait for it.
PATIENCE = timedelta(hours=24)

__all__ = ["first_says", "joined", "place", "same_everywhere", "sum_over_all"]


def place() -> tuple[int, int]:
    """The number of this process, from 0, and how many there are.

    >>> place()
    (0, 1)
    """
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


@contextmanager
def joined() -> Iterator[tuple[int, int]]:
    """Meet the other processes that torchrun has launched (its environment says so), and part at the end.

    Gloo sums what processors hold, NCCL what GPUs hold. Without torchrun, or in a group that exists: nothing.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1 and "MASTER_ADDR" in os.environ
    if not launched or place()[1] > 1:
        yield place()
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield place()
    finally:
        dist.destroy_process_group()


def sum_over_all(tensor: Tensor) -> Tensor:
    """The sum over all processes, in place; every process gets the same bits."""
    if place()[1] > 1:
        dist.all_reduce(tensor)
    return tensor


def same_everywhere(tensor: Tensor) -> Tensor:
    """The first process's tensor, in place."""
    if place()[1] > 1:
        dist.broadcast(tensor, 0)
    return tensor


def first_says(answer: bool) -> bool:
    """The first process's answer, in every process, once all have come here."""
    return bool(same_everywhere(torch.tensor([answer], dtype=torch.uint8)))
