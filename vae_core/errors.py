"""What can go wrong in a way that its user can mend: one line and an exit code on the command line."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["InputError", "Refused", "columns_here", "nearest", "one_line"]

MOST_NAMED = 20


class InputError(ValueError):
    """Bad input: says what was found, where, and what to do (exit code 2).

    >>> print(InputError('"n/a" is not a number', file="weather.csv", column="temp", row=1204,
    ...                  fix="Add it to --null-values, or fix the row"))
    weather.csv, column "temp", row 1204: "n/a" is not a number. Add it to --null-values, or fix the row.
    """

    def __init__(
        self,
        problem: str,
        *,
        file: object = None,
        column: str | None = None,
        row: int | None = None,
        fix: str | None = None,
    ) -> None:
        place = [one_line(str(file))] if file is not None else []
        place += [f'column "{one_line(column)}"'] if column is not None else []
        place += [f"row {row}"] if row is not None else []
        text = f"{', '.join(place)}: {problem}" if place else problem
        text = text.rstrip(".") + "."
        if fix:
            text += f" {fix.rstrip('.')}."
        super().__init__(one_line(text))


class Refused(RuntimeError):
    """A request that was understood and is declined, so that nothing is overwritten (exit code 3)."""


def one_line(text: str) -> str:
    """Text for a terminal or a log: control characters (line breaks, escape sequences) become visible.

    >>> one_line("a\\nb\\x1b[31m")
    'a\\\\nb\\\\x1b[31m'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def nearest(name: str, names: Iterable[str]) -> str:
    """A hint at the most similar name, or nothing.

    >>> nearest("temp", ["temperature", "hour"])
    '; the nearest name here is "temperature"'
    """
    import difflib

    by_plain = {other.strip().lower(): other for other in names}
    close = difflib.get_close_matches(name.strip().lower(), list(by_plain), n=1, cutoff=0.5)
    return f'; the nearest name here is "{by_plain[close[0]]}"' if close else ""


def columns_here(names: Iterable[str]) -> str:
    """What to choose from, as the `fix` of an error.

    >>> columns_here(["c", "d"])
    'The columns here are c, d'
    """
    known = list(names)
    more = f" and {len(known) - MOST_NAMED} more" if len(known) > MOST_NAMED else ""
    return f"The columns here are {', '.join(known[:MOST_NAMED])}{more}"
