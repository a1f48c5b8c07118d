"""What a consuming connection receives: jobs under a lease, and messages of channels.

Parts
    A :class:`Link` belongs to one connection of kombu. The event loop of a thread, the *protocol loop* of the process, runs its
    :class:`Lease` (the pull protocol of :mod:`holdfast.worker`, with Celery's consumer in the place of handlers) and its :class:`Reader`
    (channels). What arrives is put into the :class:`Inbox`, from which the thread of kombu's consumer takes it. What the consumer says of
    a message (acknowledged, rejected, put back) goes the other way.

States
    Of a job here: *unsettled* (given to the consumer) → *held* (acknowledged or rejected; the outcome is being sent) → forgotten.
    Acknowledged is ``completed``, rejected is ``discard`` (a dead letter), rejected with requeue is ``snooze`` for 0 s.

Invariants
    - As many jobs are unsettled as the prefetch count allows; what is held, or read ahead for a moment (:class:`Deliveries`), does not
      count.
    - A job is settled once: a second word on the same delivery tag is ignored.
    - The lease of every unsettled job is renewed by the heartbeat process, whatever the consumer's thread does. It ends
      SILENCE_SECONDS after the whole process has stopped to speak.

When things fail
    - *The API is unavailable*: nothing is raised in the consumer. Pulls are repeated, outcomes are held and sent later.
    - *The lease is lost* (the process was suspended, or cut off for longer than a lease): ``lease_lost`` is logged, the job is given to
      another worker, and what this one says of it is answered ``lease_lost``.
    - *The worker is killed*: the heartbeat process sees that its parent is gone, and the server gives the jobs to others.
    - *The connection is closed*: outcomes are sent for FLUSH_SECONDS at most, and the registration is deleted: what is unsettled goes
      back at once, and counts no crash.
    - *The process forks*: the child has no thread of this, and leaves it alone.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import logging
import os
import socket
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

from .. import _calls, _documents
from .._attempt import Outcome
from .._calls import PulledJob
from .._http import Endpoint
from ..errors import ApiError, ConnectionFailed
from ..worker._api import Api, Backoff, Failure
from ..worker._protocol import Protocol
from ..worker._puller import MAX_PULL
from ..worker._runs import Run, Runs, Session
from ..worker._sessions import Identity
from ._message import Message, message_of

log = logging.getLogger("holdfast.celery")

#: Jobs of one connection at most, and those of a consumer that sets no prefetch count.
MAX_UNSETTLED = 5_000
UNLIMITED = 1_000

#: How long the process may say nothing before its jobs are given to others; 30 s more are allowed by the heartbeat process itself.
SILENCE_SECONDS = 30.0

#: Seconds for the outcomes that are held when a connection is closed, and for the rest of its end.
FLUSH_SECONDS = 5.0
END_SECONDS = 10.0

#: How long acknowledgements are collected before they are sent, in seconds. No task and no producer waits for one, but each is a commit, and
#: that of the task's result would wait for it.
SETTLE_SECONDS = 0.01

#: Outcomes that are held at most before pulling stops.
HELD_LIMIT = 5_000

#: Longest wait of one read of channels, in seconds.
LISTEN_SECONDS = 20.0

#: How often a consumer that decides by itself how much it takes is asked, in seconds.
ASK_SECONDS = 0.05

#: Of short tasks as many are read ahead as take so long, in seconds, and none is kept for longer than KEEP_SECONDS.
AHEAD_SECONDS = 0.1
KEEP_SECONDS = 1.0

#: Jobs that were put back here and are remembered, so that they are marked as redelivered.
MAX_REMEMBERED = 10_000


class Inbox:
    """What waits for the consumer's thread."""

    def __init__(self) -> None:
        self._items: deque[tuple[str, Message]] = deque()
        self._arrived = threading.Condition()
        self._bell: Callable[[], None] | None = None

    def put(self, queue: str, message: Message) -> None:
        """From any thread."""
        with self._arrived:
            self._items.append((queue, message))
            self._arrived.notify()
        bell = self._bell
        if bell is not None:
            bell()

    def get(self, timeout: float | None) -> tuple[str, Message] | None:
        """The next one. None: there was none in time."""
        with self._arrived:
            if not self._items and timeout != 0:
                self._arrived.wait_for(lambda: bool(self._items), timeout)
            return self._items.popleft() if self._items else None

    def on_arrival(self, bell: Callable[[], None] | None) -> None:
        """Called after each put, from the putting thread."""
        self._bell = bell

    def __len__(self) -> int:
        return len(self._items)


