"""A record's sentence on the page: names and values written from right to left stay whole and in place.

A browser orders a line by the directions of its letters, so a Hebrew or Arabic name would pull the numbers
after it to its other side. Each such name is therefore isolated, on the page only: the report's sentence is
the plain one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from vae_core.errors import one_line

__all__ = ["delicate", "middle", "sentence"]

LONGEST = 60  # characters of one name or value in a sentence
LETTERS = "\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefe\U00010800-\U00010fff\U0001e800-\U0001efff"
FROM_RIGHT = re.compile(
    f"[{LETTERS}](?:[ '\".-]*[{LETTERS}])*"
)  # letters from the right, blanks between them
ISOLATED = Markup("<bdi>{}</bdi>")
TOLD = 3  # reasons that a sentence has room for


def middle(text: object, longest: int = LONGEST) -> str:
    """The beginning and the end of a long name.

    >>> middle("temperature_of_sensor_1", 12)
    'temper…sor_1'
    """
    whole = str(text)
    half = longest // 2
    return whole if len(whole) <= longest else f"{whole[:half]}…{whole[len(whole) - (longest - half - 1) :]}"


def delicate(reasons: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names and values of a sentence, in its order, that are to be isolated or are too long for it."""
    parts = ("feature", "value", "expected", "low", "high")
    texts = [reason[part] for reason in reasons[:TOLD] for part in parts if reason.get(part)]
    return [text for text in texts if len(text) > LONGEST or (not text.isascii() and FROM_RIGHT.search(text))]


def sentence(text: str, longest: int, names: Sequence[str] = ()) -> Markup:
    """The beginning of a sentence, with its `delicate` names isolated, and long ones cut in their middle.

    >>> print(sentence("\u05d0\u05d1 7, expected 2 (1 to 3)", 99))
    <bdi>\u05d0\u05d1</bdi> 7, expected 2 (1 to 3)
    >>> print(sentence(f"{'a' * 99}b 7: -9 nats", 99, ["a" * 99 + "b"]))
    aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…aaaaaaaaaaaaaaaaaaaaaaaaaaaab 7: -9 nats
    """
    pieces, at = [], 0
    for name in names:
        found = text.find(name, at)
        if found >= 0:
            pieces += [(text[at:found], False), (middle(name), True)]
            at = found + len(name)
    result, left = Markup(), longest
    for piece, whole in [*pieces, (text[at:], False)]:
        kept = piece if len(piece) <= left else f"{piece[: max(0, left - 1)]}…"
        result += _isolated(kept, whole=whole)
        left -= len(kept)
        if kept != piece:
            break
    return result


def _isolated(text: str, *, whole: bool) -> Markup:
    """Text for the page, one name or, piece by piece, what in it reads from the right."""
    if text.isascii():  # nearly always, and a search takes its time
        return Markup() + one_line(text)
    if whole and FROM_RIGHT.search(text):
        return ISOLATED.format(one_line(text))
    result, at = Markup(), 0
    for found in FROM_RIGHT.finditer(text):
        result += one_line(text[at : found.start()])
        result += ISOLATED.format(one_line(found.group()))
        at = found.end()
    return result + one_line(text[at:])
