"""What the command line shows: results on standard output as tables or JSON, the rest on standard error.

Text that comes from the user's files is data: control characters become visible and markup is not obeyed.
"""

from flows.terminal.card import model_card
from flows.terminal.operations import backfilled, decision, deployments
from flows.terminal.progress import scoring, spinner, training
from flows.terminal.reports import diff, drift, judged, judgement, listed
from flows.terminal.text import csv_cell, examples, fail, flow_help, is_formula, print_csv, print_yaml, show
from flows.terminal.views import (
    dataset,
    deployed,
    drawn,
    explained,
    generated,
    models,
    promoted,
    ranking,
    scored,
    trained,
)

__all__ = [
    "backfilled",
    "csv_cell",
    "dataset",
    "decision",
    "deployed",
    "deployments",
    "diff",
    "drawn",
    "drift",
    "examples",
    "explained",
    "fail",
    "flow_help",
    "generated",
    "is_formula",
    "judged",
    "judgement",
    "listed",
    "model_card",
    "models",
    "print_csv",
    "print_yaml",
    "promoted",
    "ranking",
    "scored",
    "scoring",
    "show",
    "spinner",
    "trained",
    "training",
]
