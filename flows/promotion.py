"""Whether a version becomes champion: a table of checks on evidence, the decision logged with its numbers.

A challenger has to load from the registry in a process of its own, score finitely and as it did in training,
ask for no column that the champion does without, do no worse than its own linear start and than the champion
on records that neither was trained on, find planted errors no worse, and keep its calibration. Where two
models' bounds are no densities of the same thing (other columns or likelihoods), planted errors decide alone,
and the table says so. "No worse" allows for noise: two standard errors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from flows import evidence, registry
from flows.evidence import FEWEST, Evidence
from flows.registry import ModelVersion, RegistryUnavailable
from vae_core import sources
from vae_core.errors import InputError, Refused, one_line

__all__ = ["CHECKS", "Verdict", "decide", "promote"]

ERRORS = 2.0  # standard errors that count as noise
TRIMMED = 0.1  # of the records at either end, of a mean over them
EQUAL = 1e-4  # two computations of one score, relative
MARGIN = (
    0.05  # of what training gains over the linear start: so far do two trainings lie apart by their seeds
)
ROUGH = 0.01  # of an AUROC: as much again as the sampling of planted errors leaves open
ALPHA = 1e-4  # of the calibration's test: one good model in 10,000 is refused for it


@dataclass(frozen=True)
class Verdict:
    """What a check found; `passed` is None where it does not apply."""

    check: str
    passed: bool | None
    found: str
    needed: str


def loads(e: Evidence) -> Verdict:
    """It loads from the registry in a clean process."""
    return Verdict("loads", not e.problem, e.problem or "yes", "in a process of its own, without a pickle")


def held_out(e: Evidence) -> Verdict:
    """There are records to judge by."""
    count = e.records.num_rows if e.records is not None else 0
    return Verdict("held-out records", count >= FEWEST, str(count), f"at least {FEWEST} that no model knows")


def finite(e: Evidence) -> Verdict:
    """Every score is a number, and not always the same one."""
    assert e.scores is not None
    wrong = int((~np.isfinite(e.scores)).sum())
    if wrong:
        return Verdict("finite", False, f"{wrong} of {len(e.scores)} scores are no numbers", "none")
    spread = float(np.std(e.scores))
    return Verdict("finite", spread > 0, "all finite" if spread > 0 else "all scores are equal", "differing")


def same_scores(e: Evidence) -> Verdict:
    """The clean process and this one agree, and both agree with the scores that training left."""
    assert e.scores is not None and e.clean is not None and e.challenger is not None
    needed = f"within {EQUAL:g}, relative"
    worst = _worst(e.clean, e.scores)
    if worst > EQUAL:
        return Verdict("same scores", False, f"the clean process differs by {worst:.3g}", needed)
    kept = e.challenger.calibration.scores
    if e.own and len(kept) == e.all_unseen:
        place = np.clip(np.searchsorted(kept, e.scores), 1, len(kept) - 1)
        nearest = np.where(
            np.abs(kept[place] - e.scores) < np.abs(kept[place - 1] - e.scores), kept[place], kept[place - 1]
        )
        worst = _worst(nearest, e.scores)
        return Verdict("same scores", worst <= EQUAL, f"training's differ by {worst:.3g}", needed)
    return Verdict("same scores", True, f"two processes differ by {worst:.3g}", needed)


def _worst(a: np.ndarray, b: np.ndarray) -> float:
    return float((np.abs(a - b) / np.maximum(1, np.abs(b))).max(initial=0.0))


def columns(e: Evidence) -> Verdict:
    """It asks for no column that the champion does without: over the present data every run would stop."""
    if e.champion is None:
        return Verdict("columns", None, "there is no champion yet", "")
    further = ", ".join(one_line(name) for name in e.further)
    told = f"needs {further}, which the champion does not" if further else "none that the champion lacks"
    return Verdict("columns", not further, told, "no further ones, or --force")


def linear_start(e: Evidence) -> Verdict:
    """Training gained over the closed form that it began with."""
    if e.start_gain is None:
        return Verdict("linear start", None, "has none", "")
    return _no_worse("linear start", e.start_gain)


def bound(e: Evidence) -> Verdict:
    """The held-out bound against the champion's, record by record."""
    if e.champion is None:
        return Verdict("champion's bound", None, "there is no champion yet", "")
    if e.bound_gain is None:
        return Verdict("champion's bound", None, f"{e.same_measure}: planted errors decide", "")
    gained = 0.0 if e.start_gain is None else max(0.0, float(np.median(e.start_gain)))
    return _no_worse("champion's bound", e.bound_gain, margin=MARGIN * gained)


