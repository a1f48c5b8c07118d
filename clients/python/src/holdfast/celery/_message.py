"""A message of kombu as a job, and back.

The job's payload is the message as kombu hands it to a transport: ``body``, ``content-type``, ``content-encoding``, ``headers`` and
``properties``. The body is text where the serializer makes text (JSON, YAML), and base64 elsewhere; ``properties.body_encoding`` says
which. What the server needs to know is repeated beside it:

==============  =======================================================================================================================
``queue``       the Celery queue (:func:`holdfast.celery.queue_name`)
``run_at``      ``headers.eta``: the server holds the task, so that no worker hoards it
``expires_at``  ``headers.expires``, of tasks whose result no producer waits for. Others must reach a worker, which marks them as revoked
``priority``    0 to 2 ``high``, 3 to 5 ``normal``, 6 to 9 ``low``: 0 comes first, as with Celery on Redis
==============  =======================================================================================================================

The Idempotency-Key is the message's delivery tag, which is made once for each publish and kept over every repeat of it: that of this
transport, and those of kombu's retry policies, which publish the same properties again. A retry of a task is a publish of its own under
the same task id, and so is a task that is sent twice on purpose: both have keys of their own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from .._calls import Call, PulledJob, _accepted
from ..models import Accepted
from ._lost import LOSSES
from ._names import queue_name

#: The kind of every Celery task.
KIND = "celery"

#: Longest attempt and largest number of attempts that a server allows. Celery's own limits are stricter, and its own retries are
#: jobs of their own.
KIND_DEFINITION: Mapping[str, Any] = {
    "queue": KIND,
    "timeout_seconds": 86_400,
    "retry": {"max_attempts": 100},
    "description": "A task of Celery: a message of kombu, for workers of Celery (holdfast.celery).",
}

#: Keeps the publish of a chord's callback from happening twice: a part of the Idempotency-Key, in a message's properties.
ONCE = "holdfast_once"

Message = dict[str, Any]


def enqueue(queue: str, message: Message, *, expires: bool = True) -> Call[Accepted]:
    """Enqueues the message. ``expires`` False: for a server that does not know ``expires_at``; then a worker drops what has expired."""
    headers: Mapping[str, Any] = message.get("headers") or {}
    properties: Mapping[str, Any] = message["properties"]
    job: dict[str, Any] = {"kind": KIND, "queue": queue_name(queue), "payload": message, "priority": priority(properties)}
    eta = moment(headers.get("eta"))
    if eta is not None:
        job["run_at"] = eta
    if expires and headers.get("ignore_result") is True and not headers.get("group"):
        expires_at = moment(headers.get("expires"))
        if expires_at is not None:
            job["expires_at"] = expires_at
    key = {"Idempotency-Key": f"celery/{properties['delivery_tag']}/{queue_name(queue)}"[:200]}
    return Call("POST", "/v1/jobs", _accepted, json.dumps(job, separators=(",", ":"), allow_nan=False), key)


def priority(properties: Mapping[str, Any]) -> str:
    """The server's priority for Celery's."""
    try:
        number = int(properties.get("priority") or 0)
    except (TypeError, ValueError):
        number = 0
    return "high" if number < 3 else "normal" if number < 6 else "low"


def moment(text: Any) -> str | None:
    """A time of a header for the API, in UTC. None if there is none, or none that the worker would not read better."""
    if not isinstance(text, str):
        return None
    try:
        when = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    if when.tzinfo is None:
        zone = _application_zone()
        if zone is None:
            return None
        when = when.replace(tzinfo=zone)
    return when.astimezone(timezone.utc).isoformat()


def _application_zone() -> Any:
    """The time zone of naive times: that of the current application."""
    from celery import current_app

    return getattr(current_app, "timezone", None)


def message_of(job: PulledJob, redelivered: bool) -> Message | None:
    """The message of a pulled job, under the delivery tag of this lease. None if the job is no message."""
    payload = job.payload
    if not isinstance(payload, dict) or "body" not in payload or not isinstance(payload.get("properties"), dict):
        return None
    properties = payload["properties"]
    properties["delivery_tag"] = f"{job.id}.{job.fence}"
    info = properties.setdefault("delivery_info", {})
    # Those of a message that was published from a received one are not its own.
    info[LOSSES] = job.attempt - 1
    if redelivered:
        info["redelivered"] = True
        headers = payload.get("headers")
        if isinstance(headers, dict):
            headers["redelivered"] = True
    return payload
