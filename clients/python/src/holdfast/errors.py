"""Every exception of the package.

Errors of a call derive from :class:`HoldfastError`. What a handler raises to decide what becomes of its job derives from
:class:`JobSignal`: :class:`Retry`, :class:`Discard`, :class:`Snooze`, :class:`Cancelled`.

No error holds the API key, or a URL with credentials.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .models import JobRecord

TYPE_PREFIX = "urn:holdfast:problem:"

#: Statuses after which the same request may succeed: the server or a proxy could not answer now.
TRANSIENT_STATUSES = frozenset({408, 425, 429, 502, 503, 504})


class HoldfastError(Exception):
    """Base of the errors of this package."""


class ConfigurationError(HoldfastError, ValueError):
    """A setting is missing or wrong: a URL, a key, the definition of a handler."""


class ConnectionFailed(HoldfastError):
    """The API could not be reached, or its answer was lost. A call that changes something may have been carried out."""


class WaitTimeout(HoldfastError, TimeoutError):
    """The job or batch has not ended within the time that the caller gave. It goes on."""


class JobFailed(HoldfastError):
    """The job ended without a result: it is a dead letter, or was cancelled. ``record`` has its errors."""

    def __init__(self, record: JobRecord) -> None:
        reason = record.errors[-1].message if record.errors else "no error is recorded"
        super().__init__(f"job {record.id} ({record.kind}) is {record.state}: {reason}")
        self.record = record

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.record,)


class PayloadError(HoldfastError, ValueError):
    """A payload is not what its handler's types describe. ``path`` names the field, such as ``payload.sizes[0]``."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.reason)


@dataclass(frozen=True)
class Fault:
    """One fault of a request. ``index`` says which job of a batch, from 0."""

    field: str
    reason: str
    index: int | None = None


class ApiError(HoldfastError):
    """The server refused a call, and says why (RFC 9457).

    ``type`` is stable and made for programs, such as ``"unknown-kind"``; ``detail`` is for people; ``errors`` lists every fault.
    """

    def __init__(
        self,
        status: int,
        type: str,
        title: str,
        detail: str,
        errors: tuple[Fault, ...] = (),
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{status} {type}: {detail or title}")
        self.status = status
        self.type = type
        self.title = title
        self.detail = detail
        self.errors = errors
        self.request_id = request_id
        #: Seconds, from the answer's ``Retry-After``.
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors of tasks go from one process to another.
        arguments = (self.status, self.type, self.title, self.detail, self.errors, self.request_id, self.retry_after)
        return type(self), arguments

    @property
    def field(self) -> str | None:
        """The first field that is wrong."""
        return self.errors[0].field if self.errors else None

    @property
    def is_transient(self) -> bool:
        """Whether the same call may succeed later."""
        return self.status in TRANSIENT_STATUSES


class InvalidRequest(ApiError):
    """400, 413, 415, 422: the request is wrong, and will be until it is changed."""


class Unauthenticated(ApiError):
    """401: the key is missing, wrong or revoked."""


class Forbidden(ApiError):
    """403: the key lacks a scope."""


class NotFound(ApiError):
    """404: there is no such job, batch, kind, queue or worker."""


class Conflict(ApiError):
    """409: the request does not fit the state of what it names."""


class Unavailable(ApiError):
    """408, 425, 429, 502, 503, 504: repeat the call, after ``retry_after`` seconds if there are any."""


class ServerError(ApiError):
    """500, or an answer that no server of Holdfast gives."""


_CLASSES: Mapping[int, type[ApiError]] = {
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    **dict.fromkeys(TRANSIENT_STATUSES, Unavailable),
}


def api_error(status: int, body: object, retry_after: float | None = None) -> ApiError:
    """The exception for an answer that is no success. ``body`` is its JSON, or anything else that a proxy sent."""
    problem: Mapping[str, Any] = body if isinstance(body, Mapping) else {}
    slug = str(problem.get("type", "")).removeprefix(TYPE_PREFIX) or f"status-{status}"
    listed = problem.get("errors")
    faults = tuple(
        Fault(str(fault.get("field", "")), str(fault.get("reason", "")), fault.get("index"))
        for fault in (listed if isinstance(listed, list) else ())
        if isinstance(fault, Mapping)
    )
    if not faults and problem.get("field"):
        faults = (Fault(str(problem["field"]), str(problem.get("detail", "")), problem.get("index")),)
    default = InvalidRequest if 400 <= status < 500 else ServerError
    return _CLASSES.get(status, default)(
        status,
        slug,
        str(problem.get("title", "The server gave no reason")),
        str(problem.get("detail", "")),
        faults,
        problem.get("request_id"),
        retry_after,
    )


def seconds_of(value: float | timedelta, name: str) -> float:
    """A duration in seconds, from seconds or a timedelta."""
    seconds = value.total_seconds() if isinstance(value, timedelta) else float(value)
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"{name} must be a number of seconds from 0, or a timedelta, and not {value!r}")
    return seconds


class JobSignal(Exception):
    """Base of what a handler raises to decide what becomes of its job."""


class Retry(JobSignal):
    """The attempt failed; try again ``after`` seconds, or when the kind's retry policy says. It counts as an attempt."""

    def __init__(self, reason: str = "the handler asked for a retry", *, after: float | timedelta | None = None) -> None:
        super().__init__(reason)
        self.after = None if after is None else seconds_of(after, "after")


class Discard(JobSignal):
    """The job can never succeed: it becomes a dead letter, with this reason."""

    def __init__(self, reason: str = "the handler discarded the job") -> None:
        super().__init__(reason)


class Snooze(JobSignal):
    """Run the job again ``after`` seconds. It does not count as an attempt."""

    def __init__(self, after: float | timedelta) -> None:
        self.after = seconds_of(after, "after")
        super().__init__(f"snoozed for {self.after:g} s")


class Cancelled(JobSignal):
    """The handler stopped because it was asked to. ``Context.raise_if_cancelled`` raises it."""

    def __init__(self, reason: str = "the handler stopped because it was asked to") -> None:
        super().__init__(reason)