class Deliveries(Runs):
    """The jobs of a connection: those that the consumer has, and a few that are read ahead.

    ``concurrency`` is the prefetch count. Of short tasks as many more are read ahead as were settled in the last AHEAD_SECONDS, so that one
    call brings many. None is kept for longer than KEEP_SECONDS: the tasks that are at work are long then, and others may be idle.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        #: Celery's `worker_disable_prefetch` decides by what its pool does.
        self.may_take: Callable[[], bool] = lambda: True
        self.ahead = 0
        self._settled = 0
        self._since = time.monotonic()

    @property
    def room(self) -> int:
        if self.concurrency <= 0 or not self.may_take():
            return 0
        if super().room == 0 and (self.held >= self.held_limit or self.running < self.concurrency):
            return 0
        return max(0, min(self.concurrency + self.ahead, MAX_UNSETTLED) - self.running)

    def settled(self) -> None:
        """The consumer is done with a job."""
        self._settled += 1
        now = time.monotonic()
        if now - self._since >= AHEAD_SECONDS:
            self.ahead = int(self._settled * AHEAD_SECONDS / (now - self._since))
            self._settled, self._since = 0, now

    async def changed(self) -> None:
        try:
            await asyncio.wait_for(super().changed(), ASK_SECONDS if self.running < self.concurrency else None)
        except asyncio.TimeoutError:
            pass


class Lease(Protocol):
    """The jobs of the queues that the connection consumes."""

    def __init__(self, link: Link, api: Api, loop: asyncio.AbstractEventLoop) -> None:
        name = f"celery-{socket.gethostname()[:70]}-{os.getpid()}"
        identity = Identity(name, (), None, 1)
        self.deliveries = Deliveries(0, HELD_LIMIT)
        super().__init__(link.endpoint, api, loop, identity, self.deliveries, heartbeat=link.heartbeat, kills=False)
        self._link = link
        self._api = api
        self._queues: dict[str, str] = {}
        self._recovering: set[asyncio.Task[None]] = set()
        self._unsettled: dict[str, Run] = {}
        self._ahead: deque[tuple[float, Run]] = deque()
        self._put_back: OrderedDict[str, None] = OrderedDict()
        self._tasks: list[asyncio.Task[None]] = []
        self._is_draining = False

    # The consumer's side, on the protocol loop

    def serve(self, queues: dict[str, str], prefetch: int, may_take: Callable[[], bool]) -> None:
        """The queues to take jobs from, by their name on the server, and how many at once."""
        runs = self.deliveries
        runs.may_take = may_take
        asked = max(1, min(runs.room, MAX_PULL))
        runs.concurrency = min(prefetch, MAX_UNSETTLED) if queues and not self._is_draining else 0
        has_changed = tuple(queues) != tuple(self._queues)
        self._queues = queues
        if has_changed:
            self._change(asked)
        self._give()
        runs.note()
        if queues and not self._tasks:
            self._tasks = [*map(self.spawn, (self.puller.run(), self.sender.run(), self.lease.run(), self._keep()))]
            for task in self._tasks:
                task.add_done_callback(_ended)

    def _change(self, asked: int) -> None:
        """Another registration, for the queues of now; none, if there are none."""
        former = self.sessions.current
        if self._queues:
            self.sessions.identity = Identity(self.sessions.identity.name, tuple(self._queues), None, max(1, self.runs.concurrency))
        if former is not None:
            self.sessions.retire(former)
            self.puller.interrupt()
            self._recovering.add(recovering := self.spawn(self._recover(former, asked)))
            recovering.add_done_callback(self._recovering.discard)

    async def _recover(self, former: Session, asked: int) -> None:
        """What the pull that was given up had claimed is leased to the former registration: its next pull gives it."""
        try:
            pulled = await self._api.call(_calls.pull(former.id, asked, 0.0, self.runs.have(former)))
        except Failure as error:
            log.info("registration %s is given up: %s", former.id, error)
        else:
            self.take(former, pulled.jobs)
        self.delete_finished()

    def settle(self, tag: str, outcome: Outcome) -> None:
        """The consumer's word on a message."""
        run = self._unsettled.pop(tag, None)
        if run is None:
            return
        self.deliveries.settled()
        if outcome.verb == "snooze":
            self._put_back[run.job.id] = None
            if len(self._put_back) > MAX_REMEMBERED:
                self._put_back.popitem(last=False)
        if run.lost and run.session.gone:
            self.runs.forget(run)
            log.warning("lease_lost: job %s had been given to another worker when this one was done with it", run.job.id)
            return
        self._end(run, outcome)
        self._give()

    async def end(self) -> None:
        """Outcomes are sent, and the rest goes back."""
        if not self._tasks:
            return
        self.runs.concurrency = 0
        self._ahead.clear()
        if self._recovering:
            await asyncio.wait(self._recovering, timeout=FLUSH_SECONDS)
        self._tasks[0].cancel()
        await asyncio.wait([self._tasks[0]])
        if self.runs.held:
            await self.sender.flush(FLUSH_SECONDS)
        await self.sessions.delete_all()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # The protocol's side

    def take(self, session: Session, jobs: list[PulledJob]) -> None:
        born = self.runs.next_version()
        for job in jobs:
            run = Run(session, job, _NO_HANDLER, born, self.news)
            if self.runs.add(run):
                self._ahead.append((time.monotonic(), run))
        self._give()

    def _give(self) -> None:
        """To the consumer, as far as its prefetch count allows. What it does not want any more goes back."""
        while self._ahead and (len(self._unsettled) < self.runs.concurrency or self.runs.concurrency == 0):
            self._deliver(self._ahead.popleft()[1])

    async def _keep(self) -> None:
        """What was read ahead and is not taken goes back: others may be idle."""
        while True:
            await asyncio.sleep(KEEP_SECONDS / 2)
            now = time.monotonic()
            while self._ahead and now - self._ahead[0][0] > KEEP_SECONDS:
                self.deliveries.ahead = 0
                self._end(self._ahead.popleft()[1], Outcome("snooze", retry_after=0.0))

    def _deliver(self, run: Run) -> None:
        job = run.job
        if run.lost:
            # It was read ahead, and is another's by now.
            self.runs.forget(run)
            return
        queue = self._queues.get(job.queue)
        if queue is None or self.runs.concurrency == 0:
            # The consumer was cancelled while the pull was under way.
            self._end(run, Outcome("snooze", retry_after=0.0))
            return
        message = message_of(job, job.fence != FIRST_FENCE or job.id in self._put_back)
        if message is None:
            log.error("job %s (%s) is no message of kombu, and becomes a dead letter", job.id, job.kind)
            self._end(run, Outcome("discard", error="the payload is no message of kombu: it has no body, or no properties"))
            return
        self._unsettled[message["properties"]["delivery_tag"]] = run
        self._link.inbox.put(queue, message)

    def _end(self, run: Run, outcome: Outcome) -> None:
        self.runs.end(run, outcome)
        self.sender.wake()

    def drain(self) -> None:
        if not self._is_draining:
            from celery.worker import state

            self._is_draining = True
            log.warning("the server drains this worker: it takes no more tasks, and shuts down when those that it has are done")
            self.runs.concurrency = 0
            # A worker of Celery looks at this in its loop: a warm shutdown.
            state.should_stop = 0

    def cancelled(self, run: Run) -> None:
        """The job was cancelled on the server: as if its task had been revoked here."""
        super().cancelled(run)
        headers = run.job.payload.get("headers") if isinstance(run.job.payload, dict) else None
        task = headers.get("id") if isinstance(headers, dict) else None
        if task:
            from celery.worker import state

            log.warning("job %s (task %s) was cancelled: it is revoked here", run.job.id, task)
            state.revoked.add(task)

    async def linger(self) -> None:
        await asyncio.sleep(SETTLE_SECONDS)

    def longest_seconds_left(self) -> float:
        """Tasks have no deadline here: a process that says nothing for so long does not live."""
        return SILENCE_SECONDS


