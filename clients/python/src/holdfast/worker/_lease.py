"""Keeps the worker's lease alive with heartbeats: from another process, or from the protocol loop.

The process is the default. The loop is for where none works (no interpreter to start, Windows), for transports that only this process has
(tests), and for workers whose handlers are all async and never block: a handler that holds Python's lock for 15 s loses the lease then.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from typing import Protocol

from .. import _calls, _json
from .._calls import Instructions
from .._http import Endpoint
from ._api import Api, Failure, is_gone
from ._runs import Listed, Session

log = logging.getLogger("holdfast.worker")

#: How often the heartbeat process is told what runs, in seconds.
TELL_SECONDS = 1.0

#: How long the worker may be silent beyond the time that its jobs have left, in seconds.
SILENCE_SECONDS = 30.0

#: Bytes that wait for the heartbeat process, and bytes of one line from it, at most.
MAX_WAITING = 1 << 20
MAX_LINE = 8 << 20

#: A process that lived for less than so many seconds has failed; after so many failures in a row no further one is tried.
STEADY_SECONDS = 5.0
MAX_FAILURES = 3

#: Seconds that one heartbeat of the process may take, a little more than it allows itself. One that says nothing for longer is
#: replaced, before the lease ends: 5 s between heartbeats and these are less than 15 s.
MUTE_SECONDS = 6.0


#: Runs `_pulse.py` of the directory that is the argument. Imported and not run as a script, since Python caches the code of modules
#: alone: compiling it takes 2 MiB, which stay.
PROGRAM = "import sys; sys.path.append(sys.argv[1]); import _pulse; _pulse.program()"


class Source(Protocol):
    """What heartbeats say, and who hears the answers."""

    def listed(self) -> list[Listed]: ...

    def longest_seconds_left(self) -> float: ...

    def session(self, id: str) -> Session | None: ...

    def heard(self, session: Session, version: int, answer: Instructions | None) -> None:
        """``answer`` is None if the server does not know the session."""


class LoopLease:
    """Heartbeats from the protocol loop."""

    def __init__(self, api: Api, source: Source) -> None:
        self._api = api
        self._source = source
        self._due: dict[Session, float] = {}

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            now = time.monotonic()
            listed = {one.session: one for one in self._source.listed()}
            self._due = {session: self._due.get(session, now + session.heartbeat) for session in listed}
            for session, due in list(self._due.items()):
                if due <= now:
                    self._due[session] = now + session.heartbeat * (1.0 if await self._beat(listed[session]) else 0.2)
            await asyncio.sleep(max(0.05, min([TELL_SECONDS, *(due - time.monotonic() for due in self._due.values())])))

    async def _beat(self, listed: Listed) -> bool:
        body = _calls.heartbeat_body(listed.jobs, {}, [])
        try:
            answer = await self._api.call(_calls.heartbeat(listed.session.id, body))
        except Failure as error:
            if is_gone(error):
                self._source.heard(listed.session, listed.version, None)
                return True
            log.warning("a heartbeat failed, and is repeated: %s", error)
            return False
        self._source.heard(listed.session, listed.version, answer)
        return True


class ProcessLease:
    """Heartbeats from a process of their own; see :mod:`holdfast._pulse`."""

    def __init__(self, endpoint: Endpoint, api: Api, source: Source, *, kills: bool) -> None:
        self._endpoint = endpoint
        self._api = api
        self._source = source
        self._kills = kills
        self._heard_at = 0.0
        self._failures = 0

    async def run(self) -> None:
        """Until it is cancelled. A process that ends is replaced; if none can work here, heartbeats come from the loop."""
        failures = 0
        while failures < MAX_FAILURES:
            try:
                process = await self._start()
            except (OSError, ValueError, NotImplementedError) as error:
                log.warning("the heartbeat process could not be started: %s", error)
                failures += 1
                continue
            started_at = time.monotonic()
            reading = asyncio.ensure_future(self._read(process))
            telling = asyncio.ensure_future(self._tell(process))
            try:
                await asyncio.wait([reading, telling], return_when=asyncio.FIRST_COMPLETED)
                log.warning("the heartbeat process ended, and is started again")
            finally:
                reading.cancel()
                telling.cancel()
                await asyncio.gather(reading, telling, return_exceptions=True)
                await _end(process)
            failures = failures + 1 if time.monotonic() - started_at < STEADY_SECONDS else 0
            await asyncio.sleep(TELL_SECONDS / 4)
        log.error("no heartbeat process works here (%s): heartbeats come from the worker's own loop", sys.executable)
        await LoopLease(self._api, self._source).run()

    async def _start(self) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            "-c",
            PROGRAM,
            os.path.dirname(_calls.__file__),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=MAX_LINE,
        )
        assert process.stdin is not None
        process.stdin.write(self._head().encode("utf-8"))
        self._heard_at = time.monotonic()
        return process

    def _head(self) -> str:
        scheme, host, port, path = self._endpoint.address()
        fields = (
            scheme,
            host,
            str(port),
            path,
            self._endpoint.trust_file() if scheme == "https" else "",
            str(os.getpid()),
            "1" if self._kills else "0",
        )
        return "\t".join(fields) + "\n" + self._endpoint.headers().get("Authorization", "") + "\n"

    async def _tell(self, process: asyncio.subprocess.Process) -> None:
        """Says every second what runs, which also says that this process lives."""
        assert process.stdin is not None
        while True:
            listed = self._source.listed()
            now = time.monotonic()
            if not listed:
                self._heard_at = now
            elif now - self._heard_at > max(one.session.heartbeat for one in listed) + MUTE_SECONDS * len(listed):
                log.warning("the heartbeat process does not answer")
                return
            if process.stdin.transport.get_write_buffer_size() < MAX_WAITING:
                process.stdin.write(_state(listed, self._source.longest_seconds_left() + SILENCE_SECONDS).encode("utf-8"))
            await asyncio.sleep(TELL_SECONDS)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            self._heard_at = time.monotonic()
            self._hear(line.decode("utf-8").rstrip("\n"))

    def _hear(self, line: str) -> None:
        word, id, rest = line.split("\t", 2)
        session = self._source.session(id)
        if session is None:
            return
        if word == "fail":
            self._failed(rest)
            return
        version, status, body = rest.split("\t", 2)
        if status == "404" and "worker-not-found" in body:
            self._source.heard(session, int(version), None)
        elif status.startswith("2"):
            try:
                answer = _calls.instructions_of(_json.decode(body))
            except (ValueError, AttributeError, TypeError):
                self._failed("the answer is not Holdfast's")
                return
            self._failures = 0
            self._source.heard(session, int(version), answer)
        else:
            self._failed(f"status {status}")

    def _failed(self, reason: str) -> None:
        """They are repeated every second: the first is logged, and one of ten."""
        if self._failures % 10 == 0:
            log.warning("a heartbeat failed, and is repeated: %s", reason)
        self._failures += 1


def _state(listed: list[Listed], silence: float) -> str:
    lines = [f"state\t{silence:.1f}\t{len(listed)}\n"]
    for session, version, jobs in listed:
        lines.append(f"{session.id}\t{session.heartbeat}\t{version}\t{_calls.heartbeat_body(jobs, {}, [])}\n")
    return "".join(lines)


async def _end(process: asyncio.subprocess.Process) -> None:
    """It ends when its input does; a process that is stopped is killed."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), 1.0)
    except asyncio.TimeoutError:
        try:
            process.kill()
        except ProcessLookupError:
            pass
        await process.wait()
