"""A check for schemathesis (openapi.py): a request that the OpenAPI document allows is refused only for what a schema cannot say.

`REFUSALS` names each of these reasons by the type of the problem, with its field where it has one, for the operations that may have it.
A refusal that is not listed is a failure: either the schema is to be mended, or the reason is to be added here.
"""

from __future__ import annotations

import json
import os
from typing import Any

import schemathesis

#: Where to write what was refused, one line for each; for those who change the table below.
RECORD = os.environ.get("REFUSALS_RECORD")

#: Of every operation: the reason, and why no schema can say it.
EVERYWHERE = {
    # What the path or the body names does not exist, or not any more.
    "batch-not-found id", "delivery-not-found id", "endpoint-not-found id", "job-not-found id", "key-not-found id", "kind-not-found name",
    "link-not-found", "mail-template-not-found name", "queue-not-found name", "schedule-not-found name", "source-not-found id",
    "subscription-not-found id", "suppression-not-found address", "track-not-found id", "user-not-found id", "webhook-not-found id",
    "worker-not-found id", "worker-not-found", "signing-key-not-found id", "event-not-found id", "failure-not-found fingerprint",
    # The key of an earlier request, which was another one.
    "idempotency-key-reused Idempotency-Key",
    # A cursor is what the page before said, and an opaque text.
    "invalid-cursor after", "invalid-parameter after", "invalid-cursor before", "invalid-parameter before",
    # The text has U+0000, which SQL cannot store: said once for the API, and not in each schema.
    "U+0000",
    # `4.0` for a whole number, which JSON Schema does not tell from `4`, and typed parsers do.
    "fraction",
}

_JOB = {"unknown-kind kind", "unknown-queue queue", "invalid-payload payload", "invalid-field queue", "invalid-field kind", "invalid-field time_zone", "invalid-field payload"}
_SCHEDULE = _JOB | {"invalid-field cron", "invalid-field jitter_seconds"}
_SOURCE = {"name-taken name", "invalid-field url", "invalid-field time_zone", "invalid-field interval_seconds", "invalid-field mapping", "source-busy id"}
_BULK = {"illegal-transition", "nothing-matched filter", "idempotency-key-reused Idempotency-Key", "invalid-field filter", "unknown-queue filter.queue"}

