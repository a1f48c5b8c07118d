"""Pulls jobs while there is room for them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from .. import _calls
from .._calls import Pulled, PulledJob
from ..errors import ApiError, ConnectionFailed
from ._api import Api, Backoff, Failure, is_gone, is_transient
from ._runs import LINGER_SECONDS, Runs, Session
from ._sessions import Sessions

log = logging.getLogger("holdfast.worker")

#: Most jobs of one pull, and how long it waits for the first one, in seconds.
MAX_PULL = 500
WAIT_SECONDS = 20.0

#: Pause after a refusal that time alone does not mend, such as a revoked key, in seconds.
REFUSED_SECONDS = 10.0


class Puller:
    """One pull after the other."""

    def __init__(
        self,
        api: Api,
        sessions: Sessions,
        runs: Runs,
        take: Callable[[Session, list[PulledJob]], None],
        drain: Callable[[], None],
    ) -> None:
        self._api = api
        self._sessions = sessions
        self._runs = runs
        self._take = take
        self._drain = drain
        self._pulling: asyncio.Task[Pulled] | None = None
        self._backoff = Backoff()

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            while self._runs.room == 0:
                await self._runs.changed()
            session = self._sessions.current or await self._sessions.register(is_first=False)
            try:
                pulled = await self._pull(session)
            except Failure as error:
                await self._failed(session, error)
                continue
            self._backoff.reset()
            if pulled is not None:
                await self._accept(session, pulled)

    def interrupt(self) -> None:
        """Gives up the pull that waits: its session is gone."""
        if self._pulling is not None:
            self._pulling.cancel()

    async def _pull(self, session: Session) -> Pulled | None:
        """None: it was interrupted."""
        call = _calls.pull(session.id, min(self._runs.room, MAX_PULL), WAIT_SECONDS, self._runs.have(session))
        self._pulling = asyncio.ensure_future(self._api.call(call))
        try:
            await asyncio.wait([self._pulling])
            return None if self._pulling.cancelled() else self._pulling.result()
        finally:
            self._pulling.cancel()
            self._pulling = None

    async def _accept(self, session: Session, pulled: Pulled) -> None:
        if pulled.register_again:
            log.info("worker %s has had its share of jobs, and registers again", session.id)
            self._sessions.retire(session)
        self._take(session, pulled.jobs)
        if pulled.drain:
            self._drain()
        if pulled.jobs:
            # The next pull asks for more.
            await self._runs.idle(LINGER_SECONDS)

    async def _failed(self, session: Session, error: ApiError | ConnectionFailed) -> None:
        if is_gone(error):
            self._sessions.mark_gone(session)
            return
        pause = self._backoff.pause(error)
        if is_transient(error):
            log.warning("no jobs can be pulled, the next try is in %.1f s: %s", pause, error)
        else:
            pause = max(pause, REFUSED_SECONDS)
            log.error("the server refuses to give jobs, the next try is in %.1f s: %s", pause, error)
        await asyncio.sleep(pause)
