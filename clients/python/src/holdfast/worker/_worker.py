"""The worker: puts the parts together, starts and stops them. What it promises is in :mod:`holdfast.worker`."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .._attempt import Outcome
from .._calls import PulledJob
from .._http import Endpoint
from ..errors import ConfigurationError
from ._api import Api
from ._protocol import Protocol
from ._runners import Inbox, Loop, Threads
from ._runs import Run, Runs, Session
from ._sessions import Identity

if TYPE_CHECKING:
    import httpx

    from ..app import App

log = logging.getLogger("holdfast.worker")

#: Handlers at the same time at most.
MAX_CONCURRENCY = 5_000

#: Seconds that handlers may go on after a stop; with FLUSH_SECONDS and the deletion it is below the 30 s of most process managers.
GRACE_SECONDS = 20.0

#: Seconds for handlers that see only now that they are to stop.
LAST_SECONDS = 0.5

#: Seconds for the outcomes that are held when a worker ends.
FLUSH_SECONDS = 5.0

#: Seconds that an async handler has to see `ctx.cancelled` before CancelledError is raised in it.
CANCEL_SECONDS = 5.0

#: How often deadlines are looked at, in seconds.
WATCH_SECONDS = 0.1

#: A job whose kind has no handler here is put back for this long, in seconds.
NO_HANDLER_SECONDS = 15.0

#: How long every place may be taken by a handler that goes on after its deadline, in seconds.
STUCK_SECONDS = 60.0

#: What ended a worker: the server's order, a call of `stop`, a signal, or handlers that do not return.
Reason = Literal["drain", "stop", "signal", "stuck"]


@dataclass(frozen=True)
class WorkerStats:
    """What a worker does now."""

    #: The newest id that the server gave it.
    worker_id: str | None
    #: Handlers at work.
    running: int
    #: Outcomes that the server has not answered.
    held: int
    #: From so many held outcomes on the worker pulls no more.
    held_limit: int


class Worker:
    """Runs the jobs of an :class:`~holdfast.App`.

    ``run`` blocks, and ends at SIGTERM; ``start`` and ``stop`` are for programs that do other things too. ``queues`` defaults to those
    of the app's kinds, ``name`` to the host's name and the process' id. ``heartbeat="loop"`` starts no process for heartbeats, see
    :mod:`holdfast.worker`. The key needs the scope ``work``.
    """

    def __init__(
        self,
        app: App,
        *,
        url: str | None = None,
        key: str | None = None,
        queues: Sequence[str] | None = None,
        concurrency: int = 16,
        name: str | None = None,
        grace_seconds: float = GRACE_SECONDS,
        held_limit: int = 1_000,
        heartbeat: Literal["process", "loop"] = "process",
        ca_file: str | None = None,
        kill_when_stuck: bool = False,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        if not 1 <= concurrency <= MAX_CONCURRENCY:
            raise ConfigurationError(f"concurrency must be 1 to {MAX_CONCURRENCY}, and not {concurrency}")
        if not 1 <= held_limit <= MAX_CONCURRENCY:
            raise ConfigurationError(f"held_limit must be 1 to {MAX_CONCURRENCY}, and not {held_limit}")
        if not app.kinds:
            raise ConfigurationError("the app has no handlers: decorate functions with @app.job(kind), in modules that are imported")
        self._endpoint = Endpoint.of(url or app._url, key or app._key, ca_file or app._ca_file)
        self._handlers = {kind.name: kind.handler for kind in app.kinds.values()}
        self._identity = Identity(
            name or f"{socket.gethostname()[:80]}-{os.getpid()}",
            tuple(queues or sorted({kind.queue for kind in app.kinds.values()})),
            tuple(self._handlers),
            concurrency,
        )
        self._grace = grace_seconds
        self._held_limit = held_limit
        self._heartbeat = "loop" if transport is not None or sys.platform == "win32" else heartbeat
        self._kills = kill_when_stuck
        self._transport = transport
        self._running: Running | None = None
        self._thread: threading.Thread | None = None
        self._is_stopped = False
        self._reason: Reason | None = None
        self._error: BaseException | None = None

    def __repr__(self) -> str:
        identity = self._identity
        return f"Worker({identity.name!r}, queues={list(identity.queues)}, url={self._endpoint.url!r})"

    @property
    def stats(self) -> WorkerStats:
        """What it does now. From any thread."""
        running = self._running
        if running is None:
            return WorkerStats(None, 0, 0, self._held_limit)
        return WorkerStats(running.sessions.newest_id, running.runs.running, running.runs.held, self._held_limit)

    def run(self, *, second_signal_ends: bool = True) -> Reason:
        """Works until SIGTERM, SIGINT, ``stop`` or an order of the server, and returns which it was. A second signal ends the
        process immediately, unless a supervisor sees to that. Call it in the main thread. Raises ApiError if the server refuses the
        registration.
        """
        return asyncio.run(self._main(None, "end" if second_signal_ends else "ignore"))

    async def serve(self) -> Reason:
        """``run`` for a program that has an event loop, without signals. Cancel it to stop; handlers run on a loop of their own."""
        return await self._main(None, None)

    def start(self) -> Worker:
        """Works in a thread. Returns once the worker is registered, and waits for that while the API is unavailable. Raises ApiError
        if the server refuses the registration.
        """
        if self._thread is not None:
            raise RuntimeError("the worker has been started")
        started = threading.Event()
        self._thread = threading.Thread(target=self._in_thread, args=(started,), name="holdfast-worker", daemon=True)
        self._thread.start()
        started.wait()
        if self._error is not None:
            raise self._error
        return self

    def stop(self, grace_seconds: float | None = None) -> None:
        """Stops pulling, waits for handlers as long as the grace allows, sends what is held, and hands the rest back. From any thread."""
        self._request("stop", grace_seconds)
        self.join()

    def join(self) -> Reason | None:
        """Waits for the end of a worker that was started. Returns what ended it."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        return self._reason

    def __enter__(self) -> Worker:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _in_thread(self, started: threading.Event) -> None:
        try:
            asyncio.run(self._main(started, None))
        except BaseException as error:
            self._error = error
            if started.is_set():
                log.exception("the worker has failed")
        finally:
            started.set()

    def _request(self, reason: Reason, grace: float | None) -> None:
        self._is_stopped = True
        running = self._running
        if running is not None:
            try:
                running.loop.call_soon_threadsafe(running.request_stop, reason, self._grace if grace is None else grace)
            except RuntimeError:
                # Its loop is closed: it has ended by itself.
                pass

    async def _main(self, started: threading.Event | None, second_signal: Literal["end", "ignore"] | None) -> Reason:
        """``second_signal`` None: signals are not handled."""
        loop = asyncio.get_running_loop()
        api = Api(self._endpoint, self._transport)
        running = self._running = Running(self, api, loop)
        if self._is_stopped:
            running.request_stop("stop", self._grace)
        restore = None
        if second_signal is not None:
            stop = functools.partial(running.request_stop, "signal", self._grace)
            restore = _on_signals(loop, stop, ends=second_signal == "end")
        try:
            self._reason = await running.serve(started.set if started is not None else lambda: None)
            return self._reason
        finally:
            if restore is not None:
                restore()
            await api.close()


