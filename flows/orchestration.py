"""What our flows share with Prefect: settings, retries, progress in the log, and artifacts safe to show.

Tasks are stages, not records (each costs tens of milliseconds), and results are neither persisted nor
pickled: completeness and resumption live in our own files.
"""

from __future__ import annotations

import html
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import ParameterTypeError

from flows import prefect_server
from flows.registry import RegistryUnavailable
from flows.terminal.text import counted, which_elbo
from vae_core.errors import InputError, Refused, one_line

__all__ = [
    "log_training", "log_units", "network_stage", "publish_report", "publish_training", "run", "stage",
    "tell_failure", "warn",
]  # fmt: skip

NETWORK_ERRORS = (RegistryUnavailable, ConnectionError, TimeoutError)


def stage(function: Callable[..., Any]) -> Any:
    """A verb of `flows.steps` as a task that runs here and now and is never cached."""
    return task(
        function, name=function.__name__.replace("_", "-"), cache_policy=NO_CACHE, persist_result=False
    )


def network_stage(function: Callable[..., Any]) -> Any:
    """The same for a verb that may touch the network: tried again, unless the mistake is the user's."""
    return stage(function).with_options(
        retries=3, retry_delay_seconds=[2, 10, 30], retry_condition_fn=_is_network_error
    )


def _is_network_error(_task: Any, _run: Any, state: Any) -> bool:
    return isinstance(state.result(raise_on_failure=False), NETWORK_ERRORS)


class _NoTracebackForUserErrors(logging.Filter):
    """A mistake in the input is one line in the log; only our own faults deserve a traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], InputError | Refused):
            record.exc_info = record.exc_text = None
        return True


for _name in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(_name).addFilter(_NoTracebackForUserErrors())


def run(flow: Any, *arguments: Any, **options: Any) -> Any:
    """Call a flow; parameters that it refuses, and a server that is not there, are the user's to mend."""
    try:
        with prefect_server.asked():
            return flow(*arguments, **options)
    except ParameterTypeError as error:
        problem = " ".join(str(error).split())
        raise InputError(problem.removeprefix("Flow run received invalid parameters: - ")) from error


def log_training() -> Callable[[Any], None]:
    """A callback for training that writes the curve to the run's log."""
    logger = get_run_logger()

    def write(state: Any) -> None:
        logger.info("step %d of %d: held-out ELBO %.3f nats", state.step, state.steps, state.heldout_elbo)

    return write


def log_units() -> Callable[[int, int], None]:
    """A callback for scoring that writes about ten lines, however many units there are."""
    logger = get_run_logger()

    def write(done: int, total: int) -> None:
        if done == total or done * 10 // total > (done - 1) * 10 // total:
            logger.info("%d of %d units scored", done, total)

    return write


def warn() -> Callable[[str], None]:
    """A callback that writes a warning into the run's log."""
    return get_run_logger().warning


def tell_failure(flow: Any, flow_run: Any, state: Any) -> None:
    """A run that failed or crashed, told to whom its parameters name.

    The engine gives these three in their order; a worker whose run's process died gives them by these names.
    """
    from flows import notifications
    from flows.dataset_file import Notify

    given = flow_run.parameters.get("notify")
    if not given:
        return
    notify = given if isinstance(given, Notify) else Notify.model_validate(given)
    if "failed" not in notify.on:
        return
    message = {
        "event": "failed",
        "flow_run": flow_run.name,
        "flow_run_id": str(flow_run.id),
        "state": state.name,
        "message": one_line(str(state.message or ""))[:2000],
        "dataset": flow_run.parameters.get("dataset") or flow_run.parameters.get("name"),
        "scheduled_for": flow_run.expected_start_time.isoformat() if flow_run.expected_start_time else None,
    }
    notifications.send(notify, message, warn=logging.getLogger(__name__).warning)


def publish_report(result: Mapping[str, Any]) -> None:
    """On the run's page: the top of the ranking as a table, the counts, and where the report lies."""
    key = artifact_key("ranking", result["dataset"])
    rows = [
        {
            "rank": row["rank"],
            "record": _text(row["record_id"]),
            "score": round(row["anomaly_score"], 3),
            "why": _text(row["why"] or ""),
        }
        for row in result["top"]
    ]
    create_table_artifact(key=key, table=rows, description="The least likely records")
    if result.get("drift"):
        drift = result["drift"]
        told = [
            {
                "column": _text(row["column"]),
                "verdict": row["verdict"],
                "effect": round(row["effect"], 3),
                "change": _text(row["change"]),
            }
            for row in drift["moved"]
        ]
        create_table_artifact(
            key=artifact_key("drift", result["dataset"]),
            table=told,
            description=f"Drift since training: {drift['verdict']}; what has moved, furthest first",
        )
    create_link_artifact(
        key=artifact_key("report", result["dataset"]),
        link=_address(result.get("page") or result["folder"]),
        link_text="The report",
    )
    create_markdown_artifact(
        key=artifact_key("summary", result["dataset"]),
        markdown=(
            f"**{markdown(result['dataset'])}**: {counted(result['ranked'], 'record')} ranked, "
            f"{result['flagged']:,} flagged, {result['quarantined']:,} in quarantine, by "
            f"{markdown(result['model'])} version {markdown(result['model_version'])}"
        ),
    )


def publish_training(result: Mapping[str, Any]) -> None:
    """What a training gave, on the run's page."""
    left_out = "".join(
        f"\n- left out: {markdown(c)} ({markdown(why)})" for c, why in result["left_out"].items()
    )
    if result.get("confirmed_left_out"):
        left_out += f"\n- left out: {counted(result['confirmed_left_out'], 'record')} confirmed as anomalies"
    create_markdown_artifact(
        key=artifact_key("model", result["name"]),
        markdown=(
            f"**{markdown(result['name'])}** version {result['version']}: {which_elbo(result)} "
            f"{result['heldout_elbo']} nats, linear start {result['linear_start_elbo']}{left_out}"
        ),
    )


def artifact_key(what: str, name: str) -> str:
    """Prefect allows lower-case letters, digits and dashes.

    >>> artifact_key("ranking", "NYC_weather 🌦")
    'ranking-nyc-weather'
    """
    return "-".join([what, *re.findall(r"[a-z0-9]+", name.lower())])


def markdown(text: object) -> str:
    """A user's text inside Markdown: shown as it is, nothing obeyed.

    >>> markdown("<b>*x*</b> [a](javascript:b)")
    '&lt;b&gt;\\\\*x\\\\*&lt;/b&gt; \\\\[a\\\\]\\\\(javascript:b\\\\)'
    """
    return re.sub(r"([\\\\`*_{}\[\]()#+!|~-])", r"\\\1", html.escape(one_line(str(text)), quote=False))


def _address(place: str) -> str:
    """A path of this machine as an address; an address as it is.

    >>> _address("s3://reports/weather/report.html"), _address("/srv/a b.html")
    ('s3://reports/weather/report.html', 'file:///srv/a%20b.html')
    """
    return place if "://" in place else Path(place).absolute().as_uri()


def _text(value: object) -> str:
    """Text in a table's cell: one line; Prefect's page shows it without reading it."""
    return one_line(str(value))
