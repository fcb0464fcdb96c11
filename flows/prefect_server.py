"""What is asked of a Prefect server: work pools, deployments, the automations that end zombies."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from flows.intervals import EPOCH, Schedule, every_of
from vae_core.errors import InputError, one_line

if TYPE_CHECKING:
    from flows.deployments import Deployment

TAG = "elborank"  # of every deployment that is ours
ZOMBIES = "elborank: runs whose heartbeat stopped have crashed"
SILENCE = timedelta(seconds=90)  # three missed heartbeats
STILLBORN = "elborank: runs that were taken up and never began have crashed"
START = timedelta(minutes=10)  # a large image takes minutes to be fetched
STARTS = ("Pending", "Submitting", "InfrastructurePending")
ENDS = ("Completed", "Failed", "Cancelled", "Crashed")
UNREACHED = "Failed to reach API"  # how Prefect's RuntimeError begins when it starts a run


@contextmanager
def asked() -> Iterator[None]:
    """A server that cannot be reached, or that refuses, is one line for whoever typed the command."""
    import httpx

    try:
        yield
    except httpx.HTTPStatusError as error:
        code = error.response.status_code
        if code in (401, 403):
            raise InputError(
                f"the Prefect server at {_address()} does not know this password",
                fix="Set PREFECT_API_AUTH_STRING to USER:PASSWORD as the server has it",
            ) from error
        reason = one_line(error.response.text)[:200]
        raise InputError(f"the Prefect server at {_address()} answered {code}: {reason}") from error
    except httpx.TransportError as error:
        raise _unreached(error) from error
    except RuntimeError as error:
        if not str(error).startswith(UNREACHED):
            raise
        raise _unreached(error.__cause__ or error) from error


def _unreached(error: BaseException) -> InputError:
    reason = one_line(str(error)) or type(error).__name__
    return InputError(
        f"the Prefect server at {_address()} cannot be reached: {reason}",
        fix="Start it, or correct PREFECT_API_URL; without PREFECT_API_URL typed commands need no server",
    )


def _address() -> str:
    """As configured, without a user and a password in it."""
    return re.sub(r"://[^/@\s]+@", "://", one_line(os.environ.get("PREFECT_API_URL", "PREFECT_API_URL")))


def schedule(when: Schedule) -> Any:
    """A schedule as Prefect has it; intervals are counted from 1970-01-01 UTC, not from the deployment."""
    from prefect.schedules import Cron, Interval

    if when.every is not None:
        return Interval(every_of(when.every), anchor_date=EPOCH + when.lateness, timezone="UTC")
    return Cron(str(when.cron), timezone=when.timezone)


def make_pool(name: str, kind: str) -> None:
    """The work pool, with the job template of its kind; one that is there keeps its settings."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

    with get_client(sync_client=True) as client:
        with suppress(ObjectAlreadyExists):
            client.create_work_pool(WorkPoolCreate(name=name, type=kind, base_job_template=template(kind)))
        try:
            found = client.read_work_pool(name)
        except ObjectNotFound as error:
            raise InputError(f'there is no work pool "{one_line(name)}"') from error
    if found.type != kind:
        raise InputError(
            f'the work pool "{one_line(name)}" is of type {found.type}, not {kind}',
            fix="Name another pool in [deploy], or give that type",
        )


def template(kind: str) -> dict[str, Any]:
    """The job template of a kind of pool: what a deployment may set, and what is done with it."""
    return {"process": _process_template, "docker": _docker_template}[kind]()


def _process_template() -> dict[str, Any]:
    from prefect.workers.process import ProcessWorker

    return ProcessWorker.get_default_base_job_template()