#: The fence of a job that no worker has had.
FIRST_FENCE = "0.0"

_NO_HANDLER: Any = None


class Reader:
    """The messages of channels, in their order."""

    def __init__(self, link: Link, api: Api, loop: asyncio.AbstractEventLoop) -> None:
        self._link = link
        self._api = api
        self._loop = loop
        self._after: dict[str, int] = {}
        self._task: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[dict[str, _documents.News]] | None = None
        self._changed = asyncio.Event()

    def listen(self, positions: dict[str, int]) -> None:
        """The channels to read, each from its position on; a channel that is read already goes on."""
        wanted = {name: self._after.get(name, after) for name, after in positions.items()}
        if wanted.keys() == self._after.keys():
            return
        self._after = wanted
        self._changed.set()
        if self._listening is not None:
            self._listening.cancel()
        if self._task is None:
            self._task = self._loop.create_task(self._run())
            self._task.add_done_callback(_ended)

    async def end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        backoff = Backoff()
        while True:
            if not self._after:
                self._changed.clear()
                await self._changed.wait()
                continue
            try:
                news = await self._listen()
                backoff.reset()
            except Failure as error:
                pause = backoff.pause(error)
                if backoff.failures % 10 == 1:
                    log.warning("channels cannot be read, the next try is in %.1f s: %s", pause, error)
                await asyncio.sleep(pause)
                continue
            for channel, one in news.items():
                self._heard(channel, one)

    async def _listen(self) -> dict[str, _documents.News]:
        """Nothing: it was interrupted."""
        self._listening = asyncio.ensure_future(self._api.call(_documents.listen(self._after, LISTEN_SECONDS)))
        try:
            await asyncio.wait([self._listening])
            return {} if self._listening.cancelled() else self._listening.result()
        finally:
            self._listening.cancel()
            self._listening = None

    def _heard(self, channel: str, news: _documents.News) -> None:
        if channel not in self._after:
            return
        if news.missed:
            log.warning("messages of the channel %s have expired before they were read", channel)
        self._after[channel] = news.last
        for text in news.messages:
            try:
                said = json.loads(text)
                key, message = str(said["key"]), said["message"]
            except (ValueError, KeyError, TypeError):
                log.warning("a message of the channel %s is not one of kombu's, and is ignored", channel)
                continue
            self._link.said(channel, key, message)