#: Of single operations. State: a name is taken, a job has ended, a queue is configured. Texts with a grammar: addresses, expressions of
#: cron, time zones, schemas. And what depends on two fields that no keyword relates.
REFUSALS: dict[str, set[str]] = {
    "DELETE /v1/kinds/{name}": {"kind-coded name"},
    "DELETE /v1/queues/{name}": {"queue-configured name", "queue-in-use name"},
    "DELETE /v1/schedules/{name}": {"schedule-configured name", "schedule-of-configuration name"},
    "GET /v1/events": {"invalid-parameter lat", "invalid-parameter lon", "invalid-parameter within_km", "invalid-parameter q"},
    # Which queues there are changes.
    "GET /v1/dead-letters": {"unknown-queue queue"},
    # Terms have a grammar; a cursor is before or after. Times and steps are related.
    "GET /v1/jobs": {"invalid-parameter q", "unknown-queue q", "unknown-queue queue"},
    "GET /v1/jobs/counts": {"invalid-parameter q", "unknown-queue q"},
    "GET /v1/scaling": {"unknown-queue queue"},
    "GET /v1/stats": {"invalid-parameter step", "invalid-parameter from", "invalid-parameter to", "unknown-queue queue"},
    # A list of names that grows with the versions.
    "GET /v1/stream": {"invalid-parameter topics"},
    # Nothing to change: every field is null.
    "PATCH /v1/jobs/{id}": {"invalid-field body", "unknown-queue", "unknown-kind", "invalid-payload", "payload-too-deep", "illegal-transition"},
    "GET /v1/users/{id}/export": {"user-not-found id"},
    "POST /v1/auth/login": {"login-failed", "too-many-requests"},
    "POST /v1/auth/logout": {"not-a-session"},
    "POST /v1/auth/refresh": {"not-a-session"},
    "POST /v1/batches": {"unknown-kind", "unknown-queue", "invalid-payload", "invalid-field"},
    "POST /v1/batches/{id}/cancel": {"illegal-transition"},
    "POST /v1/dead-letters/delete": _BULK,
    "POST /v1/dead-letters/redrive": _BULK,
    # The server of this check has no keys; the cursor is an opaque text.
    "POST /v1/encryption/rotate": {"encryption-off", "invalid-field after"},
    "POST /v1/events": {
        "invalid-field events[].url", "invalid-field events[].time_zone", "invalid-field events[].ends_at", "invalid-field events[].starts_at",
        "invalid-field events[].category", "invalid-field events[].place", "invalid-field events[].source",
    },
    "POST /v1/interactions": {"invalid-field interactions[].at", "invalid-field interactions[].event"},
    "POST /v1/jobs": {"unknown-kind", "unknown-queue", "invalid-payload", "queue-of-another-fleet", "payload-too-deep", "invalid-field timeout_seconds"},
    "POST /v1/jobs/batch": {"unknown-kind", "unknown-queue", "invalid-payload", "queue-of-another-fleet", "invalid-field timeout_seconds"},
    "POST /v1/jobs/cancel": _BULK,
    "POST /v1/jobs/{id}/cancel": {"illegal-transition"},
    "POST /v1/jobs/{id}/retry": {"illegal-transition"},
    "POST /v1/keys": {"name-taken name", "invalid-field scopes", "invalid-field name", "invalid-field kinds[]"},
    "POST /v1/keys/{id}/rotate": {"key-revoked"},
    "POST /v1/mail-suppressions": {"invalid-field address"},
    "POST /v1/mail-suppressions/release": {"invalid-field address", "nothing-matched address"},
    "POST /v1/notifications": {"invalid-field type"},
    "POST /v1/points": {"invalid-field points[].recorded_at"},
    "POST /v1/points/dead-letters/delete": {"nothing-matched filter"},
    "POST /v1/points/dead-letters/redrive": {"nothing-matched filter"},
    "POST /v1/queues/{name}/purge": {"invalid-field confirm"},
    # Lengths in bytes, and names that are routes.
    "POST /v1/channels/read": {"invalid-field channels"},
    "POST /v1/results/delete": {"invalid-field ids"},
    "POST /v1/results/read": {"invalid-field ids"},
    "POST /v1/results/write": {"invalid-field results[].id"},
    "POST /v1/results/{id}/parts": {"invalid-field parts"},
    "POST /v1/results/{id}/parts/delete": {"invalid-field parts"},
    "POST /v1/schedules/preview": _SCHEDULE,
    "POST /v1/schedules": _SCHEDULE | {"invalid-field name", "schedule-exists name"},
    "POST /v1/signing-keys": {"signing-key-exists", "invalid-field secret"},
    "POST /v1/signing-keys/rotate": {"invalid-field secret"},
    "POST /v1/sources": _SOURCE,
    "POST /v1/subscriptions": {"invalid-field email", "invalid-field text", "invalid-field within_km"},
    "POST /v1/tracks": {"track-exists id"},
    "POST /v1/users": {"name-taken name", "invalid-field name", "invalid-field password"},
    "POST /v1/users/{id}/invite": {"invalid-field id"},
    "POST /v1/webhooks": {"invalid-field url", "invalid-field secret", "invalid-field kinds[]", "too-many-webhooks"},
    "POST /v1/webhooks/{id}/rotate": {"invalid-field secret"},
    "POST /v1/workers": {"unknown-queue", "queue-of-another-fleet", "invalid-field queues"},
    # The same id in capitals and not.
    "POST /v1/workers/{id}/finish": {"invalid-field outcomes[].retry_after_seconds"},
    "POST /v1/workers/{id}/heartbeat": {"invalid-field progress"},
    "PUT /v1/kinds/{name}": {
        "queue-of-another-fleet queue", "kind-coded name", "invalid-field payload_schema", "invalid-field result_schema", "invalid-field retry.cap_seconds",
        # Less than a nanosecond; paths have a grammar.
        "invalid-field timeout_seconds", "invalid-field redact[]",
    },
    "PUT /v1/queues/{name}": {"queue-configured name"},
    "PUT /v1/queues/{name}/limits": {"invalid-field rate", "invalid-field key_rate"},
    "PUT /v1/schedules/{name}": _SCHEDULE | {"invalid-field name", "schedule-configured name"},
    "PUT /v1/sources/{id}": _SOURCE,
    "PUT /v1/users/{id}/password": {"invalid-field password"},
    "PUT /v1/users/{id}/preferences": {
        "invalid-field address", "invalid-field digest_at", "invalid-field time_zone", "invalid-field language", "invalid-field quiet_hours.from",
        "invalid-field quiet_hours.until", "invalid-field email", "invalid-field webhook", "invalid-field topics",
    },
    "PUT /v1/webhooks/{id}": {"invalid-field url", "invalid-field kinds[]"},
}


def reasons_of(response: Any) -> set[str]:
    """`unknown-kind`, or `invalid-field name` for each field that a problem names."""
    try:
        body = response.json()
        kind = str(body["type"]).rsplit(":", 1)[-1]
    except (ValueError, KeyError, TypeError):
        return {f"status {response.status_code}"}
    return {_reason_of(kind, error) for error in body.get("errors", [])} or {kind}


def _reason_of(kind: str, error: dict[str, str]) -> str:
    if "U+0000" in error["reason"]:
        return "U+0000"
    if "invalid type: floating point" in error["reason"] and ".0`" in error["reason"]:
        return "fraction"
    return f"{kind} {_without_indexes(error['field'])}"


def _without_indexes(field: str) -> str:
    """`jobs[].kind` for `jobs[7].kind`, `payload` for `payload.to`."""
    if field.startswith(("progress.", "payload.", "topics.")):
        # An id or a name of the producer's own follows.
        field = field.split(".")[0]
    head, *rest = field.split("[")
    return head + "".join("[]" + part.partition("]")[2] for part in rest)


@schemathesis.hook
def filter_query(context: Any, query: Any) -> bool:
    """An empty parameter counts as left out (`allowEmptyValue`), which generators do not know."""
    return not query or "" not in query.values()


@schemathesis.check
def refused_for_a_reason(ctx: Any, response: Any, case: Any) -> None:
    if case.meta is None or not case.meta.generation.mode.is_positive or not 400 <= response.status_code < 500:
        return
    label = case.operation.label
    known = REFUSALS.get(label, set()) | EVERYWHERE
    unknown = {reason for reason in reasons_of(response) if reason not in known and reason.split(" ")[0] not in known}
    if RECORD and unknown:
        with open(RECORD, "a", encoding="utf-8") as file:
            line = {
                "label": label, "unknown": sorted(unknown), "path": case.path_parameters, "query": case.query, "body": case.body,
                "answer": response.text[:400],
            }
            file.write(json.dumps(line, default=str) + "\n")
    if unknown:
        raise AssertionError(f"a request that the schema allows was refused: {', '.join(sorted(unknown))}")
