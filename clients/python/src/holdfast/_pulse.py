"""The heartbeat process of a worker: a program of its own, because a handler can hold Python's lock in the worker's process.

It imports modules that are part of the interpreter, and nothing else, so that it is small (`socket` and `signal` would take 3 MiB).
:class:`holdfast.worker._lease.ProcessLease` starts it. :mod:`holdfast._wire` uses its HTTP for all other calls.

Input, in lines; fields are separated by tabs:
    1. ``scheme host port path ca_file parent kill`` and a line with the value of the header Authorization (may be empty);
    2. then states: ``state SILENCE N`` and N lines ``SESSION INTERVAL VERSION BODY``, which replace what was known. BODY is the heartbeat.
Output, in lines:
    ``beat SESSION VERSION STATUS BODY`` for an answer, ``fail SESSION REASON`` for none.

It ends when the input ends or its parent is another process: then the worker is dead, and its jobs are to be rescued. If the worker says
nothing for SILENCE seconds (its jobs had less time left than that), there are no more heartbeats, and with ``kill`` the worker is
killed: it hangs. Signals for the process group are ignored: the worker decides when heartbeats end.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import os
import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

#: Seconds for one heartbeat, from the connection to the end of the answer, at most.
CALL_SECONDS = 5.0

#: Seconds until a heartbeat is repeated that had no answer.
RETRY_SECONDS = 1.0

#: Seconds that a connection may take.
CONNECT_SECONDS = 5.0

#: Longest answer in bytes: 10,000 jobs that are lost take 300 KiB.
MAX_ANSWER = 4 * 1024 * 1024

#: Longest head of an answer, in bytes.
MAX_HEAD = 65_536

#: A gap of so many seconds between two looks means that this process was suspended: a look takes LOOK_SECONDS, or a few calls.
SUSPENDED_SECONDS = 30.0

#: Most bytes of one read of the input, and of a connection.
READ_BYTES = 65_536

#: How often the parent is looked for, in seconds.
LOOK_SECONDS = 2.0


if TYPE_CHECKING:
    #: Status, headers with names in lower case, and body.
    Answer = tuple[int, dict[str, str], bytes]


def request(method: str, path: str, headers: str, body: bytes) -> bytes:
    """A request of HTTP/1.1. ``headers`` are lines."""
    return f"{method} {path} HTTP/1.1\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode("latin-1") + body


class AnswerReader:
    """One answer of HTTP/1.1, put together from the bytes as they come."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._data = bytearray()
        self._head: tuple[int, dict[str, str]] | None = None
        #: Bytes of the body; None: they come in chunks.
        self._length: int | None = None
        self._chunks = bytearray()

    def feed(self, data: bytes) -> Answer | None:
        """The answer, once it is whole. Raises ValueError for what is none, or too long."""
        self._data += data
        while self._head is None:
            ends = self._data.find(b"\r\n\r\n")
            if ends < 0:
                if len(self._data) > MAX_HEAD:
                    raise ValueError("the head of the answer is too long")
                return None
            self._begin(self._data[:ends].decode("latin-1"))
            del self._data[: ends + 4]
        body = self._chunked() if self._length is None else self._whole(self._length)
        return None if body is None else (*self._head, body)

    def _begin(self, head: str) -> None:
        first, *lines = head.split("\r\n")
        status = int(first.split(" ", 2)[1])
        if 100 <= status < 200:
            # The answer follows.
            return
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if status == 204:
            self._length = 0
        elif headers.get("transfer-encoding", "").lower() != "chunked":
            if not headers.get("content-length", "").isdecimal():
                raise ValueError("the answer has no length")
            self._length = int(headers["content-length"])
            if self._length > self._most:
                raise ValueError("the answer is too long")
        self._head = status, headers

    def _whole(self, length: int) -> bytes | None:
        return bytes(self._data[:length]) if len(self._data) >= length else None

    def _chunked(self) -> bytes | None:
        while (ends := self._data.find(b"\r\n")) >= 0:
            size = int(self._data[:ends].split(b";")[0], 16)
            if size < 0 or len(self._chunks) + size > self._most:
                raise ValueError("the answer is too long")
            after = ends + 2 + size
            if len(self._data) < after + 2:
                return None
            self._chunks += self._data[ends + 2 : after]
            del self._data[: after + 2]
            if size == 0:
                return bytes(self._chunks)
        return None