class Running(Protocol):
    """A worker at work: everything that belongs to one run of the protocol loop."""

    def __init__(self, worker: Worker, api: Api, loop: asyncio.AbstractEventLoop) -> None:
        identity = worker._identity
        runs = Runs(identity.concurrency, worker._held_limit)
        super().__init__(worker._endpoint, api, loop, identity, runs, heartbeat=worker._heartbeat, kills=worker._kills)
        self._handlers = worker._handlers
        self._inbox = Inbox(loop, self._ended)
        self._threads = Threads(self._inbox.put)
        self._async = Loop(self._inbox.put)
        self._stopping = asyncio.Event()
        self._reason: Reason = "stop"
        self._grace: float | None = 0.0
        self._kills = worker._kills
        self._stuck_at: float | None = None

    def request_stop(self, reason: Reason, grace: float | None) -> None:
        """``grace`` None: handlers may go on until their deadlines. The first reason is kept; a shorter grace counts."""
        if not self._stopping.is_set():
            self._reason, self._grace = reason, grace
            log.info("the worker stops (%s): %d handlers are at work", reason, self.runs.running)
        elif self._grace is None or (grace is not None and grace < self._grace):
            self._grace = grace
        self._stopping.set()

    async def serve(self, started: Callable[[], None]) -> Reason:
        """From the registration to the deletion."""
        stop = asyncio.ensure_future(self._stopping.wait())
        tasks: list[asyncio.Task[None]] = []
        try:
            registering = asyncio.ensure_future(self.sessions.register(is_first=True))
            await asyncio.wait([registering, stop], return_when=asyncio.FIRST_COMPLETED)
            if registering.done():
                registering.result()
                started()
                pulling = self.spawn(self.puller.run())
                tasks = [pulling, *map(self.spawn, (self.sender.run(), self.lease.run(), self._watch()))]
                await self._until_stopped(stop, tasks)
                pulling.cancel()
                await asyncio.wait([pulling])
                await self._drain()
            else:
                registering.cancel()
                await asyncio.wait([registering])
            return self._reason
        finally:
            stop.cancel()
            await self._leave(tasks)

    async def _until_stopped(self, stop: asyncio.Future[Any], tasks: list[asyncio.Task[None]]) -> None:
        done, _ = await asyncio.wait([stop, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in done - {stop}:
            task.result()

    async def _drain(self) -> None:
        """Handlers end, or are asked to; then what is held is sent."""
        await self._idle(lambda: self._grace)
        left = list(self.runs.at_work())
        if left:
            log.warning("%d handlers are still at work: their jobs are handed back", len(left))
            for run in left:
                run.stop("shutdown")
                if run.handler.is_async:
                    self._async.cancel(run)
            await self._idle(lambda: LAST_SECONDS)
        await self.sender.flush(FLUSH_SECONDS)

    async def _idle(self, grace: Callable[[], float | None]) -> None:
        """Waits until no handler is at work, or the grace (which may become shorter) is over."""
        began = time.monotonic()
        while self.runs.running and ((seconds := grace()) is None or time.monotonic() - began < seconds):
            try:
                await asyncio.wait_for(self.runs.changed(), WATCH_SECONDS)
            except asyncio.TimeoutError:
                pass

    async def _leave(self, tasks: list[asyncio.Task[None]]) -> None:
        """Heartbeats go on until the sessions are deleted."""
        await self.sessions.delete_all()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._threads.close()
        self._async.close()

    # Jobs come and go

    def take(self, session: Session, jobs: list[PulledJob]) -> None:
        """Pulled jobs are added to the table, and given to their handlers."""
        if not jobs:
            return
        born = self.runs.next_version()
        for_loop: list[Run] = []
        for job in jobs:
            handler = self._handlers.get(job.kind)
            run = Run(session, job, handler or _NO_HANDLER, born, self.news)
            if not self.runs.add(run):
                continue
            if handler is None:
                log.warning("job %s has the kind %r, which has no handler here: it is put back", job.id, job.kind)
                self.runs.end(run, Outcome("snooze", retry_after=NO_HANDLER_SECONDS))
                self.sender.wake()
            elif handler.is_async:
                for_loop.append(run)
            else:
                self._threads.submit(run)
        if for_loop:
            self._async.submit(for_loop)

    def _ended(self, run: Run, outcome: Outcome) -> None:
        """A handler has returned."""
        if not run.handler.is_async:
            self._threads.returned()
        if run.overdue:
            self.runs.returned(run)
        elif run.body is None:
            if outcome.verb == "cancelled" and run.context.cancel_reason in ("lost", "shutdown"):
                # The job is another's, or goes back: there is nothing to report.
                self.runs.forget(run)
            else:
                self.runs.end(run, outcome)
                self.sender.wake()

    def drain(self) -> None:
        self.request_stop("drain", None)

    async def _watch(self) -> None:
        """Deadlines, and cancellations that async handlers did not see."""
        while True:
            await asyncio.sleep(WATCH_SECONDS if self.runs.running else WATCH_SECONDS * 5)
            now = time.monotonic()
            self._watch_stuck(now)
            for run in list(self.runs.at_work()):
                if run.seconds_left(now) <= 0:
                    self._time_out(run)
                elif run.cancelled_at is not None and run.handler.is_async and now - run.cancelled_at > CANCEL_SECONDS:
                    self._async.cancel(run)

    def _watch_stuck(self, now: float) -> None:
        """A worker that can run nothing any more says so, and one of the command line ends, to be started again."""
        if not self.runs.is_stuck:
            self._stuck_at = None
        elif self._stuck_at is None:
            self._stuck_at = now
            log.error("every handler goes on after its deadline: nothing is pulled until one returns")
        elif self._kills and now - self._stuck_at > STUCK_SECONDS:
            self.request_stop("stuck", 0.0)

    def _time_out(self, run: Run) -> None:
        seconds = run.job.deadline_seconds
        log.warning("job %s (%s) timed out after %g s", run.job.id, run.job.kind, seconds)
        run.stop("timeout")
        if run.handler.is_async:
            self._async.cancel(run)
        self.runs.end_overdue(run, Outcome("failed", error=f"timed out after {seconds:g} s"))
        self.sender.wake()


class _NoHandler:
    is_async = True


_NO_HANDLER: Any = _NoHandler()


def _on_signals(loop: asyncio.AbstractEventLoop, stop: Callable[[], None], *, ends: bool) -> Callable[[], None]:
    """The first signal stops, a second one ends the process if ``ends``. Returns what restores the handlers."""
    count = 0

    def handle(number: int, _frame: object) -> None:
        nonlocal count
        count += 1
        if count > 1 and ends:
            os._exit(128 + number)
        # It also wakes the loop, by the pipe that it waits for.
        loop.call_soon_threadsafe(stop)

    before = {one: signal.signal(one, handle) for one in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for one, handler in before.items():
            signal.signal(one, handler)

    return restore
