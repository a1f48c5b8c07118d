"""One attempt: the handler is called with the payload as its types, and what it does becomes an :class:`Outcome`.

The worker and the testing mode share this, so that a test sees what a worker would do. No exception of a handler leaves this module,
SystemExit and KeyboardInterrupt included: a handler must not end the worker.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from . import _json
from ._signature import Signature
from .context import Context
from .errors import Cancelled, Discard, PayloadError, Retry, Snooze

log = logging.getLogger("holdfast.worker")

Verb = Literal["completed", "failed", "discard", "snooze", "cancelled"]

#: Longest reason that is sent, in characters. The server stores 4,096 bytes.
MAX_ERROR_CHARACTERS = 4_000


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended."""

    verb: Verb
    #: In JSON.
    result: str | None = None
    error: str | None = None
    retry_after: float | None = None

    def body(self, job: str, fence: str) -> str:
        """The API's JobOutcome, in JSON."""
        parts = [f'{{"job":"{job}","fence":{_json.encode(fence)},"outcome":"{self.verb}"']
        if self.result is not None:
            parts.append(f'"result":{self.result}')
        if self.error is not None:
            parts.append(f'"error":{_json.encode(self.error)}')
        if self.retry_after is not None:
            parts.append(f'"retry_after_seconds":{self.retry_after}')
        return ",".join(parts) + "}"


class Handler:
    """A function that runs jobs of a kind."""

    def __init__(self, function: Callable[..., Any], is_async: bool, signature: Signature) -> None:
        self._function = function
        self._signature = signature
        self.is_async = is_async

    def run(self, context: Context, payload: Any) -> Outcome:
        """Runs a plain function."""
        try:
            return completed(self._call(context, payload))
        except BaseException as error:
            return failed(context, error)

    async def run_async(self, context: Context, payload: Any) -> Outcome:
        """Runs an async function."""
        try:
            return completed(await self._call(context, payload))
        except BaseException as error:
            return failed(context, error)

    def _call(self, context: Context, payload: Any) -> Any:
        try:
            args, kwargs = self._signature.arguments_of(payload)
        except PayloadError as fault:
            raise Discard(str(fault)) from fault
        if self._signature.takes_context:
            return self._function(context, *args, **kwargs)
        return self._function(*args, **kwargs)


def completed(result: Any) -> Outcome:
    if result is None:
        return Outcome("completed")
    try:
        return Outcome("completed", result=_json.encode(result))
    except (TypeError, ValueError, RecursionError) as error:
        # A retry would repeat the side effects, and end here again.
        return Outcome("discard", error=f"the result cannot be written as JSON: {error}")


def failed(context: Context, error: BaseException) -> Outcome:
    """The outcome for an exception of the handler."""
    if isinstance(error, (Cancelled, asyncio.CancelledError)) and context.cancelled:
        return Outcome("cancelled")
    if isinstance(error, Retry):
        return Outcome("failed", error=_text(error), retry_after=error.after)
    if isinstance(error, Discard):
        return Outcome("discard", error=_text(error))
    if isinstance(error, Snooze):
        return Outcome("snooze", retry_after=error.after)
    if isinstance(error, Cancelled):
        return Outcome("discard", error=f"the handler raised Cancelled, but its job was not cancelled: {_text(error)}")
    log.warning("job %s (%s), attempt %d failed", context.job.id, context.job.kind, context.attempt, exc_info=error)
    return Outcome("failed", error=described(error))


def described(error: BaseException) -> str:
    """One line: the type, the message, and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    text = f"{type(error).__name__}: {_text(error)}" if _text(error) else type(error).__name__
    return text[: MAX_ERROR_CHARACTERS - len(place)] + place


def _text(error: BaseException) -> str:
    try:
        return str(error)[:MAX_ERROR_CHARACTERS].encode("utf-8", "replace").decode("utf-8")
    except Exception:
        return "its message cannot be read"
