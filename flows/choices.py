"""What is asked of scoring by its name or number: checked before anything is read."""

from __future__ import annotations

from typing import Any

from vae_core.errors import InputError, nearest, one_line

__all__ = ["MEMBERS", "check_decision", "check_device", "member_names"]

MEMBERS = ("vae", "columns", "kernel", "crowd")  # that a model can have; of images it has the first


def member_names(text: str | None) -> tuple[str, ...] | None:
    """Which members rank, "vae,kernel" or "vae, kernel"; None: all that the model has.

    >>> member_names("vae, kernel")
    ('vae', 'kernel')

    Raises InputError for a name that no model's member has.
    """
    if text is None:
        return None
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in names:
        if name not in MEMBERS:
            hint = nearest(name, MEMBERS)
            fix = f"Name one or more of {', '.join(MEMBERS)}, with commas between"
            raise InputError(f'there is no member "{one_line(name)}"{hint}', fix=fix)
    return names


def check_decision(*, fdr: float | None, alpha: float | None, top_k: int | None) -> Any:
    """How records are flagged: by one of the three; by a false discovery rate of .05 where none is given."""
    from vae_core.report import Decision

    return Decision(fdr=fdr, alpha=alpha, top_k=top_k)


def check_device(name: str, engine: str) -> None:
    """A device to score on, before anything is read; a cluster's GPUs are elsewhere."""
    if name == "cpu":
        return
    from vae_core import devices  # torch takes a second to import

    devices.check(name)
    if engine == "local":
        devices.device(name)
    elif name == "auto":
        fix = "Say cuda, or cpu"
        raise InputError(f'device "auto" asks this machine, and engine "{engine}" scores on others', fix=fix)
