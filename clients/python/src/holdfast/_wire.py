"""Blocking calls with little overhead, for producers that make thousands of small calls a second.

:class:`holdfast._http.Blocking` is the general way to send a :class:`~holdfast._calls.Call`. This one speaks HTTP/1.1 over plain sockets
(:class:`holdfast.worker._pulse.Connection`), which takes a tenth of the time. It holds for threads, for greenlets (sockets that gevent or
eventlet have patched) and for forks: a child process opens connections of its own.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from typing import Any
from urllib.parse import urlsplit

from ._calls import MAX_ANSWER_BYTES, Broken, Call, Reply
from ._http import Endpoint
from .worker._pulse import Connection

#: Idle connections that are kept at most. As many as are used at once may be open.
MAX_IDLE = 20


class SocketConnection(Connection):
    """With the module `socket`, which gevent and eventlet patch."""

    def _open(self) -> socket.socket:
        return socket.create_connection((self._host, self._port), timeout=self._left())


class Wire:
    """Sends calls of threads, greenlets and forked processes."""

    def __init__(self, endpoint: Endpoint) -> None:
        parts = urlsplit(endpoint.url)
        is_tls = parts.scheme == "https"
        host = parts.hostname or ""
        port = parts.port or (443 if is_tls else 80)
        headers = {"Host": f"[{host}]:{port}" if ":" in host else f"{host}:{port}", **endpoint.headers()}
        self._target = (parts.scheme, host, port, endpoint.trust_file() if is_tls else "", _lines(headers), MAX_ANSWER_BYTES)
        self._path = parts.path
        self._pid = os.getpid()
        self._idle: deque[Connection] = deque()

    def send(self, call: Call[Any]) -> Reply | Broken:
        """One try."""
        connection = self._take()
        body = b"" if call.body is None else call.body.encode("utf-8")
        headers = _lines(call.headers) + ("" if call.body is None else "Content-Type: application/json\r\n")
        try:
            status, received, content = connection.send(call.method, self._path + call.path, body, headers, call.timeout)
        except (OSError, ValueError) as error:
            return Broken(f"{type(error).__name__}: {error}", reached=not isinstance(error, ConnectionRefusedError))
        if connection.is_open and len(self._idle) < MAX_IDLE:
            self._idle.append(connection)
        else:
            connection.close()
        return Reply(status, received, content)

    def close(self) -> None:
        """Closes what is idle."""
        if self._pid == os.getpid():
            while self._idle:
                self._idle.pop().close()

    def _take(self) -> Connection:
        if self._pid != os.getpid():
            # Those of the parent process go on in it.
            self._pid, self._idle = os.getpid(), deque()
        try:
            return self._idle.pop()
        except IndexError:
            return SocketConnection(*self._target)


def _lines(headers: Any) -> str:
    for name, value in headers.items():
        if "\r" in value or "\n" in value:
            raise ValueError(f"the header {name} has a line end in it")
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items())
