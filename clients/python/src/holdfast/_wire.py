"""HTTP/1.1 over connections that are kept: :class:`Wire` blocks, :class:`AwaitingWire` awaits.

Both write the request as one piece and read the answer with :class:`holdfast._pulse.AnswerReader`, which takes a tenth of the time of a general
HTTP library: workers make hundreds of calls a second, and producers thousands. There are no redirects, proxies, cookies or compression;
the API has none. A transport of httpx, which tests give, is used instead of this (:mod:`holdfast._httpx`).
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from ._calls import MAX_ANSWER_BYTES, Broken, Call, Reply
from ._http import Endpoint
from ._pulse import CONNECT_SECONDS, AnswerReader, Connection, closes, request

if TYPE_CHECKING:
    import httpx

    from ._pulse import Answer

#: Idle connections that are kept at most, and for how long, in seconds. Of a :class:`Wire` as many as threads use it may be open.
MAX_IDLE = 20
IDLE_SECONDS = 30.0

#: Connections of an :class:`AwaitingWire` at most, and how long a call waits for one, in seconds.
MAX_CONNECTIONS = 100
PLACE_SECONDS = 10.0


class Blocking(Protocol):
    """Sends calls of threads."""

    def send(self, call: Call[Any]) -> Reply | Broken: ...

    def close(self) -> None: ...


class Awaiting(Protocol):
    """Sends calls of an event loop."""

    async def send(self, call: Call[Any]) -> Reply | Broken: ...

    async def close(self) -> None: ...


def blocking(endpoint: Endpoint, transport: httpx.BaseTransport | None) -> Blocking:
    """Over sockets, or the caller's transport."""
    if transport is None:
        return Wire(endpoint)
    from . import _httpx

    return _httpx.Blocking(endpoint, transport)


def awaiting(endpoint: Endpoint, transport: httpx.AsyncBaseTransport | None) -> Awaiting:
    """Over sockets, or the caller's transport."""
    if transport is None:
        return AwaitingWire(endpoint)
    from . import _httpx

    return _httpx.Awaiting(endpoint, transport)


class Target:
    """What is the same in every request to a server."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.scheme, self.host, self.port, self._path = endpoint.address()
        self.trust = endpoint.trust()
        name = f"[{self.host}]" if ":" in self.host else self.host
        self.headers = _lines({"Host": f"{name}:{self.port}", **endpoint.headers()})

    def parts(self, call: Call[Any]) -> tuple[str, str, bytes]:
        """Path, lines of the call's own headers, and body."""
        if call.body is None:
            return self._path + call.path, _lines(call.headers), b""
        return self._path + call.path, _lines(call.headers) + "Content-Type: application/json\r\n", call.body.encode("utf-8")


class SocketConnection(Connection):
    """With the module `socket`, which gevent and eventlet patch."""

    def __init__(self, target: Target) -> None:
        super().__init__(target.scheme, target.host, target.port, "", target.headers, MAX_ANSWER_BYTES)
        self._trust = target.trust
        self.used_at = 0.0

    def _open(self, seconds: float) -> socket.socket:
        return socket.create_connection((self._host, self._port), timeout=seconds)

    def _context(self) -> ssl.SSLContext:
        assert self._trust is not None
        return self._trust


