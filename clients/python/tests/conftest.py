"""Servers for tests: a real Holdfast on SQLite, and PostgreSQL. Both are private, and ended by process id."""

from __future__ import annotations

import glob
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ADMIN_KEY = "python-tests-admin-key-of-no-worth"
LOST_AFTER_SECONDS = 3.0
DEADLINE_SECONDS = 60.0

#: Those that were started by the test that runs.
PROGRAMS: list[Program] = []


def eventually(look: Callable[[], Any], what: str) -> Any:
    """The first true value of ``look``."""
    until = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < until:
        value = look()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {DEADLINE_SECONDS:g} s: {what}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def binary() -> str:
    named = os.environ.get("HOLDFAST_BINARY")
    found = Path(named) if named else Path(__file__).resolve().parents[3] / "target/debug/holdfast"
    if not found.exists():
        pytest.skip("no built holdfast: set HOLDFAST_BINARY")
    return str(found)


def clean_environment(**more: str) -> dict[str, str]:
    own = ("HOLDFAST", "DATABASE_", "REDIS", "PG")
    return {name: text for name, text in os.environ.items() if not name.startswith(own) and name != "PORT"} | more


class Server:
    """`holdfast dev`: API, worker and beat in one process."""

    def __init__(self, directory: Path, database: str | None = None) -> None:
        self.key = ADMIN_KEY
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._directory = directory
        self._environment = clean_environment(
            PORT=str(self.port),
            HOLDFAST_API_KEY=ADMIN_KEY,
            DATABASE_URL=database or f"sqlite://{directory}/holdfast.db",
            HOLDFAST__SERVER__HOST="127.0.0.1",
            HOLDFAST__SERVER__GRACE_SECONDS="1",
            HOLDFAST__WORKER__HEARTBEAT_SECONDS="1",
            HOLDFAST__WORKER__LOST_AFTER_SECONDS=str(int(LOST_AFTER_SECONDS)),
        )
        self.log = directory / "server.log"
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [binary(), "dev"], cwd=self._directory, env=self._environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        eventually(self._answers, "the server answers")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2):
                return True
        except OSError:
            return False


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("server"))
    yield running
    running.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a private PostgreSQL, which runs as another user if this is root."""
    programs = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
    path = os.pathsep.join([*reversed(programs), os.environ.get("PATH", "")])
    initdb, program = shutil.which("initdb", path=path), shutil.which("postgres", path=path)
    if initdb is None or program is None:
        pytest.skip("PostgreSQL is not installed")
    # Not below a directory of the tests, which other users may not enter.
    directory = subprocess.run(["mktemp", "-d"], check=True, capture_output=True, text=True).stdout.strip()
    other: dict[str, Any] = {}
    if os.getuid() == 0:
        entry = pwd.getpwnam("postgres" if any(one.pw_name == "postgres" for one in pwd.getpwall()) else "nobody")
        other = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        os.chown(directory, entry.pw_uid, entry.pw_gid)
    environment = clean_environment(LC_ALL="C")
    data, port = f"{directory}/data", free_port()
    command = [initdb, "-D", data, "-U", "holdfast", "-A", "trust", "-E", "UTF8", "--no-sync"]
    subprocess.run(command, cwd=directory, env=environment, check=True, stdout=subprocess.DEVNULL, **other)
    command = [program, "-D", data, "-p", str(port), "-c", "fsync=off", "-c", f"unix_socket_directories={directory}"]
    with open(f"{directory}/../holdfast-postgres-{port}.log", "wb") as log:
        process = subprocess.Popen(command, cwd=directory, env=environment, stdout=log, stderr=log, **other)
    eventually(lambda: _accepts(port), "PostgreSQL accepts connections")
    yield f"postgres://holdfast@127.0.0.1:{port}/postgres"
    process.send_signal(signal.SIGINT)
    process.wait(15)
    os.unlink(f"{directory}/../holdfast-postgres-{port}.log")
    shutil.rmtree(directory, ignore_errors=True)


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def is_alive(pid: int) -> bool:
    """Not ended; a zombie has."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return state != "" and not state.startswith("Z")


@pytest.fixture(autouse=True)
def no_program_is_left() -> Iterator[None]:
    """Also after a test that failed. Workers of a supervisor end when it has."""
    yield
    while PROGRAMS:
        process = PROGRAMS.pop().process
        if process.poll() is None:
            process.kill()
            process.wait()


def command() -> list[str]:
    """The program that the package installs; the module, where the server's program of the same name stands in its place."""
    script = Path(sys.executable).with_name("holdfast")
    is_ours = script.exists() and script.open("rb").read(2) == b"#!"
    return [str(script)] if is_ours else [sys.executable, "-m", "holdfast"]


class Program:
    """A worker of the command line, in a process of its own."""

    def __init__(self, directory: Path, server: Server, *arguments: str, key: str | None = None) -> None:
        environment = clean_environment(HOLDFAST_URL=server.url, HOLDFAST_API_KEY=key or server.key, PYTHONPATH=str(directory))
        self.log = directory / f"worker-{time.monotonic_ns()}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command(), *arguments], cwd=directory, env=environment, stdout=log, stderr=log
            )
        PROGRAMS.append(self)

    def text(self) -> str:
        return self.log.read_text()

    def says(self, words: str) -> None:
        eventually(lambda: words in self.text() or self.process.poll() is not None, words)
        assert words in self.text(), self.text()

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_SECONDS)

    def children(self) -> list[int]:
        listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], check=True, capture_output=True, text=True).stdout
        pairs = [tuple(map(int, line.split())) for line in listed.splitlines()]
        return [pid for pid, parent in pairs if parent == self.process.pid]
