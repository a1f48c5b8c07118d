"""How calls are repeated and waited for, without I/O.

A *flow* is a generator: it yields a :class:`Call` and is sent the :class:`Reply` (or :class:`Broken`), or yields a :class:`Pause` and
is sent nothing; what it returns is the result. :class:`holdfast.Client` runs flows by blocking, :class:`holdfast.AsyncClient` by awaiting.

Invariants: a call that is not ``repeatable`` is sent again only if it certainly did not reach the server. Nothing is repeated beyond
the caller's patience. ``Retry-After`` is a lower bound of the pause. A pause has jitter, so that many clients do not return together.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from . import _calls
from ._calls import Broken, Call, Reply, answer_of
from .errors import ApiError, ConnectionFailed, WaitTimeout

T = TypeVar("T")

#: First and longest pause between two tries, in seconds, before jitter. `Retry-After` may be longer.
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0

#: Longest `Retry-After` that is obeyed, in seconds.
LONGEST_RETRY_AFTER = 300.0

#: Longest wait of one call for the end of a job, in seconds. A server that allows less refuses it, and is asked for SHORT_WAIT.
WAIT_SECONDS = 30.0
SHORT_WAIT = 1.0


@dataclass(frozen=True)
class Pause:
    seconds: float


Step = Call[Any] | Pause
Flow = Generator[Step, "Reply | Broken | None", T]


def run(flow: Flow[T], send: Callable[[Call[Any]], Reply | Broken]) -> T:
    """What the flow returns. Blocks in its pauses, and in ``send``."""
    try:
        step = next(flow)
        while True:
            if isinstance(step, Pause):
                time.sleep(step.seconds)
                step = flow.send(None)
            else:
                step = flow.send(send(step))
    except StopIteration as end:
        result: T = end.value
        return result


class _Final(Protocol):
    @property
    def is_final(self) -> bool: ...


F = TypeVar("F", bound=_Final)


def pause_after(failures: int, retry_after: float | None = None) -> float:
    """Seconds before the next try, after so many failures in a row (from 1)."""
    longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 1, 30))
    backoff = longest * random.uniform(0.5, 1.0)
    if retry_after is None:
        return backoff
    return max(backoff, min(retry_after, LONGEST_RETRY_AFTER) * random.uniform(1.0, 1.25))


def once(call: Call[T]) -> Flow[T]:
    """One try. Raises ApiError or ConnectionFailed."""
    reply = yield call
    return outcome_of(call, reply)


def outcome_of(call: Call[T], reply: Reply | Broken | None) -> T:
    if isinstance(reply, Reply):
        return answer_of(call, reply)
    reason = reply.reason if isinstance(reply, Broken) else "there is no reply"
    raise ConnectionFailed(f"{call.method} {call.path.partition('?')[0]}: {reason}")


def repeated(call: Call[T], patience: float) -> Flow[T]:
    """Repeats the call while it may succeed, for ``patience`` seconds. Raises the last error."""
    give_up_at = time.monotonic() + patience
    failures = 0
    while True:
        reply = yield call
        try:
            return outcome_of(call, reply)
        except ApiError as error:
            may_repeat = error.is_transient and (call.repeatable or error.status in (429, 503))
            failure: ApiError | ConnectionFailed = error
        except ConnectionFailed as error:
            may_repeat = call.repeatable or (isinstance(reply, Broken) and not reply.reached)
            failure = error
        failures += 1
        pause = pause_after(failures, getattr(failure, "retry_after", None))
        if not may_repeat or time.monotonic() + pause > give_up_at:
            raise failure
        yield Pause(pause)


def awaited(what: str, call: Callable[[float], Call[F]], timeout: float | None, patience: float) -> Flow[F]:
    """The record once it is final. Raises WaitTimeout; the last look is made when the time is up."""
    ends_at = None if timeout is None else time.monotonic() + timeout
    longest = WAIT_SECONDS
    while True:
        left = longest if ends_at is None else max(0.0, ends_at - time.monotonic())
        wait = min(left, longest)
        asked_at = time.monotonic()
        try:
            record = yield from repeated(call(wait), patience if ends_at is None else min(patience, left))
        except ApiError as error:
            if error.type == "invalid-parameter" and longest > SHORT_WAIT:
                longest = SHORT_WAIT
                continue
            raise
        if record.is_final:
            return record
        if ends_at is not None and time.monotonic() >= ends_at:
            raise WaitTimeout(f"{what} has not ended within {timeout:g} s")
        if time.monotonic() - asked_at < min(wait, FIRST_PAUSE):
            # A server that is stopping, or that allows no wait, answers at once.
            yield Pause(pause_after(2))


def pages(filters: dict[str, str | None], limit: int, patience: float) -> Iterator[Flow[Any]]:
    """One flow for each page of jobs; each returns the page's records and the next cursor."""
    cursor: list[str | None] = [None]

    def page() -> Flow[Any]:
        records, cursor[0] = yield from repeated(_calls.list_jobs(filters, cursor[0], limit), patience)
        return records

    yield page()
    while cursor[0] is not None:
        yield page()
