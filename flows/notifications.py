"""Telling somebody: one JSON document by HTTP POST when records are flagged, drift fails or a run fails.

A message that cannot be delivered never changes what a run does: it is tried three times, then logged.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flows.dataset_file import Notify
from vae_core import stores
from vae_core.errors import InputError, one_line

__all__ = ["check_address", "occasions", "send", "tell", "tell_promotion"]

TRIES = 3
TIMEOUT = 10  # seconds for one try
TOLD = 10  # of the records: those that rank first


def occasions(result: Mapping[str, Any]) -> list[str]:
    """What a scoring run gives occasion to tell: records that were flagged, drift that failed.

    >>> occasions({"published": True, "flagged": 3}), occasions({"published": False, "flagged": 3})
    (['flagged'], [])
    """
    if not result.get("published"):
        return []  # a repeated run tells nothing twice
    drift = result.get("drift")
    failed = isinstance(drift, Mapping) and drift.get("failed")
    return [*(["flagged"] if result.get("flagged") else []), *(["drift"] if failed else [])]


def tell(
    notify: Notify | Mapping[str, Any] | None,
    result: Mapping[str, Any],
    *,
    warn: Callable[[str], None],
) -> list[str]:
    """Send a message for each occasion of a scoring run that was asked for; those that were delivered."""
    if notify is None:
        return []
    told = notify if isinstance(notify, Notify) else Notify.model_validate(notify)
    wanted = [occasion for occasion in occasions(result) if occasion in told.on]
    names = ("dataset", "as_of", "folder", "model", "model_version", "ranked", "flagged", "quarantined")
    facts = {name: result.get(name) for name in names}
    facts["top"] = [
        {name: row.get(name) for name in ("rank", "record_id", "anomaly_score", "why")}
        for row in result.get("top", [])[:TOLD]
    ]
    if result.get("drift"):
        facts["drift"] = {name: result["drift"].get(name) for name in ("verdict", "strong", "moderate")}
    return [o for o in wanted if send(told, {"event": o, **facts}, warn=warn)]


def tell_promotion(notify: Notify | None, result: Mapping[str, Any], *, warn: Callable[[str], None]) -> bool:
    """A version that was trained on schedule and refused: told to who hears of failures."""
    refused = result["promotion"]["refused"]
    if notify is None or refused is None or "failed" not in notify.on:
        return False
    message = {
        "event": "refused",
        "model": result["name"],
        "model_version": result["version"],
        "message": refused,
    }
    return send(notify, message, warn=warn)


def send(notify: Notify, message: Mapping[str, Any], *, warn: Callable[[str], None]) -> bool:
    """POST a JSON document; False, with a warning, where it could not be delivered."""
    try:
        address = _address(notify)
        body = json.dumps(message, default=str, allow_nan=False).encode()
    except (InputError, ValueError) as error:
        warn(f"notification not sent: {one_line(str(error))}")
        return False
    request = urllib.request.Request(
        address, data=body, method="POST", headers={"Content-Type": "application/json"}
    )
    reason = ""
    for attempt in range(TRIES):
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT):  # refuses what is not 2xx
                return True
        except (urllib.error.URLError, OSError, ValueError) as error:
            reason = one_line(str(error))
            if isinstance(error, urllib.error.HTTPError) and 400 <= error.code < 500:
                break  # the same message would be refused again
            if attempt + 1 < TRIES:
                time.sleep(2**attempt)
    warn(f"notification not delivered to {urlsplit(address).hostname}: {reason}")
    return False


def _address(notify: Notify) -> str:
    """Where to send; of a secret address only the file's name is ever shown."""
    if notify.webhook is not None:
        address = notify.webhook
    else:
        file = Path(str(notify.webhook_file))
        try:
            address = file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}", file=file) from error
    check_address(address)
    return address


def check_address(address: str) -> None:
    """Raises InputError where nothing can be posted to; the address may be a secret and is not shown."""
    if not stores.is_http(address):
        raise InputError("the webhook is no http address", fix="Write https://HOST/PATH")