def _no_worse(name: str, gain: np.ndarray, *, margin: float = 0.0) -> Verdict:
    """A trimmed mean gain that is not under zero by more than noise and margin.

    A tenth is cut off at either end (Tukey & McLaughlin 1963, with their standard error): a few anomalies, on
    which two models lie thousands of nats apart, must neither decide nor drown the rest.
    """
    from scipy.stats import mstats, trim_mean

    mean = float(trim_mean(gain, TRIMMED))
    error = float(mstats.trimmed_stde(gain, limits=(TRIMMED, TRIMMED)))
    limit = -ERRORS * error - margin - 1e-9
    told = f"{mean:+.4g} nats a record, standard error {error:.2g}"
    return Verdict(name, mean >= limit, told, f"at least {limit:.2g}")


def planted(e: Evidence) -> Verdict:
    """Planted errors rank high: no worse than the champion's ranking, and better than chance."""
    kinds = [kind for kind in e.planted if kind != "clean"]
    if not kinds:
        return Verdict("planted errors", None, "no column to plant one in", "")
    own, error = _auroc(e, "challenger", kinds)
    each = ", ".join(f"{kind} {_auroc(e, 'challenger', [kind])[0]:.3f}" for kind in kinds)
    told = f"AUROC {own:.4f} ({each})"
    if own < 0.5 + ERRORS * error:
        return Verdict("planted errors", False, told, f"over {0.5 + ERRORS * error:.4f}: chance")
    if "champion" not in e.planted["clean"]:
        return Verdict("planted errors", True, told, "better than chance")
    other, _ = _auroc(e, "champion", kinds)
    limit = other - ERRORS * error - ROUGH
    return Verdict("planted errors", own >= limit, told, f"at least {limit:.4f}; champion {other:.4f}")


def _auroc(e: Evidence, model: str, kinds: list[str]) -> tuple[float, float]:
    """Share of pairs of a planted and a clean record that the model orders rightly; its standard error
    (DeLong et al. 1988: records, not pairs, are independent)."""
    clean = np.sort(e.planted["clean"][model])
    wins = []
    for kind in kinds:
        found = e.planted[kind][model]
        below = np.searchsorted(clean, found, side="left")
        wins.append((below + np.searchsorted(clean, found, side="right")) / (2 * len(clean)))
    by_record = np.mean(wins, axis=0)  # the kinds are planted in the same records
    ordered = np.sort(np.concatenate([e.planted[kind][model] for kind in kinds]))
    losses = 1 - (
        np.searchsorted(ordered, clean, side="left") + np.searchsorted(ordered, clean, side="right")
    ) / (2 * len(ordered))
    variance = by_record.var(ddof=1) / len(by_record) + losses.var(ddof=1) / len(losses)
    return float(by_record.mean()), float(np.sqrt(variance))


def calibration(e: Evidence) -> Verdict:
    """p-values on held-out records spread evenly: two-sample Kolmogorov-Smirnov against its own records."""
    from scipy.stats import ks_2samp

    assert e.challenger is not None and e.scores is not None
    kept = e.challenger.calibration.scores
    if len(kept) < FEWEST:
        return Verdict("calibration", None, f"only {len(kept)} records to calibrate by", "")
    p = float(ks_2samp(kept, e.scores).pvalue)
    values = e.challenger.calibration.p_values(e.scores)
    inside = bool(np.isfinite(values).all() and (values > 0).all() and (values <= 1).all())
    told = f"Kolmogorov-Smirnov p = {p:.3g}" + ("" if inside else "; p-values outside (0, 1]")
    return Verdict("calibration", p >= ALPHA and inside, told, f"p at least {ALPHA:g}")


