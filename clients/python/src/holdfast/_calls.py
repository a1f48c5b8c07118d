"""The calls of the API: how each is written, and how its answer is read. Nothing here does I/O.

A :class:`Call` is everything that a shell needs to send it, and everything that the core needs to read the :class:`Reply`. The
shells are :class:`holdfast.Client`, :class:`holdfast.AsyncClient` and the worker.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlencode

from . import _json
from .errors import ApiError, api_error
from .models import (
    Accepted,
    AcceptedBatch,
    BatchRecord,
    EnqueueOptions,
    JobRecord,
    KindDefinition,
    NewJob,
    split_options,
)

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

#: Seconds that an answer may take, if the call does not wait for something.
ANSWER_SECONDS = 10.0

#: Seconds that an answer may take beyond what the call itself waits.
WAIT_MARGIN_SECONDS = 10.0

#: Most bytes of an answer. A pull has 16 MiB of payloads at most, and as many bytes of other fields.
MAX_ANSWER_BYTES = 64 * 1024 * 1024


#: Jobs and bytes of one call of `enqueue_many` at most. A server takes 10,000 and 16 MiB by default.
MAX_JOBS = 10_000
MAX_BODY_BYTES = 12 * 1024 * 1024


@dataclass(frozen=True)
class Call(Generic[T_co]):
    """A request, and how its answer is read."""

    method: str
    path: str
    read: Callable[[Any], T_co]
    body: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    #: Longest time until the answer, in seconds.
    timeout: float = ANSWER_SECONDS
    #: Whether the call may be sent again although it may have been carried out.
    repeatable: bool = True


@dataclass(frozen=True)
class Reply:
    """An answer, as it came."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Broken:
    """There is no answer. ``reached`` is False if the request certainly did not reach the server."""

    reason: str
    reached: bool


def answer_of(call: Call[T], reply: Reply) -> T:
    """What the call returns, or an ApiError."""
    try:
        body = _json.decode(reply.body) if reply.body else None
    except ValueError:
        body = None
        if reply.status < 300:
            raise _not_understood(reply) from None
    if not 200 <= reply.status < 300:
        raise api_error(reply.status, body, _retry_after(reply.headers))
    try:
        return call.read(body)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise _not_understood(reply) from error


def _not_understood(reply: Reply) -> ApiError:
    detail = "the answer is not what this client knows; is the URL that of Holdfast's API?"
    return api_error(reply.status, {"type": "unknown-answer", "title": "Not understood", "detail": detail})


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """In seconds. The form with a date is not used by Holdfast, and would depend on this machine's clock."""
    try:
        return max(0.0, float(headers.get("retry-after", "")))
    except ValueError:
        return None


# Producers


def enqueue(kind: str, payload: Any, options: EnqueueOptions) -> Call[Accepted]:
    job, call = split_options(options)
    is_own_key = "idempotency_key" not in call

    def read(body: Any) -> Accepted:
        accepted = _accepted(body)
        # Under a random key, only a lost answer of ours makes a duplicate; the caller has one job, and it is new.
        ours = is_own_key and "unique_key" not in job
        return Accepted(accepted.id, accepted.kind, accepted.queue, accepted.state) if ours else accepted

    return Call("POST", "/v1/jobs", read, _json.encode(NewJob(kind, payload, **job).body()), _headers(call))


def enqueue_many(jobs: Iterable[NewJob], idempotency_key: str | None, traceparent: str | None) -> list[Call[list[str]]]:
    """As few calls as hold the jobs. The first has the key itself, the others the key with their number."""
    key = idempotency_key or uuid.uuid4().hex

    def read(body: Any) -> list[str]:
        return [str(id) for id in body["ids"]]

    return [
        Call(
            "POST",
            "/v1/jobs/batch",
            read,
            '{"jobs":[' + ",".join(part) + "]}",
            _headers({"idempotency_key": f"{key}/{number}" if number else key, "traceparent": traceparent}),
            timeout=30.0,
        )
        for number, part in enumerate(_parts(_json.encode(job.body()) for job in jobs))
    ]