class Wire:
    """Sends calls of threads, greenlets (sockets that gevent or eventlet have patched) and forked processes, which open connections of their
    own.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._target = Target(endpoint)
        self._pid = os.getpid()
        self._idle: deque[SocketConnection] = deque()

    def send(self, call: Call[Any]) -> Reply | Broken:
        """One try. On a connection that was kept and is closed by now a repeatable call is sent again."""
        connection = self._take() if call.repeatable else SocketConnection(self._target)
        path, headers, body = self._target.parts(call)
        try:
            status, received, content = connection.send(call.method, path, body, headers, call.timeout)
        except (OSError, ValueError) as error:
            return _broken(error, connection.is_sent)
        if connection.is_open and len(self._idle) < MAX_IDLE:
            connection.used_at = time.monotonic()
            self._idle.append(connection)
        else:
            connection.close()
        return Reply(status, received, content)

    def close(self) -> None:
        """Closes what is idle."""
        if self._pid == os.getpid():
            while self._idle:
                self._idle.pop().close()

    def _take(self) -> SocketConnection:
        if self._pid != os.getpid():
            # Those of the parent process go on in it.
            self._pid, self._idle = os.getpid(), deque()
        try:
            # The newest: if that is too old, all are.
            while (kept := self._idle.pop()).used_at < time.monotonic() - IDLE_SECONDS:
                kept.close()
            return kept
        except IndexError:
            return SocketConnection(self._target)


class Stream(asyncio.Protocol):
    """One connection of an event loop. It carries one call at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._reader = AnswerReader(MAX_ANSWER_BYTES)
        self._waiting: asyncio.Future[Answer] | None = None
        self.used_at = 0.0

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def exchange(self, data: bytes, seconds: float) -> Answer:
        """Raises OSError or ValueError. After an error, or if this is cancelled, the connection is closed."""
        assert self._transport is not None
        loop = asyncio.get_running_loop()
        self._reader = AnswerReader(MAX_ANSWER_BYTES)
        self._waiting = loop.create_future()
        timer = loop.call_later(seconds, self._fail, TimeoutError("no answer in time"))
        try:
            self._transport.write(data)
            answer = await self._waiting
        except BaseException:
            self.close()
            raise
        finally:
            timer.cancel()
            self._waiting = None
        if closes(answer):
            self.close()
        self.used_at = time.monotonic()
        return answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._waiting is None:
            # It was asked for nothing.
            self.close()
            return
        try:
            answer = self._reader.feed(data)
        except ValueError as error:
            self._fail(error)
            return
        if answer is not None and not self._waiting.done():
            self._waiting.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc if isinstance(exc, OSError) else ConnectionError("the connection was closed"))

    def _fail(self, error: Exception) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)


class AwaitingWire:
    """Sends calls of an event loop. Another loop, such as that of a second `asyncio.run`, opens connections of its own."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._target = Target(endpoint)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._idle: deque[Stream] = deque()
        self._places = asyncio.Semaphore(MAX_CONNECTIONS)

    async def send(self, call: Call[Any]) -> Reply | Broken:
        """One try."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._idle, self._places = loop, deque(), asyncio.Semaphore(MAX_CONNECTIONS)
        if self._places.locked():
            try:
                await asyncio.wait_for(self._places.acquire(), PLACE_SECONDS)
            except asyncio.TimeoutError:
                return Broken("no connection is free", reached=False)
        else:
            await self._places.acquire()
        try:
            return await self._send(call)
        finally:
            self._places.release()

    async def close(self) -> None:
        """Closes what is idle."""
        if self._loop is asyncio.get_running_loop():
            while self._idle:
                self._idle.pop().close()

    async def _send(self, call: Call[Any]) -> Reply | Broken:
        try:
            stream = self._take()
            if stream is None:
                stream = await asyncio.wait_for(self._open(), CONNECT_SECONDS)
        except (OSError, asyncio.TimeoutError) as error:
            return _broken(error, False)
        path, headers, body = self._target.parts(call)
        try:
            answer = await stream.exchange(request(call.method, path, self._target.headers + headers, body), call.timeout)
        except (OSError, ValueError) as error:
            return _broken(error, True)
        if stream.is_open and len(self._idle) < MAX_IDLE:
            self._idle.append(stream)
        else:
            stream.close()
        return Reply(*answer)

    def _take(self) -> Stream | None:
        while self._idle:
            stream = self._idle.pop()
            if stream.is_open and stream.used_at >= time.monotonic() - IDLE_SECONDS:
                return stream
            stream.close()
        return None

    async def _open(self) -> Stream:
        target = self._target
        name = target.host if target.trust is not None else None
        _, stream = await asyncio.get_running_loop().create_connection(
            Stream, target.host, target.port, ssl=target.trust, server_hostname=name, happy_eyeballs_delay=0.25
        )
        return stream


def _broken(error: Exception, reached: bool) -> Broken:
    """Why there is no answer, without the URL."""
    return Broken(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__, reached)


def _lines(headers: Any) -> str:
    for name, value in headers.items():
        if "\r" in value or "\n" in value:
            raise ValueError(f"the header {name} has a line end in it")
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items())
