"""Celery's events: collected, and sent by a thread.

A worker with ``-E`` makes three events for each task. They are for people who watch, so a task never waits for one, and none is kept
when it cannot be sent: what waits is bounded by MAX_WAITING, and the oldest are dropped.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections import deque
from itertools import groupby

from .._documents import MAX_ITEMS
from ..errors import HoldfastError
from ._calls import Calls

log = logging.getLogger("holdfast.celery")

#: Exchanges with this beginning are for events: Celery's default is `celeryev`.
EVENT_EXCHANGE = "celeryev"

#: Events that wait at most.
MAX_WAITING = 10_000

#: How long events are collected before they are sent, and the pause after a failure, in seconds.
LINGER_SECONDS = 0.02
PAUSE_SECONDS = 1.0

#: How long a process that ends waits for its last events, in seconds.
LAST_SECONDS = 1.0


class Poster:
    """The thread, which starts with the first event."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._pid = os.getpid()
        self._reset()

    def _reset(self) -> None:
        self._waiting: deque[tuple[str, str]] = deque(maxlen=MAX_WAITING)
        self._some = threading.Event()
        self._sent = threading.Event()
        self._thread: threading.Thread | None = None

    def post(self, channel: str, text: str) -> None:
        if self._pid != os.getpid():
            # The thread and what waited are the parent's.
            self._pid = os.getpid()
            self._reset()
        self._waiting.append((channel, text))
        self._sent.clear()
        self._some.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="holdfast-events", daemon=True)
            self._thread.start()
            atexit.register(self._flush)

    def _flush(self) -> None:
        if self._pid == os.getpid():
            self._sent.wait(LAST_SECONDS)

    def _work(self) -> None:
        failures = 0
        while True:
            self._some.wait()
            time.sleep(LINGER_SECONDS)
            self._some.clear()
            try:
                self._send()
                failures = 0
            except HoldfastError as error:
                if failures % 60 == 0:
                    log.warning("events cannot be sent, and are dropped: %s", error)
                failures += 1
                time.sleep(PAUSE_SECONDS)
            if not self._waiting:
                self._sent.set()

    def _send(self) -> None:
        batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_ITEMS))]
        if self._waiting:
            self._some.set()
        for channel, said in groupby(batch, key=lambda one: one[0]):
            self._calls.say(channel, [text for _, text in said])


_ALL: dict[Calls, Poster] = {}


def poster_to(calls: Calls) -> Poster:
    """The one of this process for a server."""
    return _ALL.get(calls) or _ALL.setdefault(calls, Poster(calls))