def _parts(bodies: Iterable[str]) -> Iterator[list[str]]:
    part: list[str] = []
    size = 0
    for body in bodies:
        if part and (len(part) == MAX_JOBS or size + len(body) > MAX_BODY_BYTES):
            yield part
            part, size = [], 0
        part.append(body)
        size += len(body) + 1
    if part:
        yield part


def create_batch(
    jobs: Iterable[NewJob], name: str | None, callback: NewJob | None, idempotency_key: str | None, traceparent: str | None
) -> Call[AcceptedBatch]:
    fields: dict[str, Any] = {"jobs": [job.body() for job in jobs]}
    if name is not None:
        fields["name"] = name
    if callback is not None:
        fields["callback"] = callback.body()
    headers = _headers({"idempotency_key": idempotency_key, "traceparent": traceparent})

    def read(body: Any) -> AcceptedBatch:
        return AcceptedBatch(body["id"], body["total"], tuple(body.get("ids", ())), bool(body.get("duplicate", False)))

    return Call("POST", "/v1/batches", read, _json.encode(fields), headers, timeout=30.0)


def _accepted(body: Any) -> Accepted:
    return Accepted(
        body["id"],
        body.get("kind", ""),
        body.get("queue", ""),
        body.get("state", "available"),
        bool(body.get("duplicate", False)),
    )


def _headers(options: Mapping[str, str | None]) -> dict[str, str]:
    headers = {"Idempotency-Key": options.get("idempotency_key") or uuid.uuid4().hex}
    traceparent = options.get("traceparent")
    if traceparent:
        headers["traceparent"] = traceparent
    return headers


# Jobs, batches, kinds and queues


def get_job(id: str, wait: float = 0.0) -> Call[JobRecord]:
    path = f"/v1/jobs/{_part(id)}" + (f"?wait={wait:.3f}" if wait else "")
    return Call("GET", path, JobRecord.of, timeout=wait + WAIT_MARGIN_SECONDS)


def list_jobs(filters: Mapping[str, str | None], after: str | None, limit: int) -> Call[tuple[list[JobRecord], str | None]]:
    query = {name: value for name, value in {**filters, "after": after, "limit": str(limit)}.items() if value is not None}
    return Call(
        "GET",
        f"/v1/jobs?{urlencode(query)}",
        lambda body: ([JobRecord.of(job) for job in body["jobs"]], body.get("next")),
        timeout=30.0,
    )


def cancel_job(id: str) -> Call[str]:
    return Call("POST", f"/v1/jobs/{_part(id)}/cancel", lambda body: str(body["state"]))


def retry_job(id: str) -> Call[str]:
    # A second one could make a job available again that has run meanwhile.
    return Call("POST", f"/v1/jobs/{_part(id)}/retry", lambda body: str(body["state"]), repeatable=False)


def get_batch(id: str, wait: float = 0.0) -> Call[BatchRecord]:
    path = f"/v1/batches/{_part(id)}" + (f"?wait={wait:.3f}" if wait else "")
    return Call("GET", path, BatchRecord.of, timeout=wait + WAIT_MARGIN_SECONDS)


def cancel_batch(id: str) -> Call[BatchRecord]:
    return Call("POST", f"/v1/batches/{_part(id)}/cancel", lambda body: BatchRecord.of(body["batch"]))


def put_kind(kind: KindDefinition) -> Call[dict[str, Any]]:
    return Call("PUT", f"/v1/kinds/{_part(kind.name)}", dict, _json.encode(kind.body()))


def get_kind(name: str) -> Call[dict[str, Any]]:
    return Call("GET", f"/v1/kinds/{_part(name)}", dict)


def delete_kind(name: str) -> Call[None]:
    return Call("DELETE", f"/v1/kinds/{_part(name)}", _nothing)


def put_queue(name: str) -> Call[dict[str, Any]]:
    return Call("PUT", f"/v1/queues/{_part(name)}", dict, _json.encode({"served_by": "pull"}))


def delete_queue(name: str) -> Call[None]:
    return Call("DELETE", f"/v1/queues/{_part(name)}", _nothing)


def ring(queue: str) -> Call[None]:
    return Call("POST", f"/v1/queues/{_part(queue)}/ring", _nothing)


# Workers


@dataclass(frozen=True)
class Registered:
    """A worker's registration. Durations are in seconds."""

    id: str
    heartbeat_seconds: float
    lost_after_seconds: float


