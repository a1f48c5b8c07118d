"""Where handlers run: plain functions in threads, async functions on a loop of their own. Neither is the protocol loop's thread."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence

from .._attempt import Outcome
from ._runs import Run

log = logging.getLogger("holdfast.worker")

Ended = Callable[[Run, Outcome], None]


class Inbox:
    """What other threads tell the protocol loop. Many notices cost one wake-up."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ended: Ended) -> None:
        self._loop = loop
        self._ended = ended
        self._items: deque[tuple[Run, Outcome]] = deque()
        self._is_scheduled = False

    def put(self, run: Run, outcome: Outcome) -> None:
        """From any thread."""
        self._items.append((run, outcome))
        if not self._is_scheduled:
            self._is_scheduled = True
            try:
                self._loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:
                log.debug("a handler ended after its worker")

    def _deliver(self) -> None:
        self._is_scheduled = False
        while self._items:
            self._ended(*self._items.popleft())


class Threads:
    """Threads for plain functions: as many as have been needed at once. They end with the process."""

    def __init__(self, ended: Ended) -> None:
        self._ended = ended
        self._queue: queue.SimpleQueue[Run | None] = queue.SimpleQueue()
        self._threads = 0
        self._busy = 0

    def submit(self, run: Run) -> None:
        self._busy += 1
        if self._busy > self._threads:
            self._threads += 1
            threading.Thread(target=self._work, name=f"holdfast-handler-{self._threads}", daemon=True).start()
        self._queue.put(run)

    def returned(self) -> None:
        """One handler has returned."""
        self._busy -= 1

    def close(self) -> None:
        for _ in range(self._threads):
            self._queue.put(None)

    def _work(self) -> None:
        while (run := self._queue.get()) is not None:
            run.begin()
            self._ended(run, run.handler.run(run.context, run.job.payload))


class Loop:
    """An event loop for async functions, in a thread of its own. It starts with the first one."""

    def __init__(self, ended: Ended) -> None:
        self._ended = ended
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: dict[Run, asyncio.Task[None]] = {}

    def submit(self, runs: Sequence[Run]) -> None:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._work, args=(self._loop,), name="holdfast-loop", daemon=True).start()
        self._loop.call_soon_threadsafe(self._start, runs)

    def cancel(self, run: Run) -> None:
        """Raises CancelledError in the handler, at its next await."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._cancel, run)

    def close(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            # Tasks that are left are handlers that ignored their cancellation: they are not awaited.
            asyncio.set_event_loop(None)

    def _start(self, runs: Sequence[Run]) -> None:
        loop = asyncio.get_running_loop()
        for run in runs:
            self._tasks[run] = loop.create_task(self._run(run))

    def _cancel(self, run: Run) -> None:
        task = self._tasks.get(run)
        if task is not None:
            task.cancel()

    async def _run(self, run: Run) -> None:
        run.begin()
        outcome = await run.handler.run_async(run.context, run.job.payload)
        del self._tasks[run]
        self._ended(run, outcome)