class Connection:
    """One HTTP/1.1 connection that is kept."""

    def __init__(self, scheme: str, host: str, port: int, ca_file: str, headers: str, most: int = MAX_ANSWER) -> None:
        self._is_tls = scheme == "https"
        self._most = most
        self._host = host
        self._port = port
        self._ca_file = ca_file
        self._headers = headers
        self._socket: _socket.socket | None = None
        self._deadline = 0.0
        #: Whether a part of the last request may have reached the server.
        self.is_sent = False

    @property
    def is_open(self) -> bool:
        return self._socket is not None

    def send(self, method: str, path: str, body: bytes, headers: str = "", seconds: float = CALL_SECONDS) -> Answer:
        """Raises OSError or ValueError. On a connection that was kept and is closed by now the call is sent again."""
        self._deadline = time.monotonic() + seconds
        self.is_sent = False
        data = request(method, path, self._headers + headers, body)
        was_kept = self._socket is not None
        try:
            return self._exchange(data)
        except (OSError, ValueError):
            self.close()
            if not was_kept or self._left() < seconds / 2:
                raise
        try:
            return self._exchange(data)
        except (OSError, ValueError):
            self.close()
            raise

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("no answer in time")
        return left

    def _connect(self) -> _socket.socket:
        connected = self._open(min(self._left(), CONNECT_SECONDS))
        connected.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        return self._secured(connected) if self._is_tls else connected

    def _open(self, seconds: float) -> _socket.socket:
        """To the first address that answers, as `socket.create_connection` does."""
        failure: OSError = ConnectionError("the host has no address")
        # A text would load the codec of international names, and with it a table of all characters.
        for family, kind, protocol, _, address in _socket.getaddrinfo(self._host.encode("ascii"), self._port, 0, _socket.SOCK_STREAM):
            connecting = _socket.socket(family, kind, protocol)
            try:
                connecting.settimeout(seconds)
                connecting.connect(address)
                return connecting
            except OSError as error:
                connecting.close()
                failure = error
        raise failure

    def _secured(self, connected: _socket.socket) -> _socket.socket:
        import socket

        plain = connected
        if not isinstance(plain, socket.socket):
            plain = socket.socket(fileno=connected.detach())
        plain.settimeout(min(self._left(), CONNECT_SECONDS))
        return self._context().wrap_socket(plain, server_hostname=self._host)

    def _context(self) -> ssl.SSLContext:
        import ssl

        return ssl.create_default_context(cafile=self._ca_file)

    def _exchange(self, data: bytes) -> Answer:
        if self._socket is None:
            self._socket = self._connect()
        self._socket.settimeout(self._left())
        self.is_sent = True
        self._socket.sendall(data)
        reader = AnswerReader(self._most)
        answer = None
        while answer is None:
            self._socket.settimeout(self._left())
            received = self._socket.recv(READ_BYTES)
            if not received:
                raise ConnectionError("the connection was closed")
            answer = reader.feed(received)
        if closes(answer):
            self.close()
        return answer


def closes(answer: Answer) -> bool:
    """Whether the server closes the connection after this answer."""
    return answer[1].get("connection", "").lower() == "close"


class Beat:
    """The heartbeats of one session."""

    def __init__(self, interval: float, now: float) -> None:
        self.interval = interval
        # At once: this process may stand in for one that ended.
        self.due = now
        self.version = "0"
        self.body = b""


