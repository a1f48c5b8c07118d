"""The heartbeat process, against a server of few lines."""

from __future__ import annotations

import json
import os
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from conftest import eventually, is_alive
from holdfast._http import Endpoint
from holdfast import _pulse
from holdfast.worker._lease import ProcessLease

PROGRAM = Path(_pulse.__file__)


class Heard(socketserver.ThreadingTCPServer):
    """Counts heartbeats. ``answer`` is status, body and form of the next ones."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self) -> None:
        self.beats: list[tuple[str, Any, str]] = []
        self.connections = 0
        self.answer: tuple[int, bytes, str] = (200, b'{"cancel":[],"lost":[],"drain":false}', "length")
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Heard

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.beats.append((self.path, body, self.headers["Authorization"]))
        status, content, form = self.server.answer
        self.send_response(status)
        if form == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
            content = b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content)
        else:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        self.close_connection = form == "close"

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def heard() -> Iterator[Heard]:
    with Heard() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


class Process:
    def __init__(self, port: int, *, parent: int | None = None, kill: bool = False) -> None:
        self.popen = subprocess.Popen([sys.executable, "-I", "-S", str(PROGRAM)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.write(f"http\t127.0.0.1\t{port}\t/base\t\t{parent or os.getpid()}\t{int(kill)}\nBearer key\n")

    def write(self, text: str) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(text.encode())
        self.popen.stdin.flush()

    def state(self, silence: float = 30.0, jobs: str = '["J1"]', session: str = "W1") -> None:
        self.write(f'state\t{silence}\t1\n{session}\t0.1\t7\t{{"running":{jobs}}}\n')

    def line(self) -> str:
        assert self.popen.stdout is not None
        return self.popen.stdout.readline().decode().rstrip("\n")

    def close(self) -> int:
        assert self.popen.stdin is not None
        self.popen.stdin.close()
        return self.popen.wait(10)


@pytest.mark.parametrize("form", ["length", "chunked", "close"])
def test_heartbeats_are_sent_and_answers_are_told(heard: Heard, form: str) -> None:
    heard.answer = (200, b'{"cancel":["J1"],\n"lost":[]}', form)
    process = Process(heard.server_address[1])
    process.state()
    assert [process.line() for _ in range(3)] == ['beat\tW1\t7\t200\t{"cancel":["J1"], "lost":[]}'] * 3
    assert heard.beats[0] == ("/base/v1/workers/W1/heartbeat", {"running": ["J1"]}, "Bearer key")
    assert (heard.connections == 1) == (form != "close")
    assert process.close() == 0


def test_a_failure_is_told_and_the_heartbeat_repeated(heard: Heard) -> None:
    port = heard.server_address[1]
    heard.answer = (503, b"{}", "length")
    process = Process(port)
    process.state()
    assert process.line() == "beat\tW1\t7\t503\t{}"
    heard.answer = (200, b"{}", "length")
    assert process.line() == "beat\tW1\t7\t200\t{}"
    process.close()
    nobody = Process(1)
    nobody.state()
    assert nobody.line().startswith("fail\tW1\tConnectionRefusedError")
    nobody.close()


def test_it_ends_when_its_worker_does(heard: Heard) -> None:
    """The input stays open, as when the worker has forked a process that outlives it."""
    middle = subprocess.Popen(
        [sys.executable, "-c", START.format(program=str(PROGRAM), port=heard.server_address[1])], stdout=subprocess.PIPE, text=True
    )
    assert middle.stdout is not None
    pid = int(middle.stdout.readline())
    eventually(lambda: heard.beats, "a heartbeat")
    middle.kill()
    middle.wait()
    eventually(lambda: not is_alive(pid), "it has ended")
    beats = len(heard.beats)
    time.sleep(0.3)
    assert len(heard.beats) == beats


START = """
import os, subprocess, sys, time
read, write = os.pipe()
child = subprocess.Popen([sys.executable, "-I", "-S", {program!r}], stdin=read, stdout=subprocess.DEVNULL)
os.write(write, ("http\\t127.0.0.1\\t{port}\\t\\t\\t%d\\t0\\n\\nstate\\t30\\t1\\nW1\\t0.1\\t1\\t{{}}\\n" % os.getpid()).encode())
os.set_inheritable(write, True)
holder = subprocess.Popen(["sleep", "20"], pass_fds=[write])
print(child.pid, flush=True)
time.sleep(60)
"""


def test_signals_for_the_group_do_not_end_it(heard: Heard) -> None:
    process = Process(heard.server_address[1])
    process.state()
    process.line()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        process.popen.send_signal(number)
    beats = len(heard.beats)
    eventually(lambda: len(heard.beats) > beats + 2, "it goes on")
    process.close()


def test_heartbeats_end_when_the_worker_is_silent_for_too_long_and_go_on_when_it_speaks(heard: Heard) -> None:
    process = Process(heard.server_address[1])
    process.state(silence=0.3)
    eventually(lambda: heard.beats, "a heartbeat")
    time.sleep(0.6)
    beats = len(heard.beats)
    time.sleep(0.4)
    assert len(heard.beats) == beats
    process.state()
    eventually(lambda: len(heard.beats) > beats, "it goes on")
    process.close()


def test_a_worker_that_hangs_is_killed_if_that_is_wished(heard: Heard) -> None:
    middle = subprocess.Popen(
        [
            sys.executable,
            "-c",
            START.format(program=str(PROGRAM), port=heard.server_address[1])
            .replace("%d\\t0", "%d\\t1")
            .replace("state\\t30", "state\\t0.2"),
        ],
        stdout=subprocess.DEVNULL,
    )
    assert middle.wait(20) == -signal.SIGKILL


def test_a_worker_that_was_suspended_with_its_heartbeats_gets_time_to_speak() -> None:
    pulse = _pulse.Pulse(f"http\t127.0.0.1\t1\t\t\t{os.getpid()}\t1", "", lambda line: None)
    pulse.learn("state\t0.0\t1", ["W1\t5\t1\t{}"])
    later = time.monotonic() + 1_000
    pulse.wake(later)
    assert pulse._quiet_at >= later + _pulse.SUSPENDED_SECONDS
    pulse.wake(later + 1)
    assert pulse._quiet_at < later + 1_000


def test_a_session_that_is_no_longer_named_has_no_heartbeats(heard: Heard) -> None:
    process = Process(heard.server_address[1])
    process.state()
    process.line()
    process.write("state\t30\t0\n")
    time.sleep(0.3)
    beats = len(heard.beats)
    time.sleep(0.3)
    assert len(heard.beats) == beats
    process.close()


def test_what_the_process_tells_is_heard(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Any] = []

    class Source:
        def session(self, id: str) -> Any:
            return id if id == "W1" else None

        def heard(self, session: Any, version: int, answer: Any) -> None:
            heard.append((session, version, answer and answer.cancel))

    lease = ProcessLease(Endpoint.of("http://test", None, None), None, Source(), kills=False)  # type: ignore[arg-type]
    for line in (
        'beat\tW1\t3\t200\t{"cancel":["J1"],"newer":1}',
        'beat\tW1\t4\t404\t{"type":"urn:holdfast:problem:worker-not-found"}',
        "beat\tW1\t5\t404\t<html>not here</html>",
        "beat\tW1\t6\t200\t<html>sign in</html>",
        "beat\tW1\t7\t503\t",
        "fail\tW1\tTimeoutError: no answer",
        'beat\tW9\t8\t200\t{"cancel":["J1"]}',
    ):
        lease._hear(line)
    assert heard == [("W1", 3, ("J1",)), ("W1", 4, None)]
    assert caplog.text.count("a heartbeat failed") == 1