@dataclass(frozen=True)
class PulledJob:
    """A job that is leased to this worker."""

    id: str
    kind: str
    queue: str
    payload: Any
    fence: str
    attempt: int
    max_attempts: int
    #: Longest duration of the attempt, from its start.
    deadline_seconds: float
    traceparent: str | None
    previous_result: Any
    batch: str | None
    #: Counts of the batch whose callback the job is.
    ended_batch: Mapping[str, Any] | None


@dataclass(frozen=True)
class Pulled:
    jobs: list[PulledJob]
    drain: bool
    register_again: bool


@dataclass(frozen=True)
class Instructions:
    """The answer to a heartbeat."""

    cancel: tuple[str, ...]
    lost: tuple[str, ...]
    drain: bool


def register(
    name: str, queues: Sequence[str], concurrency: int, kinds: Sequence[str] | None, version: str, language: str
) -> Call[Registered]:
    fields: dict[str, Any] = {
        "name": name,
        "queues": list(queues),
        "concurrency": concurrency,
        "client": {"name": "holdfast-python", "version": version, "language": language},
    }
    if kinds is not None:
        fields["kinds"] = sorted(kinds)

    def read(body: Any) -> Registered:
        return Registered(body["id"], float(body.get("heartbeat_seconds", 5.0)), float(body.get("lost_after_seconds", 15.0)))

    return Call("POST", "/v1/workers", read, _json.encode(fields))


def pull(worker: str, most: int, wait: float, have: Sequence[str]) -> Call[Pulled]:
    body = _json.encode({"max": most, "wait_seconds": wait, "have": have})
    return Call("POST", f"/v1/workers/{worker}/pull", _pulled, body, timeout=wait + WAIT_MARGIN_SECONDS)


def _pulled(body: Any) -> Pulled:
    return Pulled([_pulled_job(job) for job in body["jobs"]], bool(body.get("drain", False)), bool(body.get("register_again", False)))


def _pulled_job(job: Mapping[str, Any]) -> PulledJob:
    get = job.get
    headers = get("headers")
    return PulledJob(
        job["id"],
        job["kind"],
        get("queue", ""),
        job["payload"],
        job["fence"],
        get("attempt", 1),
        get("max_attempts", 1),
        float(get("deadline_seconds", 3600.0)),
        headers.get("traceparent") if headers else None,
        get("previous_result"),
        get("batch"),
        get("ended_batch"),
    )


def finish(worker: str, outcomes: Sequence[str]) -> Call[list[tuple[str, str | None]]]:
    """``outcomes`` are in JSON. The answers are in their order: status, and why a result was refused."""

    def read(body: Any) -> list[tuple[str, str | None]]:
        answers = [(str(one["status"]), one.get("refused")) for one in body["outcomes"]]
        if len(answers) != len(outcomes):
            raise ValueError("as many answers as outcomes were expected")
        return answers

    return Call("POST", f"/v1/workers/{worker}/finish", read, '{"outcomes":[' + ",".join(outcomes) + "]}", timeout=30.0)


def heartbeat(worker: str, body: str) -> Call[Instructions]:
    return Call("POST", f"/v1/workers/{worker}/heartbeat", instructions_of, body)


def heartbeat_body(running: Sequence[str], progress: Mapping[str, str], log: Sequence[tuple[str, str]]) -> str:
    """``progress`` is in JSON, by job."""
    values = ",".join(f"{_json.encode(id)}:{value}" for id, value in progress.items())
    lines = [{"job": id, "line": line} for id, line in log]
    return f'{{"running":{_json.encode(running)},"progress":{{{values}}},"log":{_json.encode(lines)}}}'


def instructions_of(body: Any) -> Instructions:
    return Instructions(tuple(body.get("cancel", ())), tuple(body.get("lost", ())), bool(body.get("drain", False)))


def delete_worker(worker: str) -> Call[None]:
    return Call("DELETE", f"/v1/workers/{worker}", _nothing, timeout=5.0)


def _nothing(_body: Any) -> None:
    return None


def _part(text: str) -> str:
    """One segment of a path."""
    if not isinstance(text, str) or not text:
        raise ValueError(f"a name or an id must be a text that is not empty, and not {text!r}")
    return quote(text, safe="")
