"""Starts and ends what a scenario needs: a Holdfast of real processes, PostgreSQL or SQLite, Redis.

Every server listens on a free loopback port, keeps its files in a temporary directory, and is ended by its process id. Nothing
that is not started here is ever signalled.
"""

from __future__ import annotations

import atexit
import glob
import http.client
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Callable
from urllib.parse import urlsplit

ADMIN_KEY = "conformance-admin-key-of-no-secret-worth"

# Short, so that the loss of a worker is seen in seconds; long enough that a busy machine loses none by accident.
HEARTBEAT_SECONDS = 1
LOST_AFTER_SECONDS = 6

# Nothing here takes that long; a wait that does has failed.
DEADLINE_SECONDS = 60.0


class Failure(Exception):
    """What was expected did not come true."""


def eventually(look: Callable[[], Any], what: str, seconds: float = DEADLINE_SECONDS, every: float = 0.05) -> Any:
    """The first true value of `look`; a failure that says `what` was awaited after `seconds`."""
    until = time.monotonic() + seconds
    while True:
        value = look()
        if value:
            return value
        if time.monotonic() > until:
            raise Failure(f"not within {seconds:g} s: {what}")
        time.sleep(every)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Process:
    """A child with its output in a file."""

    def __init__(self, name: str, command: list[str], directory: Path, env: dict[str, str], **popen: Any) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(
                command, cwd=directory, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **popen
            )
        _running.append(self)

    @property
    def pid(self) -> int:
        return self.popen.pid

    def is_running(self) -> bool:
        return self.popen.poll() is None

    def send(self, number: int) -> None:
        if self.is_running():
            self.popen.send_signal(number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self.popen.wait()

    def stop(self) -> None:
        """Suspends it, as a host that is paused."""
        self.send(signal.SIGSTOP)

    def go_on(self) -> None:
        self.send(signal.SIGCONT)

    def end(self, number: int = signal.SIGTERM, seconds: float = 15) -> None:
        self.go_on()
        self.send(number)
        try:
            self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def tail(self, lines: int = 40) -> str:
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])


_running: list[Process] = []


@atexit.register
def _end_all() -> None:
    for process in reversed(_running):
        if process.is_running():
            process.go_on()
            process.kill()


def end_on_signals() -> None:
    """SIGTERM ends the program as Ctrl-C does, so that its children end with it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def scratch(prefix: str) -> Path:
    """A directory that is removed at the end, and that other users may enter."""
    path = Path(tempfile.mkdtemp(prefix=prefix))
    path.chmod(0o755)
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def child_env(**more: str) -> dict[str, str]:
    """The environment without settings of the developer's own services."""
    own = ("HOLDFAST_", "DATABASE_", "REDIS", "PG", "RAILWAY_", "OTEL_")
    env = {name: text for name, text in os.environ.items() if not name.startswith(own) and name not in ("PORT", "LOG_LEVEL")}
    return {**env, **more}


def _program(name: str, *patterns: str) -> str:
    found = shutil.which(name)
    for pattern in patterns:
        found = found or next((path for path in sorted(glob.glob(pattern), reverse=True) if os.access(path, os.X_OK)), None)
    if found is None:
        raise Failure(f"{name} is not installed: scripts/test installs it from the system's packages")
    return found


def postgres_program(name: str) -> str:
    return _program(
        name,
        f"/usr/lib/postgresql/*/bin/{name}",
        f"/opt/homebrew/opt/postgresql@*/bin/{name}",
        f"/usr/local/opt/postgresql@*/bin/{name}",
    )