# In this order; what cannot be computed after a failure is not asked for.
CHECKS: tuple[Callable[[Evidence], Verdict], ...] = (
    loads, held_out, finite, same_scores, columns, linear_start, bound, planted, calibration,
)  # fmt: skip
FATAL = (loads, held_out, finite)


def judge(found: Evidence) -> list[Verdict]:
    """All verdicts, up to a failure after which nothing else can be told."""
    verdicts = []
    for check in CHECKS:
        verdicts.append(check(found))
        if verdicts[-1].passed is False and check in FATAL:
            break
    return verdicts


def decide(challenger: ModelVersion, champion: ModelVersion | None, data: Any) -> dict[str, Any]:
    """May the challenger become champion, by records of this dataset; the verdicts as plain values."""
    verdicts = judge(evidence.gather_evidence(challenger, champion, data))
    failed = [v.check for v in verdicts if v.passed is False]
    return {
        "name": challenger.name,
        "version": challenger.version,
        "champion": champion.version if champion else None,
        "dataset": data.name,
        "passed": not failed,
        "failed": failed,
        "checks": [asdict(v) for v in verdicts],
    }


def promote(
    name: str, version: str | None = None, *, data: str | Any | None = None, force: bool = False
) -> dict[str, Any]:
    """Make a version (default: the challenger) champion if the checks pass; Refused otherwise, and the
    champion stays.

    `data` is a path or a Dataset to judge by; default: the one that the version was trained on, if it still
    lies where it was. `force` asks no question.
    """
    address = f"models:/{name}/{version}" if version else f"models:/{name}@{registry.CHALLENGER}"
    number = registry.number_of(address)
    current = registry.champion(name)
    if current is not None and current.version == number:
        return {**registry.promote(name, number), "decision": None}
    if force:
        return {**registry.promote(name, number), "decision": None}
    try:
        challenger = registry.resolve(f"models:/{name}/{number}")
    except RegistryUnavailable:
        raise
    except InputError as damaged:  # other bytes than were registered: it does not even load
        decision = _unloadable(name, number, current, damaged)
    else:
        decision = decide(challenger, current, _data(challenger, data))
    registry.log_decision(name, number, decision)
    if not decision["passed"]:
        kept = f"Version {current.version} stays champion" if current else "There is no champion yet"
        raise Refused(
            f"version {number} of {name} is not promoted: {failures(decision)}. {kept}. "
            f"The whole table: elborank models checks {name} --version {number}"
        )
    return {**registry.promote(name, number), "decision": decision}


def failures(decision: Mapping[str, Any]) -> str:
    """Each check that failed, with what it found.

    >>> failures({"checks": [{"check": "finite", "passed": False, "found": "3 are not"},
    ...                      {"check": "loads", "passed": True, "found": "yes"},
    ...                      {"check": "calibration", "passed": False, "found": "p = 1e-9"}]})
    'finite (3 are not), calibration (p = 1e-9)'
    """
    return ", ".join(f"{c['check']} ({c['found']})" for c in decision["checks"] if c["passed"] is False)


def _unloadable(name: str, number: str, current: ModelVersion | None, problem: InputError) -> dict[str, Any]:
    verdict = loads(Evidence(problem=str(problem)))
    return {
        "name": name,
        "version": number,
        "champion": current.version if current else None,
        "dataset": None,
        "passed": False,
        "failed": [verdict.check],
        "checks": [asdict(verdict)],
    }


def _data(challenger: ModelVersion, data: str | Any | None) -> Any:
    if data is not None and not isinstance(data, str):
        return data
    from flows import steps

    if data is not None:
        return steps.ingest(data, **steps.as_the_model_reads(challenger))
    folder = challenger.tags.get("dataset_folder", "")
    if not folder or not sources.is_dataset(folder):
        raise InputError(
            f"the data that version {challenger.version} was trained on is not here any more",
            fix="Give --data PATH: records like those to be scored; or --force",
        )
    return sources.open_dataset(folder)
