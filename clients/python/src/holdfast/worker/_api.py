"""The worker's calls: one try each; who calls decides how to repeat."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from .._calls import Call
from .._flow import outcome_of, pause_after
from .._http import Endpoint
from .._wire import awaiting
from ..errors import ApiError, ConnectionFailed

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

#: What a call can raise.
Failure = (ApiError, ConnectionFailed)


class Api:
    """One connection pool, used by the protocol loop."""

    def __init__(self, endpoint: Endpoint, transport: httpx.AsyncBaseTransport | None) -> None:
        self._http = awaiting(endpoint, transport)

    async def call(self, call: Call[T]) -> T:
        """One try. Raises ApiError or ConnectionFailed."""
        return outcome_of(call, await self._http.send(call))

    async def close(self) -> None:
        await self._http.close()


class Backoff:
    """The pauses between failures in a row."""

    def __init__(self) -> None:
        self.failures = 0

    def pause(self, error: ApiError | ConnectionFailed) -> float:
        """Seconds until the next try."""
        self.failures += 1
        return pause_after(self.failures, getattr(error, "retry_after", None))

    def reset(self) -> None:
        self.failures = 0


def is_gone(error: object) -> bool:
    """The server does not know the worker's id. A proxy's 404 says nothing of that."""
    return isinstance(error, ApiError) and error.type == "worker-not-found"


def is_transient(error: ApiError | ConnectionFailed) -> bool:
    """The server could not answer now. An answer that is not Holdfast's comes from a proxy, and passes; but its 413 is an answer."""
    if isinstance(error, ConnectionFailed) or error.is_transient or error.status >= 500:
        return True
    return error.type.startswith(("status-", "unknown-answer")) and error.status != 413


def may_pass(error: ApiError | ConnectionFailed) -> bool:
    """The same call may succeed later: the server could not answer now, or does not accept the key now."""
    return is_transient(error) or (isinstance(error, ApiError) and error.status in (401, 403))
