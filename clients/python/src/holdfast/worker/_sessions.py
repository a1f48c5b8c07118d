"""Registrations of the worker: the current one, and those that end."""

from __future__ import annotations

import asyncio
import logging
import platform
from collections.abc import Sequence
from dataclasses import dataclass

from .. import _calls
from .._version import VERSION
from ..errors import ApiError
from ._api import Api, Backoff, Failure
from ._runs import Runs, Session

log = logging.getLogger("holdfast.worker")

#: How long the deletions of a worker that ends may take, in seconds.
DELETE_SECONDS = 3.0


@dataclass(frozen=True)
class Identity:
    """What the worker says of itself when it registers."""

    name: str
    queues: Sequence[str]
    #: None: every kind of the queues.
    kinds: Sequence[str] | None
    concurrency: int


class Sessions:
    """The worker's registrations."""

    def __init__(self, api: Api, identity: Identity, runs: Runs) -> None:
        self._api = api
        #: Counts for the next registration.
        self.identity = identity
        self._runs = runs
        self._all: list[Session] = []
        self.current: Session | None = None
        #: The newest id, also if it is gone.
        self.newest_id: str | None = None

    @property
    def alive(self) -> list[Session]:
        """Those that need heartbeats."""
        return [session for session in self._all if not session.gone]

    @property
    def has_former(self) -> bool:
        """There are others than the current one."""
        return len(self._all) > 1

    def by_id(self, id: str) -> Session | None:
        return next((session for session in self._all if session.id == id), None)

    async def register(self, *, is_first: bool) -> Session:
        """Registers, as often as it takes. What the first registration is refused for ends the worker: raises ApiError."""
        backoff = Backoff()
        while True:
            identity = self.identity
            try:
                session = await self._register_once()
                if self.identity is identity:
                    break
                # Its queues have changed while this was under way.
                self.retire(session)
            except Failure as error:
                if is_first and isinstance(error, ApiError) and not (error.is_transient or error.status >= 500):
                    raise
                pause = backoff.pause(error)
                log.warning("the worker could not register, and tries again in %.1f s: %s", pause, error)
                await asyncio.sleep(pause)
        log.info("registered as worker %s", session.id, extra={"worker": session.id})
        return session

    async def _register_once(self) -> Session:
        """A registration under way is not left behind when this is cancelled: it is awaited, and known."""
        identity = self.identity
        call = _calls.register(
            identity.name,
            identity.queues,
            identity.concurrency,
            identity.kinds,
            VERSION,
            f"python {platform.python_version()}",
        )
        registering = asyncio.ensure_future(self._api.call(call))
        try:
            registered = await asyncio.shield(registering)
        except asyncio.CancelledError:
            try:
                self._add(Session(await registering))
            except Failure:
                pass
            raise
        return self._add(Session(registered))

    def _add(self, session: Session) -> Session:
        self._all.append(session)
        self.current = session
        self.newest_id = session.id
        return session

    def mark_gone(self, session: Session) -> None:
        """The server does not know it any more: what it runs is void."""
        if session.gone:
            return
        session.gone = True
        if self.current is session:
            self.current = None
        void = [run for run in self._runs.of(session) if run.body is None]
        log.warning(
            "worker-not-found: worker %s was silent for too long, or was deleted; it registers again, and %d running jobs are void",
            session.id,
            len(void),
        )
        for run in self._runs.of(session):
            run.lost = True
            if run.body is None:
                run.stop("lost")

    def retire(self, session: Session) -> None:
        """Pull no more with it: the next pull registers anew."""
        if self.current is session:
            self.current = None

    async def delete_finished(self) -> None:
        """Deletes those that retire and have no runs."""
        for session in list(self._all):
            if session is not self.current and not self._runs.of(session):
                self._all.remove(session)
                await self._delete(session)

    async def delete_all(self) -> None:
        """What they hold goes back immediately."""
        sessions, self._all, self.current = self.alive, [], None
        if sessions:
            await asyncio.wait([asyncio.ensure_future(self._delete(session)) for session in sessions], timeout=DELETE_SECONDS)

    async def _delete(self, session: Session) -> None:
        if session.gone:
            return
        try:
            await self._api.call(_calls.delete_worker(session.id))
        except Failure as error:
            log.warning("worker %s could not be deleted; what it holds is rescued in %.0f s: %s", session.id, session.lost_after, error)