class Pulse:
    """The program's state."""

    def __init__(self, head: str, authorization: str, say: Callable[[str], None]) -> None:
        scheme, host, port, self._path, ca_file, parent, kill = head.split("\t")
        name = f"[{host}]" if ":" in host else host
        headers = f"Host: {name}:{port}\r\nContent-Type: application/json\r\nUser-Agent: holdfast-python-heartbeat\r\n"
        if authorization:
            headers += f"Authorization: {authorization}\r\n"
        self._connection = Connection(scheme, host, int(port), ca_file, headers)
        self._parent = int(parent)
        self._kills = kill == "1"
        self._say = say
        self._beats: dict[str, Beat] = {}
        self._awake_at = time.monotonic()
        self._quiet_at = self._awake_at + 60.0

    def wake(self, now: float) -> None:
        """This process has slept for long: it was suspended, probably with its worker, which gets time to speak."""
        if now - self._awake_at > SUSPENDED_SECONDS:
            self._quiet_at = max(self._quiet_at, now + SUSPENDED_SECONDS)
        self._awake_at = now

    @property
    def is_orphan(self) -> bool:
        return os.getppid() != self._parent

    def learn(self, head: str, lines: list[str]) -> None:
        """A new state."""
        now = time.monotonic()
        self._quiet_at = now + float(head.split("\t")[1])
        known, self._beats = self._beats, {}
        for line in lines:
            session, interval, version, body = line.split("\t", 3)
            beat = known.get(session) or Beat(float(interval), now)
            beat.version, beat.body = version, body.encode("utf-8")
            self._beats[session] = beat

    def wait_seconds(self) -> float:
        now = time.monotonic()
        return max(0.0, min([LOOK_SECONDS, *(beat.due - now for beat in self._beats.values())]))

    def beat(self) -> None:
        """Sends the heartbeats that are due."""
        now = time.monotonic()
        if now > self._quiet_at:
            self._worker_hangs()
            return
        for session, beat in self._beats.items():
            if beat.due <= now:
                self._send(session, beat)

    def _worker_hangs(self) -> None:
        self._beats.clear()
        if self._kills and not self.is_orphan:
            os.kill(self._parent, _signal.SIGKILL)

    def _send(self, session: str, beat: Beat) -> None:
        began = time.monotonic()
        try:
            status, _, answer = self._connection.send("POST", f"{self._path}/v1/workers/{session}/heartbeat", beat.body)
        except (OSError, ValueError) as error:
            beat.due = time.monotonic() + min(beat.interval, RETRY_SECONDS) * jitter()
            self._say(f"fail\t{session}\t{type(error).__name__}: {error}")
            return
        wait = beat.interval if status < 300 or status == 404 else min(beat.interval, RETRY_SECONDS) * jitter()
        beat.due = max(time.monotonic(), began + wait)
        self._say(f"beat\t{session}\t{beat.version}\t{status}\t{answer.decode('utf-8', 'replace')}")


def jitter() -> float:
    """0.5 to 1.0, so that many workers do not repeat together. The module `random` would take 1 MiB."""
    return 0.5 + time.monotonic_ns() % 1_009 / 2_018


def lines_of(data: bytes) -> tuple[list[str], bytes]:
    """The whole lines, and the rest."""
    *whole, rest = data.split(b"\n")
    return [line.decode("utf-8") for line in whole], rest


def say(line: str) -> None:
    """Writes a line for the worker."""
    data = " ".join(line.splitlines()).encode("utf-8") + b"\n"
    while data:
        data = data[os.write(1, data) :]


def main() -> None:
    for one in (_signal.SIGINT, _signal.SIGTERM, getattr(_signal, "SIGHUP", _signal.SIGINT)):
        _signal.signal(one, _signal.SIG_IGN)
    lines: list[str] = []
    rest = b""
    pulse: Pulse | None = None
    while True:
        wait = LOOK_SECONDS if pulse is None else pulse.wait_seconds()
        if select.select([0], [], [], wait)[0]:
            data = os.read(0, READ_BYTES)
            if not data:
                return
            whole, rest = lines_of(rest + data)
            lines += whole
        if pulse is None and len(lines) >= 2:
            pulse = Pulse(lines[0], lines[1], say)
            del lines[:2]
        if pulse is not None:
            pulse.wake(time.monotonic())
            while lines and len(lines) > (count := int(lines[0].split("\t")[2])):
                pulse.learn(lines[0], lines[1 : count + 1])
                del lines[: count + 1]
            if pulse.is_orphan:
                return
            pulse.beat()


def program() -> None:
    try:
        main()
    except (BrokenPipeError, KeyboardInterrupt):
        sys.exit(0)


if __name__ == "__main__":
    program()
