"""Where tensors are computed: the processor or a GPU, in the precision that they have on either."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

from vae_core.errors import InputError, one_line

__all__ = ["check", "device", "exact", "for_training", "kind"]

# Parameters times records of a step, from where a GPU is quicker: of less it does little but start kernels.
# A step of 98 million took 8.6 milliseconds on an H100, 13.3 on one core; of 6 million 4.8 and 2.0.
ENOUGH = 100_000_000
ENOUGH_PIXELS = 256  # the same of convolutions, of an image: 8 x 8 took 7.4 and 3.6 milliseconds


def device(name: str) -> torch.device:
    """A device by its name; "auto" is this process's own GPU where there is one, else the processor.

    Of several GPUs a process has the one of its number on this machine (LOCAL_RANK: torchrun and our own
    workers set it). Raises InputError for anything else, and for a GPU that torch cannot use.

    >>> device("cpu")
    device(type='cpu')
    """
    there = torch.cuda.is_available()
    if name == "auto":
        name = "cuda" if there else "cpu"
    chosen = None
    with suppress(RuntimeError):  # torch knows no such name
        chosen = torch.device(name)
    if chosen is None or chosen.type not in ("cpu", "cuda"):
        raise InputError(f'there is no device "{one_line(name)}"', fix="Say auto, cpu or cuda")
    if chosen.type == "cpu":
        return chosen
    gpus = torch.cuda.device_count() if there else 0
    if not gpus or (chosen.index or 0) >= gpus:
        fix = 'Say "auto" or "cpu", or install a build of torch for it'
        raise InputError(f'device "{name}": there is no GPU that torch can use', fix=fix)
    if chosen.index is None:
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % gpus)
    return chosen


def for_training(name: str, step: int) -> torch.device:
    """The same for a training of so many parameters times records a step.

    "auto" is the processor where that is little, or where this machine has fewer GPUs than processes that
    train together on it; "cuda" raises InputError there.

    >>> for_training("auto", 1000)
    device(type='cpu')
    """
    if name == "auto" and step < ENOUGH:
        return torch.device("cpu")
    chosen, together = device(name), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    gpus = torch.cuda.device_count() if chosen.type == "cuda" else together
    if together <= gpus:
        return chosen
    if name == "auto":
        return torch.device("cpu")
    fix = f"Launch {gpus} (--nproc_per_node={gpus}), or train with --device cpu"
    raise InputError(f"{together} processes cannot train together on {gpus} GPU(s)", fix=fix)


def check(name: str) -> None:
    """Raises InputError for any other name than auto, cpu and cuda, wherever the device may be."""
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f'there is no device "{one_line(name)}"', fix="Say auto, cpu or cuda")


def kind(name: str) -> str:
    """What scoring on a device of that name will use: "cpu" or "cuda", which may be on another machine.

    Raises InputError for a name that `check` refuses.

    >>> kind("cuda")
    'cuda'
    """
    check(name)
    return device(name).type if name == "auto" else name


@contextmanager
def exact() -> Iterator[None]:
    """A GPU computes in single precision where tensors are, and the same bits each time; also a decorator.

    By itself torch takes TF32 (10 bits of a number's 23) for convolutions, and whichever algorithm is free.
    Raises InputError where the GPU's memory is full.
    """
    if not torch.cuda.is_available():
        yield
        return
    products, before = torch.backends.cuda.matmul, torch.backends.cuda.matmul.allow_tf32
    products.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    except torch.cuda.OutOfMemoryError as full:
        fix = "Use fewer workers, in training smaller batches, or --device cpu"
        raise InputError("the GPU's memory is full", fix=fix) from full
    finally:
        products.allow_tf32 = before
