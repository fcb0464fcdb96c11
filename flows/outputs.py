"""Files that a command writes where the user says: never over another one unasked, never into a report."""

from __future__ import annotations

from pathlib import Path

from vae_core.errors import InputError, Refused, one_line

__all__ = ["check", "check_outside_reports"]


def check(target: str | Path, *, replace: bool) -> None:
    """Raises Refused where there is such a file or folder already and it is not to be replaced."""
    check_outside_reports(target)
    if Path(target).exists() and not replace:
        raise Refused(f"{one_line(str(target))} exists already. Add --replace to overwrite it.")


def check_outside_reports(target: str | Path) -> None:
    """Raises InputError where the file would lie in a published report: its hashes would no longer hold."""
    from vae_core import publishing

    place = Path(target).resolve()
    for folder in (place, *place.parents):
        if (folder / publishing.MANIFEST).is_file():
            raise InputError(
                "is published, and never written to", file=folder, fix="Give --output another place"
            )
