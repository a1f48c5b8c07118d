"""What producers send and what the API answers, as types.

Fields that a newer server adds are ignored, and fields that an older one does not send have defaults.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from .errors import JobFailed, seconds_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

Priority = Literal["high", "normal", "low"]

#: States that a job does not leave by itself.
FINAL_STATES = frozenset({"completed", "discarded", "cancelled"})


class JobOptions(TypedDict, total=False):
    """How a job is to be run; every field has a default."""

    #: Default: the kind's queue.
    queue: str
    #: The earliest start, with a time zone. Not together with ``delay_seconds``.
    run_at: datetime
    #: The earliest start, from now, by the database's clock.
    delay_seconds: float | timedelta
    #: The job is cancelled if it has not begun by then; with a time zone.
    expires_at: datetime
    priority: Priority
    #: Largest number of attempts, the first included: 1 to 100.
    max_attempts: int
    #: Longest duration of one attempt, a day at most.
    timeout_seconds: float | timedelta
    #: At most one job of the kind with this key waits or runs; a further one returns the first.
    unique_key: str
    #: The key for limits of concurrency and rate by key, such as a customer's id.
    limit_key: str
    #: Words by which the job is found (``tag:vip``): at most 8, each once, of 1 to 64 characters.
    tags: Sequence[str]
    #: The job that is enqueued when this one completes.
    then: NewJob


class EnqueueOptions(JobOptions, total=False):
    """The options of a job, and those of the call that enqueues it."""

    #: 1 to 200 printable ASCII characters. Default: a random one, so that the client's own repeats make one job.
    idempotency_key: str
    #: W3C trace context, given to the handler as ``ctx.traceparent``.
    traceparent: str


_CALL_OPTIONS = frozenset({"idempotency_key", "traceparent"})
_DURATIONS = frozenset({"delay_seconds", "timeout_seconds"})
_MOMENTS = frozenset({"run_at", "expires_at"})
_JOB_OPTIONS = frozenset(JobOptions.__annotations__)


class NewJob:
    """A job to be enqueued: a kind, a payload, and the options of :class:`JobOptions`."""

    __slots__ = ("kind", "options", "payload")

    def __init__(self, kind: str, payload: Any, **options: Unpack[JobOptions]) -> None:
        self.kind = kind
        self.payload = payload
        self.options: JobOptions = options
        _check_names(options, _JOB_OPTIONS)

    def __repr__(self) -> str:
        return f"NewJob({self.kind!r}, …)"

    def body(self) -> dict[str, Any]:
        """The fields of the API's NewJob."""
        body: dict[str, Any] = {"kind": self.kind, "payload": self.payload}
        body.update((name, _option(name, value)) for name, value in self.options.items() if value is not None)
        return body


def split_options(options: EnqueueOptions) -> tuple[JobOptions, dict[str, str]]:
    """The options of the job, and those of the call."""
    _check_names(options, _JOB_OPTIONS | _CALL_OPTIONS)
    job: Any = {name: value for name, value in options.items() if name not in _CALL_OPTIONS}
    call: Any = {name: value for name, value in options.items() if name in _CALL_OPTIONS and value is not None}
    return job, call


def _check_names(options: Mapping[str, Any], known: frozenset[str]) -> None:
    unknown = sorted(set(options) - known)
    if unknown:
        raise TypeError(f"there is no option {unknown[0]!r}; there are {', '.join(sorted(known))}")


def _option(name: str, value: Any) -> Any:
    if name in _DURATIONS:
        return seconds_of(value, name)
    if name in _MOMENTS:
        return _moment(name, value)
    if name == "then":
        return value.body()
    if name == "tags":
        if isinstance(value, str):
            raise TypeError("tags must be a list of texts, not one text")
        return list(value)
    return value


def _moment(name: str, value: datetime) -> str:
    if value.tzinfo is None:
        raise ValueError(f"{name} must have a time zone, such as that of datetime.now(timezone.utc)")
    return value.astimezone(timezone.utc).isoformat()


@dataclass(frozen=True)
class JobError:
    """One failed attempt, or a crash of the worker."""

    at: datetime | None
    attempt: int
    kind: str
    message: str


