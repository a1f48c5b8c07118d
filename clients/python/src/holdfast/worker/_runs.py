"""The table of jobs that this worker has. Used by the protocol loop alone, and without I/O."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from .._attempt import Handler, Outcome
from .._calls import PulledJob, Registered
from ..context import CancelReason, Context, JobInfo
from ._news import News

#: How long handlers that end soon are waited for, before the next pull and before their outcomes are sent: calls with many jobs cost less
#: than many calls. And how often it is looked whether they have, in seconds.
LINGER_SECONDS = 0.005
LOOK_SECONDS = 0.001

#: Bytes of outcomes that are held at most, before pulling stops.
MAX_HELD_BYTES = 64 * 1024 * 1024


class Session:
    """One registration of the worker."""

    def __init__(self, registered: Registered) -> None:
        self.id = registered.id
        self.heartbeat = max(0.1, registered.heartbeat_seconds)
        self.lost_after = registered.lost_after_seconds
        self.gone = False


class Run:
    """One execution of a job."""

    __slots__ = ("body", "born", "cancelled_at", "context", "handler", "job", "lost", "overdue", "session", "started_at")

    def __init__(self, session: Session, job: PulledJob, handler: Handler, born: int, news: News) -> None:
        self.session = session
        self.job = job
        self.handler = handler
        #: The number of the first list of runs that names it.
        self.born = born
        info = JobInfo(
            job.id,
            job.kind,
            job.queue,
            job.attempt,
            job.max_attempts,
            job.deadline_seconds,
            job.traceparent,
            job.previous_result,
            job.batch,
            job.ended_batch,
        )
        self.context = Context(info, lambda value: news.progress(self, value), lambda line: news.line(self, line))
        #: When the handler began; None while it waits for its thread or loop.
        self.started_at: float | None = None
        self.cancelled_at: float | None = None
        #: The outcome in JSON, once there is one.
        self.body: str | None = None
        self.lost = False
        #: It has an outcome because its deadline passed, and its handler has not returned.
        self.overdue = False

    def begin(self) -> None:
        """The handler begins: the deadline counts from here."""
        self.started_at = self.context._started_at = time.monotonic()

    def stop(self, reason: CancelReason) -> None:
        """Asks the handler to stop. The first reason counts."""
        if self.context.cancel_reason is None:
            self.context.cancel_reason = reason
            self.cancelled_at = time.monotonic()

    def seconds_left(self, now: float) -> float:
        """Until the deadline, from when the handler began."""
        return self.job.deadline_seconds - (0.0 if self.started_at is None else now - self.started_at)


class Listed(NamedTuple):
    """What a heartbeat says of one session."""

    session: Session
    version: int
    jobs: list[str]


@dataclass
class Runs:
    """The runs, by job and fence."""

    concurrency: int
    held_limit: int
    _table: dict[tuple[str, str], Run] = field(default_factory=dict)
    _held: dict[Run, None] = field(default_factory=dict)
    _version: int = 0
    _held_bytes: int = 0
    _overdue: int = 0

    def __post_init__(self) -> None:
        self._changed = asyncio.Event()

    @property
    def running(self) -> int:
        """Handlers at work whose outcome is still to come."""
        return len(self._table) - len(self._held)

    @property
    def held(self) -> int:
        """Outcomes that the server has not answered."""
        return len(self._held)

    @property
    def is_stuck(self) -> bool:
        """As many handlers as the worker may run go on after their deadlines."""
        return self._overdue >= self.concurrency

    @property
    def room(self) -> int:
        """How many more jobs the worker may have."""
        if self.held >= self.held_limit or self._held_bytes >= MAX_HELD_BYTES or self.is_stuck:
            return 0
        return max(0, self.concurrency - self.running)

    def add(self, run: Run) -> bool:
        """False: it is here already."""
        key = (run.job.id, run.job.fence)
        if key in self._table:
            return False
        self._table[key] = run
        return True

    def next_version(self) -> int:
        """The number of the list that will name the runs that are added now."""
        self._version += 1
        return self._version

    def end(self, run: Run, outcome: Outcome) -> None:
        """The run has an outcome, which is held from now on."""
        run.body = outcome.body(run.job.id, run.job.fence)
        self._held[run] = None
        self._held_bytes += len(run.body)
        self.note()

    def end_overdue(self, run: Run, outcome: Outcome) -> None:
        """The deadline has passed; the handler has not returned."""
        run.overdue = True
        self._overdue += 1
        self.end(run, outcome)

    def returned(self, run: Run) -> None:
        """The handler of an overdue run has returned after all."""
        run.overdue = False
        self._overdue -= 1
        self.note()

    def forget(self, run: Run) -> None:
        """Settled, or never to be reported."""
        if self._table.get((run.job.id, run.job.fence)) is run:
            del self._table[(run.job.id, run.job.fence)]
        if run in self._held:
            del self._held[run]
            self._held_bytes -= len(run.body or "")
        self.note()

    def have(self, session: Session) -> list[str]:
        """The jobs that a pull names. A lost one is not among them: if it comes again, under another fence, it is wanted."""
        return [run.job.id for run in self._table.values() if run.session is session and not run.lost]

    def listed(self, sessions: list[Session]) -> list[Listed]:
        """What the heartbeats say now."""
        return [Listed(session, self._version, self.have(session)) for session in sessions if not session.gone]

    def of(self, session: Session) -> list[Run]:
        return [run for run in self._table.values() if run.session is session]

    def named(self, session: Session, version: int, jobs: tuple[str, ...]) -> Iterator[Run]:
        """The runs at work that the list with this number named."""
        wanted = set(jobs)
        for run in list(self.at_work()):
            if run.session is session and run.born <= version and run.job.id in wanted:
                yield run

    def at_work(self) -> Iterator[Run]:
        """Runs without an outcome."""
        return (run for run in self._table.values() if run.body is None)

    def held_runs(self) -> list[Run]:
        """Runs whose outcomes are to be sent, oldest first."""
        return list(self._held)

    async def idle(self, seconds: float) -> None:
        """Waits until no handler is at work, for so many seconds at most."""
        ends_at = time.monotonic() + seconds
        while self.running and (left := ends_at - time.monotonic()) > 0:
            await asyncio.sleep(min(LOOK_SECONDS, left))

    async def changed(self) -> None:
        """Waits for the next end, or settlement."""
        self._changed.clear()
        await self._changed.wait()

    def note(self) -> None:
        """Something may have changed."""
        self._changed.set()