def _ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.critical("a part of the connection to the server has failed", exc_info=task.exception())


#: The name of the thread of the protocol loop.
THREAD = "holdfast-celery"


class Loop:
    """The event loop of this process' links, in a thread of its own. With gevent and eventlet, where threads are greenlets, there can only
    be one."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.loop = asyncio.new_event_loop()
        self._started = threading.Event()
        threading.Thread(target=self._work, name=THREAD, daemon=True).start()
        self._started.wait()

    def _work(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.call_soon(self._started.set)
        self.loop.run_forever()


_LOOP: list[Loop] = []
_LOOP_LOCK = threading.Lock()


def loop_of_process() -> asyncio.AbstractEventLoop:
    """Starts it if there is none. A forked process has none: its parent's thread is not in it."""
    with _LOOP_LOCK:
        if not _LOOP or _LOOP[-1].pid != os.getpid():
            _LOOP[:] = [Loop()]
        return _LOOP[-1].loop


if hasattr(os, "register_at_fork"):
    # A fork while the lock is held would leave it locked in the child.
    os.register_at_fork(before=_LOOP_LOCK.acquire, after_in_parent=_LOOP_LOCK.release, after_in_child=_LOOP_LOCK.release)


class Link:
    """What a consuming connection has on the protocol loop. It starts with the first consumer."""

    def __init__(self, endpoint: Endpoint, said: Callable[[str, str, Message], None], *, heartbeat: str = "process") -> None:
        self.endpoint = endpoint
        self.inbox = Inbox()
        self.said = said
        self.heartbeat: Any = heartbeat
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop
        self._main_task: Future[None] | None = None
        self._parts: tuple[Lease, Reader]
        self._ending: asyncio.Event

    @property
    def is_running(self) -> bool:
        return self._main_task is not None and self._pid == os.getpid()

    def serve(self, queues: dict[str, str], prefetch: int, may_take: Callable[[], bool]) -> None:
        """The job queues to consume (by their name on the server) and how many jobs may be unsettled."""
        if queues or self.is_running:
            self._call(lambda: self._parts[0].serve(queues, prefetch, may_take))

    def listen(self, positions: dict[str, int]) -> None:
        """The channels to read."""
        if positions or self.is_running:
            self._call(lambda: self._parts[1].listen(positions))

    def settle(self, tag: str, outcome: Outcome) -> None:
        """The consumer's word on a message. From any thread."""
        if self.is_running:
            self._call(lambda: self._parts[0].settle(tag, outcome))

    def close(self) -> None:
        """Blocks until what is held was sent, or cannot be."""
        if not self.is_running or self._main_task is None:
            return
        main, self._main_task = self._main_task, None
        atexit.unregister(self.close)
        self._loop.call_soon_threadsafe(self._ending.set)
        try:
            main.result(END_SECONDS)
        except (TimeoutError, FutureTimeout):
            log.warning("the connection to the server could not be ended in time")

    def _call(self, function: Callable[[], None]) -> None:
        if not self.is_running:
            self._start()
        self._loop.call_soon_threadsafe(function)

    def _start(self) -> None:
        self._pid = os.getpid()
        self._loop = loop_of_process()
        started = threading.Event()
        self._main_task = asyncio.run_coroutine_threadsafe(self._main(started), self._loop)
        started.wait()
        # A process that ends without closing its connections gives back what it has nevertheless.
        atexit.register(self.close)

    async def _main(self, started: threading.Event) -> None:
        api = Api(self.endpoint, None)
        lease, reader = self._parts = Lease(self, api, self._loop), Reader(self, api, self._loop)
        self._ending = asyncio.Event()
        started.set()
        await self._ending.wait()
        try:
            await reader.end()
            await lease.end()
        except (ApiError, ConnectionFailed) as error:
            log.warning("what this connection held is given to others later: %s", error)
        finally:
            await api.close()
