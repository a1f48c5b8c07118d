"""Reports outcomes, progress and lines.

Outcomes are held until the server has answered them. One call is under way at a time, with as many outcomes as there are: the busier the
worker, the larger the batches. Progress and lines go first: the server takes them only while the job is leased.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from .. import _calls
from .._attempt import Outcome
from .._calls import Instructions
from ..errors import ApiError
from ._api import Api, Backoff, Failure, is_gone, may_pass
from ._news import News
from ._runs import Run, Runs, Session

log = logging.getLogger("holdfast.worker")

#: Outcomes of one call, and their bytes, at most. A server takes 1,000 and 16 MiB by default.
MAX_OUTCOMES = 500
MAX_BYTES = 4 * 1024 * 1024

#: How often progress and lines are sent, in seconds.
NEWS_SECONDS = 1.0

#: The longest pause between tries while the worker ends, in seconds.
HURRY_SECONDS = 0.5

Heard = Callable[[Session, int, "Instructions | None"], None]


class Sender:
    """Sends what handlers did and said."""

    def __init__(
        self, api: Api, runs: Runs, news: News, heard: Heard, settled: Callable[[], None], linger: Callable[[], Awaitable[None]]
    ) -> None:
        self._api = api
        self._runs = runs
        self._news = news
        self._heard = heard
        self._settled = settled
        self._linger = linger
        self._wake = asyncio.Event()
        self._hurry = asyncio.Event()
        self._backoff = Backoff()

    def wake(self) -> None:
        """There is an outcome."""
        self._wake.set()

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await self._work()
            if not self._news:
                await self._linger()
            try:
                await self._send_news()
                await self._send_outcomes()
                self._backoff.reset()
            except Failure as error:
                pause = self._backoff.pause(error)
                log.warning("%d outcomes are held, the next try is in %.1f s: %s", self._runs.held, pause, error)
                await self._rest(pause)

    async def flush(self, seconds: float) -> None:
        """Waits until everything is answered, for so many seconds at most, while ``run`` goes on, with short pauses."""
        self._hurry.set()
        self.wake()

        async def sent() -> None:
            while self._runs.held:
                await self._runs.changed()

        try:
            await asyncio.wait_for(sent(), seconds)
        except asyncio.TimeoutError:
            log.error("%d outcomes could not be sent: these jobs run again", self._runs.held)

    async def _rest(self, pause: float) -> None:
        """Between tries. The end of the worker makes it short."""
        try:
            await asyncio.wait_for(self._hurry.wait(), pause)
        except asyncio.TimeoutError:
            return
        await asyncio.sleep(min(pause, HURRY_SECONDS))

    async def _work(self) -> None:
        """Waits for an outcome, or for the time to send news."""
        while not self._runs.held:
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), NEWS_SECONDS if self._runs.running else None)
            except asyncio.TimeoutError:
                if self._news:
                    return

    async def _send_news(self) -> None:
        while self._news:
            progress, lines = self._news.take()
            sessions = {run.session for run, _ in [*progress, *lines] if not run.session.gone}
            try:
                for session in sessions:
                    await self._send_news_of(session, progress, lines)
            except Failure as error:
                if may_pass(error):
                    self._news.give_back(progress, lines)
                    raise
                log.error("the server refuses progress and lines, which are dropped: %s", error)

    async def _send_news_of(self, session: Session, progress: list[tuple[Run, str]], lines: list[tuple[Run, str]]) -> None:
        if session.gone:
            return
        (listed,) = self._runs.listed([session])
        known = set(listed.jobs)
        body = _calls.heartbeat_body(
            listed.jobs,
            {run.job.id: value for run, value in progress if run.session is session and run.job.id in known},
            [(run.job.id, line) for run, line in lines if run.session is session and run.job.id in known],
        )
        try:
            answer = await self._api.call(_calls.heartbeat(session.id, body))
        except Failure as error:
            if not is_gone(error):
                raise
            self._heard(session, listed.version, None)
        else:
            self._heard(session, listed.version, answer)

    async def _send_outcomes(self) -> None:
        """One batch of one session."""
        batch = self._batch()
        if batch:
            await self._finish(batch)
            self._settled()

    def _batch(self) -> list[Run]:
        batch: list[Run] = []
        size = 0
        for run in self._runs.held_runs():
            size += len(run.body or "")
            if batch and (run.session is not batch[0].session or size > MAX_BYTES or len(batch) == MAX_OUTCOMES):
                break
            batch.append(run)
        return batch

    async def _finish(self, batch: list[Run]) -> None:
        """Sends a batch. One that is refused is halved until the outcome that is at fault is alone."""
        call = _calls.finish(batch[0].session.id, [run.body or "" for run in batch])
        try:
            answers = await self._api.call(call)
        except ApiError as error:
            if may_pass(error):
                raise
            if len(batch) > 1 and not is_gone(error):
                middle = len(batch) // 2
                await self._finish(batch[:middle])
                await self._finish(batch[middle:])
            else:
                self._refused(batch, error)
            return
        for run, (status, reason) in zip(batch, answers):
            self._answered(run, status, reason)

    def _refused(self, batch: list[Run], error: ApiError) -> None:
        for run in batch:
            is_replacement = (run.body or "").endswith(_REPLACED)
            self._runs.forget(run)
            if is_replacement or is_gone(error):
                log.error("the outcome of job %s is dropped, the server refuses it: %s", run.job.id, error)
                continue
            log.error("the server refuses the outcome of job %s, which becomes a dead letter: %s", run.job.id, error)
            self._runs.add(run)
            self._runs.end(run, Outcome("discard", error=f"the server refused the outcome: {error.detail or error.title}{_MARK}"))

    def _answered(self, run: Run, status: str, reason: str | None) -> None:
        self._runs.forget(run)
        if status == "lease_lost":
            log.warning("lease_lost: the outcome of job %s (%s) is void, the job was given to another worker", run.job.id, run.job.kind)
        elif status == "unknown":
            log.warning("unknown: there is no job %s (%s) any more", run.job.id, run.job.kind)
        elif status != "stored":
            log.warning("the outcome of job %s (%s) was answered %r, which this client does not know", run.job.id, run.job.kind, status)
        if reason:
            log.error("the result of job %s (%s) is refused, and the job is a dead letter: %s", run.job.id, run.job.kind, reason)


#: Ends the error of an outcome that stands for a refused one.
_MARK = " (result refused)"
_REPLACED = f'{_MARK}"}}'