def _docker_template() -> dict[str, Any]:
    """That of prefect-docker, written out: only the worker needs to have it, not who deploys."""
    variables: dict[str, Any] = {
        "image": {"type": "string", "description": "The image that runs the flow, with elborank in it."},
        "env": {"type": "object", "additionalProperties": {"type": "string"}, "default": {}},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}, "default": {}},
        "name": {"type": "string"},
        "command": {"type": "string"},
        "image_pull_policy": {
            "type": "string",
            "enum": ["IfNotPresent", "Always", "Never"],
            "default": "IfNotPresent",
        },
        "networks": {"type": "array", "items": {"type": "string"}, "default": []},
        "volumes": {"type": "array", "items": {"type": "string"}, "default": []},
        "mem_limit": {"type": "string", "description": "Such as 4g."},
        "auto_remove": {"type": "boolean", "default": True},
        "stream_output": {"type": "boolean", "default": True},
        "privileged": {"type": "boolean", "default": False},
    }
    configuration = {name: f"{{{{ {name} }}}}" for name in variables}
    return {
        "job_configuration": configuration,
        "variables": {"type": "object", "required": ["image"], "properties": variables},
    }


def apply(made: Deployment, pool: str) -> str:
    """Create or update one deployment; its id. Runs wait for each other, none is cancelled."""
    import importlib

    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.deployments.runner import DeploymentApplyError, RunnerDeployment
    from prefect.types.entrypoint import EntrypointType

    flow = getattr(importlib.import_module(f"flows.{made.flow}"), f"{made.flow}_flow")
    deployment = RunnerDeployment.from_flow(
        flow,
        name=made.name,
        schedules=[schedule(made.schedule)] if made.schedule else [],
        parameters=made.parameters,
        tags=[TAG],
        concurrency_limit=ConcurrencyLimitConfig(
            limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE
        ),
        work_pool_name=pool,
        job_variables=made.job_variables,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    try:
        return str(deployment.apply())
    except DeploymentApplyError as error:
        raise InputError(
            f"the server refused the deployment {made.flow}/{made.name}: {one_line(str(error))}"
        ) from error


def there(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Those of these deployments (FLOW/NAME) that the server has and elborank made, with their parameters."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    found = {}
    with get_client(sync_client=True) as client:
        for name in names:
            with suppress(ObjectNotFound):
                held = client.read_deployment_by_name(name)
                if TAG in held.tags:
                    found[name] = dict(held.parameters)
    return found


def make_zombie_automations() -> dict[str, str]:
    """A run that was killed with its worker stays as it was for ever: these make it Crashed; their ids."""
    running, starting = zombie_triggers()
    silent = "No heartbeat: its process is gone. Run it again."
    vain = "Nothing has begun it: its worker or process is gone. Run it again."
    return {
        "zombies": _automation(ZOMBIES, running, silent),
        "stillborn": _automation(STILLBORN, starting, vain),
    }


def zombie_triggers() -> tuple[Any, Any]:
    """When a run that began, and one that was to begin, is taken for dead.

    Each event that begins a wait begins it anew: a heartbeat, or the next step of starting. A run that waits
    for its turn is Scheduled, Late or AwaitingConcurrencySlot, which begin none.
    """
    return (
        _trigger(after={"heartbeat"}, expect={"heartbeat", *ENDS}, within=SILENCE),
        _trigger(after=STARTS, expect={"*"}, within=START),  # whatever follows is a sign of life
    )


def _trigger(*, after: Iterable[str], expect: Iterable[str], within: timedelta) -> Any:
    """After one of these events of a run of ours none of those within the time."""
    from prefect.events.schemas.automations import EventTrigger, Posture
    from prefect.events.schemas.events import ResourceSpecification

    return EventTrigger(
        after={f"prefect.flow-run.{event}" for event in after},
        expect={f"prefect.flow-run.{event}" for event in expect},
        match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
        match_related=ResourceSpecification({"prefect.resource.id": [f"prefect.tag.{TAG}"]}),
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=within,
    )


def _automation(name: str, trigger: Any, message: str) -> str:
    """The automation of this name; one that is there gets the trigger, and keeps its actions and switch."""
    from prefect.automations import Automation
    from prefect.events.actions import ChangeFlowRunState
    from prefect.states import StateType

    try:
        found = Automation.read(name=name)
    except ValueError:
        does = ChangeFlowRunState(state=StateType.CRASHED, message=message)
        return str(Automation(name=name, trigger=trigger, actions=[does]).create().id)
    if found.trigger.model_dump(exclude={"id"}) != trigger.model_dump(exclude={"id"}):
        found.trigger = trigger
        found.update()
    return str(found.id)
