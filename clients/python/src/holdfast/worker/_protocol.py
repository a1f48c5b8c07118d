"""One worker of the pull protocol, without what runs its jobs.

Puts the parts together that :mod:`holdfast.worker` describes: registrations, the table of runs, the pull, the outcomes and the
heartbeats. A subclass says what becomes of a pulled job: :class:`holdfast.worker._worker.Running` runs its handler,
:class:`holdfast.celery._lease.Lease` gives it to Celery's consumer. Everything here is used by the protocol loop alone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import Any, Literal

from .._calls import Instructions, PulledJob
from .._http import Endpoint
from ._api import Api
from ._lease import LoopLease, ProcessLease
from ._news import News
from ._puller import Puller
from ._runs import LINGER_SECONDS, Listed, Run, Runs, Session
from ._sender import Sender
from ._sessions import Identity, Sessions

log = logging.getLogger("holdfast.worker")


class Protocol(ABC):
    """The state of one worker, and the parts that make its calls."""

    def __init__(
        self,
        endpoint: Endpoint,
        api: Api,
        loop: asyncio.AbstractEventLoop,
        identity: Identity,
        runs: Runs,
        *,
        heartbeat: Literal["process", "loop"],
        kills: bool,
    ) -> None:
        self.loop = loop
        self.runs = runs
        self.news = News()
        self.sessions = Sessions(api, identity, runs)
        self.puller = Puller(api, self.sessions, runs, self.take, self.drain)
        self.sender = Sender(api, runs, self.news, self.heard, self._settled, self.linger)
        self.lease = ProcessLease(endpoint, api, self, kills=kills) if heartbeat == "process" else LoopLease(api, self)
        self._deleting: asyncio.Task[None] | None = None

    @abstractmethod
    def take(self, session: Session, jobs: list[PulledJob]) -> None:
        """Jobs were pulled: each is added to the table."""

    @abstractmethod
    def drain(self) -> None:
        """The server wants the worker to take no more jobs."""

    async def linger(self) -> None:
        """Collects outcomes before they are sent: other handlers may end meanwhile."""
        await self.runs.idle(LINGER_SECONDS)

    def cancelled(self, run: Run) -> None:
        """The job was cancelled while it ran."""
        run.stop("requested")

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self.loop.create_task(coroutine)

    def delete_finished(self) -> None:
        """Registrations that retire and have no runs are deleted."""
        if self.sessions.has_former and (self._deleting is None or self._deleting.done()):
            self._deleting = self.spawn(self.sessions.delete_finished())

    def _settled(self) -> None:
        """Outcomes were answered: a session that retires may be done."""
        self.delete_finished()

    # What heartbeats say and hear (`Source`)

    def listed(self) -> list[Listed]:
        return self.runs.listed(self.sessions.alive)

    def longest_seconds_left(self) -> float:
        now = time.monotonic()
        return max((run.seconds_left(now) for run in self.runs.at_work()), default=0.0)

    def session(self, id: str) -> Session | None:
        return self.sessions.by_id(id)

    def heard(self, session: Session, version: int, answer: Instructions | None) -> None:
        """The answer to a heartbeat that named the runs of list ``version``."""
        if answer is None:
            self.sessions.mark_gone(session)
            self.puller.interrupt()
            return
        for run in self.runs.named(session, version, answer.cancel):
            self.cancelled(run)
        for run in self.runs.named(session, version, answer.lost):
            log.warning("lease_lost: job %s (%s) was given to another worker while it ran", run.job.id, run.job.kind)
            run.lost = True
            run.stop("lost")
        if answer.drain:
            self.drain()
