"""What each command prints of its result."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console

from flows.terminal.operations import decision
from flows.terminal.reports import drift_line, mark, similar
from flows.terminal.text import bar, blank, counted, new_table, number, safe, to_paste, which_elbo


def dataset(console: Console, result: Mapping[str, Any]) -> None:
    console.print(
        f"[bold]{safe(result['name'])}[/bold]: {counted(result['rows'], 'record')}, "
        f"{result['quarantined']:,} in quarantine, {result['outside']:,} outside the interval"
    )
    table = new_table("column", "type")
    for name, kind in result["columns"].items():
        table.add_row(safe(name), safe(kind))
    console.print(table)
    _warnings(console, result)
    _quarantine(console, result)
    console.print(f"Dataset: {safe(result['folder'])}", soft_wrap=True)


def trained(console: Console, result: Mapping[str, Any]) -> None:
    if result["reused"]:
        console.print("Nothing to do: the same data and settings were trained before.")
    aliases = ", ".join(result["aliases"])
    console.print(
        f"[bold]{safe(result['name'])}[/bold] version {result['version']}"
        + (f" ({aliases})" if aliases else "")
        + f": {which_elbo(result)} {number(result['heldout_elbo'])} nats on average"
        + _beside(result)
    )
    if result["better_than_linear_start"] is False:
        console.print(
            "[bold yellow]The VAE is not better than its own linear start: little is gained over pPCA.[/]"
        )
    for name, reason in result["left_out"].items():
        console.print(f'Left out: column "{safe(name)}" ({safe(reason)})')
    if count := result.get("confirmed_left_out"):
        console.print(
            f"Left out: {counted(count, 'record')} confirmed as anomalies (--keep-anomalies trains on them)"
        )
    _warnings(console, result)
    _quarantine(console, result)
    console.print(f"Model: models:/{result['name']}/{result['version']}", soft_wrap=True)


def _beside(result: Mapping[str, Any]) -> str:
    """What the held-out ELBO is compared with: the linear start, or for images probabilistic PCA."""
    for name, label in (("linear_start_elbo", "linear start"), ("ppca", "probabilistic PCA's log P(x)")):
        if result.get(name) is not None:
            return f", {label} {number(result[name])}"
    return ""


def scored(console: Console, result: Mapping[str, Any]) -> None:
    if not result["published"]:
        console.print("Nothing to do: this report is published already.")
    console.print(
        f"{counted(result['ranked'], 'record')} ranked, {result['flagged']:,} flagged, "
        f"{result['quarantined']:,} in quarantine, by {safe(result['model'])} "
        f"version {safe(result['model_version'])}"
    )
    _records(console, result["top"])
    _unsure(console, result)
    drift_line(console, result)
    _warnings(console, result)
    _quarantine(console, result)
    console.print(f"Report: {safe(result['folder'])}", soft_wrap=True)
    if result.get("page"):
        console.print(f"Open it: {safe(result['page'])}", soft_wrap=True)
    if result["top"]:
        command = to_paste("explain", result["folder"], result["top"][0]["record_id"])
        console.print(f"The first one's reasons: {safe(command)}", soft_wrap=True)


def drawn(console: Console, result: Mapping[str, Any]) -> None:
    console.print(f"Page: {safe(result['page'])}", soft_wrap=True)
    if result["since"]:
        console.print(f"It also tells what is new since {safe(result['since'])}", soft_wrap=True)


def ranking(console: Console, result: Mapping[str, Any]) -> None:
    _records(console, result["records"])
    ranked = counted(result["ranked"], "record")
    console.print(f"{len(result['records']):,} of {ranked}, {result['flagged']:,} flagged (*)")
    _unsure(console, result)
    _warnings(console, result)


def _unsure(console: Console, result: Mapping[str, Any]) -> None:
    """How many flags hang on the draws."""
    from vae_core.page.wording import unsure_flags  # not for every command

    if said := unsure_flags(result):
        console.print(said)


def _records(console: Console, records: Iterable[Mapping[str, Any]]) -> None:
    table = new_table("rank", "record", "score", "why")
    for record in records:
        flag = "[bold red]*[/]" if record.get("flagged") else ""
        table.add_row(
            f"{record['rank']}{flag}", safe(record["record_id"]), number(record["anomaly_score"]),
            mark(record) + safe(record["why"] or ""),
        )  # fmt: skip
    console.print(table)


def explained(console: Console, result: Mapping[str, Any]) -> None:
    flagged = "flagged" if result["flagged"] else "not flagged"
    console.print(
        f"[bold]{safe(result['record_id'])}[/bold]: rank {result['rank']:,} of {result['ranked']:,}, "
        f"score {number(result['anomaly_score'])}{'' if result.get('part') else ' nats'}, "
        f"{_p_value(result)}, {flagged}"
    )
    if result["why"]:
        from vae_core.feedback import LONGEST_NOTE  # not for every command

        console.print(mark(result, LONGEST_NOTE) + safe(result["why"]))
    if result.get("map"):
        console.print(f"Image, expected image, map: {safe(result['map'])}", soft_wrap=True)
    if result["reasons"]:
        _reasons(console, result)
    else:
        console.print("No reasons are kept for a record this far down the ranking.")
    whole = "" if result["bound"] == result["elbo"] else f"bound {number(result['bound'])}; the VAE's "
    reconstruction, kl = number(result["reconstruction"]), number(result["kl"])
    console.print(
        f"In nats: {whole}elbo {number(result['elbo'])} = reconstruction {reconstruction} - KL {kl}"
    )
    if result.get("part"):
        console.print(
            f"Ranked by its {safe(result['part'])}; excess {number(result['elbo_excess'])} nats, "
            f"PNG code {number(result['complexity_bits'])} bits"
        )
    if "similar" in result:
        similar(console, result)


def _p_value(result: Mapping[str, Any]) -> str:
    """A record's p-value, or why it has none: of records that a model knows no p-value would be true.

    >>> _p_value({"p_value": 0.25}), _p_value({"p_value": None, "with_p_value": 9})
    ('p-value 0.25', 'no p-value (trained on)')
    """
    if result["p_value"] is not None:
        return f"p-value {number(result['p_value'])}"
    if result.get("with_p_value"):  # the model has them for others
        return "no p-value (trained on)"
    return "no p-value (trained on, or nothing held out to compare with)"


def _reasons(console: Console, result: Mapping[str, Any]) -> None:
    """The columns that made a record unlikely, and what the words in the table mean."""
    from vae_core.page.wording import CHARGE

    surprises = [reason["typical"] - reason["nats"] for reason in result["reasons"]]
    table = new_table("column", "value", "expected", "usually", "nats", "typical", "surprise")
    for reason, surprise in zip(result["reasons"], surprises, strict=True):
        usual = " to ".join(str(reason[k]) for k in ("low", "high") if reason.get(k) is not None)
        table.add_row(
            safe(reason["feature"]), safe(blank(reason["value"])), safe(blank(reason["expected"])),
            safe(usual), number(reason["nats"]), number(reason["typical"]), bar(surprise, max(surprises)),
        )  # fmt: skip
    for name, nats in _rest(result):
        table.add_row(name, "", "", "", number(nats), "", "")
    console.print(table)
    console.print(
        "Usually: where 80 % of normal values would lie. Surprise, which the sentence tells: by how many "
        "nats (units of log-probability) the value is less likely than is typical. The rest: what is not in "
        "the table." + (f" The charge: {CHARGE[0].lower()}{CHARGE[1:]}" if result.get("tilt_nats") else "")
    )


def _rest(result: Mapping[str, Any]) -> list[tuple[str, float]]:
    """What the reasons leave of the bound, and the bound: the column of nats adds up to it.

    >>> _rest({"rest_nats": -10.0, "tilt_nats": -8.0, "bound": -12.0})
    [('the rest', -2.0), ('the charge', -8.0), ('the bound', -12.0)]
    >>> _rest({"rest_nats": -10.0, "bound": -12.0})  # of before there was a column for the charge
    [('the rest', -10.0), ('the bound', -12.0)]
    """
    rest, tilt = result["rest_nats"], result.get("tilt_nats")
    charged = [("the charge", tilt)] if tilt else []
    return [("the rest", rest - (tilt or 0.0)), *charged, ("the bound", result["bound"])]


def generated(console: Console, result: Mapping[str, Any]) -> None:
    if result.get("like"):
        console.print(
            f"What is expected in place of {safe(result['like'])}: {safe(result['output'])}", soft_wrap=True
        )
        return
    console.print(f"{counted(result['n'], 'record')} in {safe(result['output'])}", soft_wrap=True)
    if result.get("contact_sheet"):
        console.print(f"Contact sheet: {safe(result['contact_sheet'])}", soft_wrap=True)
    if left := result.get("not_generated"):
        console.print(f"Not generated, since the model leaves them out: {safe(', '.join(left))}")
    if rarer := result.get("rarer"):
        shares = [f"{safe(name)} ({100 * share:.3g} % of training's values)" for name, share in rarer.items()]
        console.print(f"Rarer categories than the model knows are not generated: {', '.join(shares)}")
    if changed := result.get("guarded"):
        console.print(
            f"[yellow]Note:[/] what a spreadsheet would take for a formula begins with an apostrophe in this "
            f"CSV file, in {safe(', '.join(changed))}; a .parquet file has it as it is, to be scored again."
        )
    if realism := result.get("realism"):
        _realism(console, realism)
    if not result["distances"]:
        return
    console.print("Distance of each column to the training data (0 = the same distribution, 1 = apart):")
    table = new_table("column", "measure", "VAE", "pPCA")
    for row in result["distances"]:
        table.add_row(safe(row["column"]), row["measure"], number(row["vae"]), number(row["ppca"]))
    console.print(table)


def _realism(console: Console, found: Mapping[str, float | None]) -> None:
    """How well a classifier tells the generated records from real ones, beside those of other models."""
    if found["vae"] is None or math.isnan(found["vae"]):
        console.print("Whether a classifier tells them from the data takes 30 records of each: not measured.")
        return
    console.print(
        "A classifier tells them from the data with an AUROC of "
        f"{number(found['vae'])} (0.5 is best); pPCA's samples with {number(found['ppca'])}"
        + (f", a TVAE's with {number(found['tvae'])}." if found.get("tvae") else ".")
    )
    if "tvae" in found and found["tvae"] is None:
        console.print("No TVAE beside them: it takes 100 records without a missing cell, and no vectors.")


def models(console: Console, result: Mapping[str, Any]) -> None:
    if not result["models"]:
        console.print(f"No models yet in {safe(result['registry'])}: elborank train PATH --name NAME")
        return
    table = new_table("model", "version", "aliases", "held-out ELBO", "records", "created")
    for row in result["models"]:
        table.add_row(
            safe(row["name"]), row["version"], ", ".join(row["aliases"]), number(row["heldout_elbo"]),
            "" if row["rows"] is None else f"{row['rows']:,}", row["created"][:10],
        )  # fmt: skip
    console.print(table)


def promoted(console: Console, result: Mapping[str, Any]) -> None:
    name = safe(result["name"])
    if result.get("decision"):
        decision(console, result["decision"])
    if not result["changed"]:
        console.print(f"Nothing to do: version {result['champion']} is the champion of {name} already.")
        return
    before = f"; version {result['previous']} is `previous` now" if result["previous"] else ""
    console.print(f"Version {result['champion']} is the champion of {name}{before}.")


def deployed(console: Console, result: Mapping[str, Any]) -> None:
    console.print(
        f"Serving [bold]{safe(result['deployment'])}[/bold], {safe(result['schedule'])}. Reports go to "
        f"{safe(result['output'])}. Ctrl-C stops.",
        soft_wrap=True,
    )


def _warnings(console: Console, result: Mapping[str, Any]) -> None:
    for warning in result["warnings"]:
        console.print(f"[yellow]Warning:[/] {safe(warning)}")


def _quarantine(console: Console, result: Mapping[str, Any]) -> None:
    for line in result["quarantine"]:
        column = f', column "{safe(line["column"])}"' if line["column"] is not None else ""
        console.print(
            f"In quarantine: {safe(line['file'])}{column}, row {line['row']}: {safe(line['reason'])}"
        )
    if result["quarantined"] > len(result["quarantine"]):
        more = result["quarantined"] - len(result["quarantine"])
        console.print(f"and {more:,} more, all in quarantine.parquet")
