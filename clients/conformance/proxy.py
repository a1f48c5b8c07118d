"""A small HTTP proxy between a client and the server: it loses replies, says nothing, refuses calls, alters answers, and records every
call.

Each rule matches a method and a path (a regular expression, searched in the path), and is used up after `times` calls. The first
rule that matches a call is applied to it.
"""

from __future__ import annotations

import http.client
import json
import re
import select
import socket
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Callable
from urllib.parse import urlsplit

PULL, FINISH, HEARTBEAT = r"/pull$", r"/finish$", r"/heartbeat$"
REGISTER = r"^/v1/workers$"
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "te", "upgrade"}


@dataclass
class Call:
    """A call of the client. `at` and `answered_at` are monotonic; `status` is 0 while there is no reply, or if it was lost."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    at: float
    status: int = 0
    reply: Any = None
    answered_at: float | None = None
    lost: bool = False

    @property
    def worker(self) -> str:
        """The worker's id in the path."""
        parts = self.path.split("/")
        return parts[3] if len(parts) > 3 and parts[2] == "workers" else ""


@dataclass
class Rule:
    method: str
    path: re.Pattern[str]
    times: int | None
    when: Callable[[Call], bool]
    action: Callable[[Call], Any]
    """What becomes of the call. `before`: asked before the server is; `after`: with its reply."""
    moment: str
    used: int = 0

    def matches(self, call: Call) -> bool:
        wanted = self.method in ("*", call.method) and self.path.search(call.path.split("?")[0]) is not None
        return wanted and (self.times is None or self.used < self.times) and self.when(call)


@dataclass
class Proxy:
    upstream: str
    calls: list[Call] = field(default_factory=list)
    is_down: bool = False
    closes_idle: bool = False
    """Connections are closed after each reply, without a word of it in the reply, as gateways do that restart."""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[Rule] = []
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._http = _Listener(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.is_down = True
        self._http.shutdown()
        self._http.server_close()

    # --- rules ------------------------------------------------------------------------------------------------------

    def _add(self, moment: str, method: str, path: str, times: int | None, action: Callable[[Call], Any],
             when: Callable[[Call], bool] | None = None) -> Rule:
        rule = Rule(method, re.compile(path), times, when or (lambda _: True), action, moment)
        with self._lock:
            self._rules.append(rule)
        return rule

    def lose(self, method: str, path: str, times: int | None = 1, when: Callable[[Call], bool] | None = None,
             then: Callable[[], None] | None = None) -> Rule:
        """The server answers and the reply is lost; `then` runs in between."""

        def action(call: Call) -> str:
            if then:
                then()
            return "lose"

        return self._add("after", method, path, times, action, when)

    def hang(self, method: str, path: str, times: int | None = 1, when: Callable[[Call], bool] | None = None) -> Rule:
        """The server answers and the client is told nothing, on a connection that stays open, as behind a gateway that has forgotten it.
        `answered_at` is then when the client has closed it."""
        return self._add("after", method, path, times, lambda _: "hang", when)

    def refuse(self, method: str, path: str, times: int | None = 1, status: int = 503, retry_after: float | None = None,
               html: bool = False) -> Rule:
        """The proxy answers itself; the server never sees the call."""
        headers = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}
        title = "Service Unavailable" if status == 503 else "Refused"
        problem = {"type": "urn:holdfast:problem:unavailable", "title": title, "status": status, "detail": "by the proxy"}
        if html:
            reply = ("text/html", b"<html><body>Bad gateway</body></html>")
        else:
            reply = ("application/problem+json", json.dumps(problem).encode())
        return self._add("before", method, path, times, lambda _: (status, headers, *reply))

    def alter(self, method: str, path: str, change: Callable[[Any], Any], times: int | None = None,
              when: Callable[[Call], bool] | None = None) -> Rule:
        """The body of a successful reply is changed."""
        return self._add("after", method, path, times, lambda _: change, when)

    def forget(self, rule: Rule) -> None:
        with self._lock:
            self._rules.remove(rule)

    def _rule(self, moment: str, call: Call) -> Rule | None:
        with self._lock:
            for rule in self._rules:
                if rule.moment == moment and rule.matches(call):
                    rule.used += 1
                    return rule
        return None

    # --- what was seen ----------------------------------------------------------------------------------------------

    def of(self, path: str, method: str = "POST") -> list[Call]:
        """The calls to a path so far."""
        with self._lock:
            return [call for call in self.calls if call.method == method and re.search(path, call.path.split("?")[0])]


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections that break are what this is for."""


class _Handler(BaseHTTPRequestHandler):
    owner: Proxy
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._upstream: http.client.HTTPConnection | None = None

    def finish(self) -> None:
        if self._upstream:
            self._upstream.close()
        super().finish()

    def log_message(self, *_: Any) -> None:
        pass

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        raw = self._chunks() if "chunked" in (self.headers.get("Transfer-Encoding") or "") else self.rfile.read(length)
        headers = {name.lower(): value for name, value in self.headers.items()}
        call = Call(self.command, self.path, headers, _parsed(raw), time.monotonic())
        with self.owner._lock:
            self.owner.calls.append(call)
        if self.owner.is_down:
            return self._drop(call)
        if rule := self.owner._rule("before", call):
            status, more, kind, text = rule.action(call)
            return self._reply(call, status, {"Content-Type": kind, **more}, text)
        try:
            status, answer_headers, text = self._forward(raw)
        except (OSError, http.client.HTTPException):
            return self._drop(call)
        call.reply = _parsed(text)
        rule = self.owner._rule("after", call)
        action = rule.action(call) if rule else None
        if self.owner.is_down or action == "lose":
            return self._drop(call)
        if action == "hang":
            return self._hang(call)
        if callable(action) and status < 300 and call.reply is not None:
            call.reply = action(call.reply)
            text = json.dumps(call.reply).encode()
        self._reply(call, status, answer_headers, text)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _serve

    def _chunks(self) -> bytes:
        text = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            text += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return text

    def _forward(self, raw: bytes) -> tuple[int, dict[str, str], bytes]:
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP | {"host", "accept-encoding"}}
        address = urlsplit(self.owner.upstream)
        # A connection for each call: a stale one of the proxy's own would look like a fault of the server.
        self._upstream = http.client.HTTPConnection(address.hostname or "", address.port, timeout=120)
        try:
            self._upstream.request(self.command, self.path, raw, headers)
            reply = self._upstream.getresponse()
            text = reply.read()
            kept = {name: value for name, value in reply.getheaders() if name.lower() not in HOP_BY_HOP}
            return reply.status, kept, text
        finally:
            self._upstream.close()
            self._upstream = None

    def _reply(self, call: Call, status: int, headers: dict[str, str], text: bytes) -> None:
        # The record comes first: a scenario that the reply wakes finds it there.
        call.status, call.answered_at = status, time.monotonic()
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if status != 204:
            self.wfile.write(text)
        if self.owner.closes_idle:
            self.close_connection = True

    def _hang(self, call: Call) -> None:
        while not self.owner.is_down and not self._is_closed():
            pass
        self._drop(call)

    def _is_closed(self) -> bool:
        """Whether the client has closed the connection; waits for it for a moment."""
        try:
            ready, _, _ = select.select([self.connection], [], [], 0.1)
            return bool(ready) and not self.connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

    def _drop(self, call: Call) -> None:
        call.lost, call.answered_at = True, time.monotonic()
        self.close_connection = True
        # The client is to notice now, not when this thread has ended.
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text) if text else None
    except ValueError:
        return None