@dataclass(frozen=True)
class JobRecord:
    """A job as the API shows it. Times are in UTC; a key without the right to payloads sees ``"[redacted]"`` in places."""

    id: str
    kind: str
    queue: str
    #: scheduled, available, running, retryable, completed, discarded or cancelled.
    state: str
    payload: Any = None
    result: Any = None
    #: The progress that the running handler reported last.
    progress: Any = None
    #: Attempts that have ended.
    attempt: int = 0
    max_attempts: int = 1
    #: Executions whose worker died.
    crashes: int = 0
    timeout_seconds: float = 0.0
    priority: str = "normal"
    durability: str = "ledger"
    unique_key: str | None = None
    limit_key: str | None = None
    tags: tuple[str, ...] = ()
    #: Who enqueued it, such as ``key/ID`` or ``user/ID``.
    enqueued_by: str | None = None
    run_at: datetime | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    #: It is cancelled if it has not begun by then.
    expires_at: datetime | None = None
    errors: tuple[JobError, ...] = ()
    worker: str | None = None
    cancel_requested: bool = False
    #: The batch that it is part of.
    batch: str | None = None
    #: The job that its completion enqueued, and the one whose completion enqueued it.
    child: str | None = None
    parent: str | None = None
    #: The batch whose callback it is.
    callback_of: str | None = None

    @property
    def is_final(self) -> bool:
        """Whether the job has ended: completed, discarded or cancelled."""
        return self.state in FINAL_STATES

    def result_or_raise(self) -> Any:
        """The result of a completed job. Raises JobFailed for a discarded or cancelled one."""
        if self.state != "completed":
            raise JobFailed(self)
        return self.result

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> JobRecord:
        """From the API's Job."""
        fields = {name: body[name] for name in cls.__dataclass_fields__ if name in body}
        for name in ("run_at", "created_at", "started_at", "finished_at", "expires_at"):
            fields[name] = moment_of(fields.get(name))
        fields["tags"] = tuple(fields.get("tags") or ())
        fields["errors"] = tuple(
            JobError(
                moment_of(error.get("at")),
                int(error.get("attempt", 0)),
                str(error.get("class", "")),
                str(error.get("message", "")),
            )
            for error in fields.get("errors") or ()
        )
        return cls(**fields)


@dataclass(frozen=True)
class BatchRecord:
    """A batch as the API shows it."""

    id: str
    #: ``running`` or ``ended``.
    state: str
    total: int = 0
    pending: int = 0
    completed: int = 0
    discarded: int = 0
    cancelled: int = 0
    name: str | None = None
    percent: int = 0
    cancel_requested: bool = False
    #: Its callback: kind, queue and, once the batch has ended, id.
    callback: Mapping[str, Any] | None = None

    @property
    def is_final(self) -> bool:
        return self.state == "ended"

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> BatchRecord:
        """From the API's Batch."""
        return cls(**{name: body[name] for name in cls.__dataclass_fields__ if name in body})


@dataclass(frozen=True)
class Accepted:
    """The answer to an enqueued job."""

    id: str
    kind: str
    queue: str
    state: str
    #: A job with this ``idempotency_key`` or ``unique_key`` existed: ``id`` is its id.
    duplicate: bool = False


@dataclass(frozen=True)
class AcceptedBatch:
    """The answer to a batch with a callback."""

    id: str
    total: int
    #: In the order of the jobs; empty for a repeat.
    ids: tuple[str, ...] = ()
    duplicate: bool = False


@dataclass(frozen=True)
class KindDefinition:
    """A kind as it is declared."""

    name: str
    queue: str
    timeout_seconds: float | None = None
    max_attempts: int | None = None
    #: Longest delay after the first failure, in seconds, doubled after each further one.
    base_seconds: float | None = None
    #: Longest delay, in seconds.
    cap_seconds: float | None = None
    #: Whether each delay is random.
    jitter: bool | None = None
    payload_schema: Mapping[str, Any] | None = None
    result_schema: Mapping[str, Any] | None = None
    description: str | None = None
    #: Paths of secret fields of its payloads: only admins see these.
    redact: tuple[str, ...] = field(default=())

    def body(self) -> dict[str, Any]:
        """The fields of the API's NewKind."""
        retry = {
            "max_attempts": self.max_attempts,
            "base_seconds": self.base_seconds,
            "cap_seconds": self.cap_seconds,
            "jitter": self.jitter,
        }
        body = {
            "queue": self.queue,
            "timeout_seconds": self.timeout_seconds,
            "retry": {name: value for name, value in retry.items() if value is not None},
            "payload_schema": self.payload_schema,
            "result_schema": self.result_schema,
            "description": self.description,
            "redact": list(self.redact),
        }
        return {name: value for name, value in body.items() if value not in (None, {}, [])}


_FRACTION = re.compile(r"\.(\d+)")


def moment_of(text: str | None) -> datetime | None:
    """A time of the API (RFC 3339, up to nanoseconds). Python before 3.11 reads neither ``Z`` nor nine digits."""
    if text is None:
        return None
    text = _FRACTION.sub(lambda digits: "." + digits[1][:6].ljust(6, "0"), text.replace("Z", "+00:00"))
    return datetime.fromisoformat(text)
