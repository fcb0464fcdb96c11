"""Numbers and sentences as the page writes them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "CHARGE",
    "HIDDEN",
    "chance",
    "count",
    "figure",
    "flag_rule",
    "named",
    "nats",
    "short",
    "unsure_flags",
    "without_values",
]

COMBINATION = "(unusual combination)"  # as `vae_core.explanation` names the KL, without importing torch
HIDDEN = "hidden"
CHARGE = (
    "What is charged for being far out as a whole is for no column: where a part of the model finds the "
    "record less likely than records usually are, the distance counts by its square, so that such records "
    "come first."
)
LONGEST = 160  # characters of one text


def figure(value: float | None) -> str:
    """A number to read, with about four digits.

    >>> figure(12345.678), figure(0.0123456), figure(2e-9), figure(None)
    ('12,346', '0.01235', '2e-09', 'none')
    """
    if value is None or math.isnan(value):
        return "none"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}"


def chance(value: float | None) -> str:
    """A p-value or q-value, with two digits.

    >>> chance(0.00021834), chance(None)
    ('0.00022', 'none')
    """
    return "none" if value is None or math.isnan(value) else f"{value:.2g}"


def nats(value: float) -> str:
    """A difference in nats, as in the sentences.

    >>> nats(-18.64), nats(-183379.2)
    ('-18.6', '-183,379')
    """
    return f"{value:+,.1f}" if abs(value) < 100 else f"{value:+,.0f}"


def count(value: int) -> str:
    """A whole number with its thousands set apart."""
    return f"{value:,}"


def short(text: object, longest: int = LONGEST) -> str:
    """The beginning of a long text.

    >>> short("abcdef", 4)
    'abc…'
    """
    whole = str(text)
    return whole if len(whole) <= longest else f"{whole[: longest - 1]}…"


def flag_rule(decision: Mapping[str, Any]) -> str:
    """By what records were flagged, in words.

    >>> flag_rule({"fdr": 0.05})
    'expected share of false flags at most 5% (q-value ≤ 0.05)'
    """
    if "fdr" in decision:
        share = decision["fdr"]
        return f"expected share of false flags at most {100 * share:.3g}% (q-value ≤ {share:g})"
    if "alpha" in decision:
        return f"p-value ≤ {decision['alpha']:g}"
    return f"the {decision.get('top_k', 0):,} ranked first"


def unsure_flags(counts: Mapping[str, Any]) -> str:
    """How many flags another block of draws would turn; empty where there are none, or it is not known.

    >>> unsure_flags({"flagged": 12, "flags_lost": 1, "flags_gained": 2})
    'By other random draws 1 of the 12 flags might go, and 2 others might come.'
    >>> unsure_flags({"flagged": 1, "flags_lost": 0, "flags_gained": 0})
    'The flag does not depend on the random draws.'
    """
    lost, gained, flagged = (counts.get(name) for name in ("flags_lost", "flags_gained", "flagged"))
    if lost is None or gained is None or not flagged:
        return ""
    if not lost and not gained:
        one = "The flag does not depend" if flagged == 1 else f"None of the {flagged:,} flags depends"
        return f"{one} on the random draws."
    of = f"of the {flagged:,} flags" if flagged > 1 else "flag"
    others = "other" if gained == 1 else "others"
    return f"By other random draws {lost:,} {of} might go, and {gained:,} {others} might come."


def named(reasons: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns that a record's sentence names: the first, and up to two that weigh 5 % of it or more.

    >>> named([{"feature": name, "nats": nats, "typical": 0.0} for name, nats in (("a", -90.0), ("b", -1.0))])
    ['a']
    """
    below = [reason["typical"] - reason["nats"] for reason in reasons[:3]]
    return [
        reason["feature"]
        for reason, nats in zip(reasons, below, strict=False)
        if nats >= 0.05 * max(below) or reason is reasons[0]
        if reason["feature"] != COMBINATION
    ]


def without_values(reasons: Sequence[Mapping[str, Any]]) -> str:
    """The sentence of a record that tells no value: columns and nats.

    >>> without_values([{"feature": "salary", "nats": -31.5, "typical": -1.5}])
    'salary: -30.0 nats'
    """
    clauses: list[str] = []
    for reason in reasons[:3]:
        below = reason["nats"] - reason["typical"]
        if clauses and below > -1:
            continue
        name = "an unusual combination of values" if reason["feature"] == COMBINATION else reason["feature"]
        clauses.append(f"{name}: {nats(below)} nats")
    return "; ".join(clauses)