class Postgres:
    """A private server. PostgreSQL does not start as root: then the user is `postgres`, or `nobody` where there is no such user."""

    def __init__(self, durable: bool = False) -> None:
        """With `durable` a commit is on the disk when it is answered, as a server is that sets nothing. Figures need that; scenarios do not."""
        self.directory = scratch("holdfast-postgres-")
        self.port = free_port()
        self._as_user: dict[str, Any] = {}
        if os.getuid() == 0:
            user = next(name for name in ("postgres", "nobody") if _has_user(name))
            entry = pwd.getpwnam(user)
            self._as_user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
            os.chown(self.directory, entry.pw_uid, entry.pw_gid)
        data = str(self.directory / "data")
        env = child_env(LC_ALL="C")
        subprocess.run(
            [postgres_program("initdb"), "-D", data, "-U", "holdfast", "-A", "trust", "-E", "UTF8", "--no-sync"],
            cwd=self.directory, env=env, check=True, stdout=subprocess.DEVNULL, **self._as_user,
        )
        options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": str(self.directory), "max_connections": "100"}
        if not durable:
            options |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        command = [postgres_program("postgres"), "-D", data, "-p", str(self.port)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        self.process = Process("postgres", command, self.directory, env, **self._as_user)
        self.url = f"postgres://holdfast@127.0.0.1:{self.port}/postgres"
        eventually(lambda: _accepts(self.port) and "ready to accept" in self.process.tail(), "PostgreSQL accepts connections")

    def _pids(self) -> list[int]:
        """The server and its children. They are in sessions of their own, so no process group has them all."""
        listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], check=True, capture_output=True, text=True).stdout
        pairs = [tuple(map(int, line.split())) for line in listed.splitlines()]
        return [self.process.pid, *(pid for pid, parent in pairs if parent == self.process.pid)]

    def stop(self) -> None:
        """Suspends the server and every backend: connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        for pid in self._pids():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def end(self) -> None:
        self.go_on()
        self.process.end(signal.SIGINT)


def _has_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


class Redis:
    """A private server without persistence."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        directory = scratch("holdfast-redis-")
        command = [_program("redis-server"), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.process = Process("redis", command, directory, child_env())
        eventually(lambda: _accepts(self.port), "Redis accepts connections")

    def flush(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            connection.sendall(b"FLUSHALL\r\n")
            answer = connection.recv(64)
        if not answer.startswith(b"+OK"):
            raise Failure(f"FLUSHALL was answered {answer!r}")

    def end(self) -> None:
        self.process.end()


class Answer:
    """An HTTP answer: status, headers, and the parsed body (`None` if it has none)."""

    def __init__(self, status: int, headers: dict[str, str], text: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body: Any = json.loads(text) if text else None

    @property
    def problem(self) -> str:
        """The last part of a problem's type; empty for other answers."""
        is_problem = self.headers.get("content-type", "").startswith("application/problem+json")
        return str(self.body["type"]).rsplit(":", 1)[-1] if is_problem else ""

    @property
    def fields(self) -> list[str]:
        """The fields that a problem names."""
        return [error["field"] for error in (self.body or {}).get("errors", [])]

    def __repr__(self) -> str:
        return f"{self.status} {json.dumps(self.body)[:600]}"


class Api:
    """Plain HTTP with one key: what the judge sees, and the raw client of the server's scenarios."""

    def __init__(self, url: str, key: str | None) -> None:
        self.url, self.key = url, key

    def call(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, timeout: float = 90) -> Answer:
        address = urlsplit(self.url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=timeout)
        sent = {"Content-Type": "application/json", **(headers or {})}
        if self.key:
            sent["Authorization"] = f"Bearer {self.key}"
        text = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        try:
            connection.request(method, path, text, sent)
            reply = connection.getresponse()
            return Answer(reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read())
        finally:
            connection.close()

    def ok(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        """The body of a successful answer; anything else is a failure."""
        answer = self.call(method, path, body, headers)
        if answer.status >= 300:
            raise Failure(f"{method} {path} was answered {answer}")
        return answer.body

    def job(self, job: str) -> Any:
        return self.ok("GET", f"/v1/jobs/{job}")

    def with_key(self, key: str | None) -> Api:
        return Api(self.url, key)


class Server:
    """The services of Holdfast, each a process: `api`, a Rust `worker` that rescues lost jobs, and `beat` where it is wanted."""

    def __init__(
        self, holdfast: str, database: str, *, redis: Redis | None = None, beat: bool = False, settings: dict[str, str] | None = None,
        lost_after: int = LOST_AFTER_SECONDS, durable: bool = False,
    ) -> None:
        """With `lost_after` of 15 s the leases are those of an installation that sets nothing; with `durable` PostgreSQL is."""
        self.holdfast = str(Path(holdfast).resolve())
        self.directory = scratch("holdfast-server-")
        self.postgres = Postgres(durable) if database == "postgres" else None
        self.redis = redis
        self.lost_after = lost_after
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.admin = Api(self.url, ADMIN_KEY)
        own = dict(
            DATABASE_URL=self.postgres.url if self.postgres else f"sqlite://{self.directory}/holdfast.db",
            HOLDFAST_API_KEY=ADMIN_KEY,
            LOG_LEVEL="info",
            HOLDFAST__LOG__FORMAT="json",
            HOLDFAST__SERVER__HOST="127.0.0.1",
            HOLDFAST__SERVER__GRACE_SECONDS="2",
            HOLDFAST__CACHE__LISTS_TTL_SECONDS="0",
            HOLDFAST__WORKER__HEARTBEAT_SECONDS=str(HEARTBEAT_SECONDS if lost_after == LOST_AFTER_SECONDS else lost_after // 3),
            HOLDFAST__WORKER__LOST_AFTER_SECONDS=str(lost_after),
            **({"REDIS_URL": redis.url} if redis else {}),
        )
        self.env = child_env(**{**own, **(settings or {})})
        self.services: dict[str, Process] = {}
        self.start("api")
        self.start("worker")
        if beat:
            self.start("beat")

    def start(self, role: str) -> None:
        """Starts a service, or starts it again after it was killed."""
        # The other services listen too, for health checks.
        port = self.port if role == "api" else free_port()
        env = {**self.env, "PORT": str(port)}
        self.services[role] = Process(role, [self.holdfast, role], self.directory, env)
        what = f"{role} is ready:\n{self.services[role].tail()}"
        if role == "api":
            eventually(self._api_is_ready, what)
        else:
            eventually(lambda: _accepts(port), what)

    def _api_is_ready(self) -> bool:
        if not self.services["api"].is_running():
            raise Failure(f"the api ended:\n{self.services['api'].tail()}")
        try:
            return self.admin.call("GET", "/v1/queues", timeout=5).status == 200
        except (OSError, http.client.HTTPException):
            return False

    def log_of(self, role: str) -> str:
        return self.services[role].log.read_text(errors="replace")

    def end(self) -> None:
        for process in self.services.values():
            process.send(signal.SIGTERM)
        for process in self.services.values():
            process.end()
        if self.postgres:
            self.postgres.end()


class Counter:
    """Numbers that are handed out once."""

    def __init__(self) -> None:
        self._lock, self._last = threading.Lock(), 0

    def next(self) -> int:
        with self._lock:
            self._last += 1
            return self._last
