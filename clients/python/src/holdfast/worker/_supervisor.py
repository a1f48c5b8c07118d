"""``--processes N``: N workers, each a new interpreter.

Nothing is forked: a new process has no threads, locks or connections of another. A worker that dies is started again, after a pause that
grows while it keeps dying. One that ends with code 0 was drained by the server, and one with code 2 cannot work as it is configured:
neither is started again. The first signal is passed on and the workers drain; the second kills them. A process manager may send the first
one to the workers too, so a worker of a supervisor does not take a second SIGTERM for more than the first.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

log = logging.getLogger("holdfast.supervisor")

#: In the environment of a worker: the supervisor's process id.
PARENT = "HOLDFAST_SUPERVISOR"

#: How often workers are looked at, in seconds.
LOOK_SECONDS = 0.2

#: First and longest pause before a worker is started again, and how long one must have lived to begin anew, in seconds.
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
STEADY_SECONDS = 60.0

#: The exit code of what no restart mends.
CONFIGURATION = 2


class Child:
    """One place for a worker process."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._command = [sys.executable, "-m", "holdfast", *arguments]
        self._failures = 0
        self._due = 0.0
        self._started_at = 0.0
        self._told = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.code: int | None = None

    def start_if_due(self) -> None:
        if self.process is None and self.code is None and time.monotonic() >= self._due:
            self._started_at = time.monotonic()
            # In a session of its own: Ctrl-C in a terminal is for the supervisor.
            environment = {**os.environ, PARENT: str(os.getpid())}
            self.process = subprocess.Popen(self._command, env=environment, start_new_session=True)

    def tell(self, signals: int) -> None:
        """Passes signals on: the first asks for the end, the second is the end."""
        if self.process is not None and self._told < signals:
            self._told = signals
            self.process.send_signal(signal.SIGTERM if signals == 1 else signal.SIGKILL)

    def look(self, is_stopping: bool) -> None:
        """Notes the end of the process, and when to start another."""
        if self.process is None or self.process.poll() is None:
            return
        code = self.process.returncode
        self.process = None
        if is_stopping or code in (0, CONFIGURATION):
            # One that had not come to handle signals ends by the first: it had nothing yet.
            self.code = 0 if is_stopping and code == -signal.SIGTERM else code
            return
        self._failures = 1 if time.monotonic() - self._started_at > STEADY_SECONDS else self._failures + 1
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (self._failures - 1))
        self._due = time.monotonic() + pause
        log.error("a worker process ended with code %d, another is started in %.1f s", code, pause)


class Supervisor:
    """Keeps a number of worker processes."""

    def __init__(self, processes: int, arguments: Sequence[str]) -> None:
        self._children = [Child(arguments) for _ in range(processes)]
        self._signals = 0

    def run(self) -> int:
        """Until all workers have ended. Returns the exit code."""
        for one in (signal.SIGTERM, signal.SIGINT):
            signal.signal(one, self._on_signal)
        while True:
            for child in self._children:
                child.look(self._signals > 0)
                child.tell(self._signals)
                if self._signals == 0:
                    child.start_if_due()
            if all(child.process is None and (child.code is not None or self._signals) for child in self._children):
                return max((abs(child.code or 0) for child in self._children), default=0)
            if any(child.code == CONFIGURATION for child in self._children) and self._signals == 0:
                self._signals = 1
            time.sleep(LOOK_SECONDS)

    def _on_signal(self, _number: int, _frame: object) -> None:
        """Only counts: a signal can come while a process is being started."""
        self._signals += 1
