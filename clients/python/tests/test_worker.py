"""Workers of the command line and of a program, against a real server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import holdfast
import pytest
from conftest import LOST_AFTER_SECONDS, Program, Server, command, eventually, is_alive
from holdfast import App, Client, Context, KindDefinition, Worker

MODULE = '''
import asyncio, ctypes, os, time
from holdfast import App, Context
app = App(queue="{queue}")

@app.job("{queue}.hold", max_attempts=1)
def hold(seconds: float) -> str:
    """Holds Python's lock inside one C call."""
    ctypes.PyDLL(None).usleep(int(seconds * 1_000_000))
    return "held"

@app.job("{queue}.block", max_attempts=1)
async def block(seconds: float) -> str:
    """Blocks the event loop."""
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        pass
    return "blocked"

@app.job("{queue}.deaf")
def deaf(seconds: float) -> None:
    """Does not see that it is to stop."""
    time.sleep(seconds)

@app.job("{queue}.wait")
def wait(ctx: Context, path: str) -> int:
    with open(path, "a") as file:
        file.write(f"{{os.getpid()}}\\n")
    while not os.path.exists(path + ".go") and not ctx.cancelled:
        time.sleep(0.01)
    return os.getpid()
'''


@pytest.fixture
def queue(tmp_path: Path) -> str:
    """A queue of the test's own, and the module `jobs` with handlers for it."""
    name = f"q{time.monotonic_ns()}"
    (tmp_path / "jobs.py").write_text(MODULE.format(queue=name))
    return name


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.url, server.key) as client:
        yield client


def test_the_module_is_the_program_that_is_installed() -> None:
    ways = (command(), [sys.executable, "-m", "holdfast"])
    said = [subprocess.run([*way, "worker", "--help"], check=True, capture_output=True, text=True).stdout for way in ways]
    assert said[0] == said[1] and "--concurrency" in said[0]


def test_a_worker_in_a_program_runs_both_sorts_of_handlers(server: Server) -> None:
    app = App(server.url, server.key, queue="both")

    @app.job("both.plain")
    def plain(ctx: Context, a: int) -> dict[str, Any]:
        return {"a": a, "attempt": ctx.attempt, "left": ctx.seconds_left > 0}

    @app.job("both.async")
    async def on_loop(ctx: Context, a: int) -> int:
        ctx.progress({"a": a})
        return a + 1

    assert app.declare() == ["both.plain", "both.async"]
    with Worker(app, name="both") as worker:
        assert plain.delay(1).result(30) == {"a": 1, "attempt": 1, "left": True}
        job = on_loop.options(then=plain.new(5)).delay(2)
        assert job.wait(30).result == 3
        assert job.refresh().progress == {"a": 2}
        child = eventually(lambda: job.refresh().child, "the follow-up job")
        assert app.client.wait(child, 30).result["a"] == 5
        batch = app.client.create_batch([plain.new(number) for number in range(5)], callback=on_loop.new(9))
        assert batch.wait(30).completed == 5
        assert worker.stats.worker_id is not None
        with pytest.raises(holdfast.InvalidRequest) as refused:
            app.client.enqueue("both.plain", {"a": "text"})
        assert refused.value.field == "payload.a"
    with pytest.raises(holdfast.WaitTimeout):
        plain.delay(1).wait(0.2)


def test_handlers_that_let_nothing_else_run_keep_their_leases(server: Server, client: Client, queue: str, tmp_path: Path) -> None:
    programs = [Program(tmp_path, server, "worker", "jobs:app", "--concurrency", "1") for _ in range(2)]
    for program in programs:
        program.says("registered as worker")
    jobs = [client.enqueue(f"{queue}.{handler}", {"seconds": LOST_AFTER_SECONDS + 1.5}) for handler in ("hold", "block")]
    for job in jobs:
        record = job.wait(60)
        assert (record.state, record.crashes, record.attempt) == ("completed", 0, 1)
    for program in programs:
        assert "worker-not-found" not in program.text() and program.end() == 0


def test_sigterm_waits_for_handlers_and_leaves(server: Server, client: Client, queue: str, tmp_path: Path) -> None:
    program = Program(tmp_path, server, "worker", "jobs:app")
    program.says("registered as worker")
    job = client.enqueue(f"{queue}.wait", {"path": str(tmp_path / "ran")})
    eventually((tmp_path / "ran").exists, "the handler runs")
    program.process.send_signal(signal.SIGTERM)
    program.says("the worker stops (signal)")
    (tmp_path / "ran.go").touch()
    assert job.wait(30).state == "completed"
    assert program.process.wait(30) == 0


def test_a_second_sigterm_ends_the_worker_at_once(server: Server, client: Client, queue: str, tmp_path: Path) -> None:
    program = Program(tmp_path, server, "worker", "jobs:app", "--grace", "600")
    program.says("registered as worker")
    client.enqueue(f"{queue}.wait", {"path": str(tmp_path / "ran")})
    eventually((tmp_path / "ran").exists, "the handler runs")
    program.process.send_signal(signal.SIGTERM)
    program.says("the worker stops (signal)")
    assert program.end() == 128 + signal.SIGTERM


def test_sigterm_hands_back_what_does_not_end_without_a_crash(server: Server, client: Client, queue: str, tmp_path: Path) -> None:
    program = Program(tmp_path, server, "worker", "jobs:app", "--grace", "0.1")
    program.says("registered as worker")
    job = client.enqueue(f"{queue}.deaf", {"seconds": 60})
    eventually(lambda: client.job(job.id).state == "running", "it runs")
    assert program.end() == 0
    record = client.job(job.id)
    assert (record.state, record.crashes, record.attempt) == ("available", 0, 0)


def test_processes_share_the_work_and_a_killed_one_is_replaced(server: Server, client: Client, queue: str, tmp_path: Path) -> None:
    program = Program(tmp_path, server, "worker", "jobs:app", "--processes", "2", "--concurrency", "1")
    eventually(lambda: program.text().count("registered as worker") == 2, "both are registered")
    path = tmp_path / "ran"
    jobs = [client.enqueue(f"{queue}.wait", {"path": str(path)}) for _ in range(2)]
    pids = eventually(lambda: path.exists() and len(lines := path.read_text().split()) == 2 and lines, "both run")
    assert len(set(pids)) == 2 and set(map(int, pids)) == set(program.children())
    os.kill(int(pids[0]), signal.SIGKILL)
    program.says("another is started")
    eventually(lambda: len(program.children()) == 2, "it is replaced")
    (tmp_path / "ran.go").touch()
    eventually(lambda: any(client.job(job.id).state == "completed" for job in jobs), "the other one has ended")
    # As a process manager does that signals all of its processes.
    for pid in program.children():
        os.kill(pid, signal.SIGTERM)
    assert program.end() == 0 and program.children() == []


def test_workers_whose_supervisor_was_killed_stop(server: Server, queue: str, tmp_path: Path) -> None:
    program = Program(tmp_path, server, "worker", "jobs:app", "--processes", "2")
    eventually(lambda: program.text().count("registered as worker") == 2, "both are registered")
    children = program.children()
    program.process.kill()
    program.process.wait()
    eventually(lambda: not any(is_alive(pid) for pid in children), "both have ended")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("key", ["401", "HOLDFAST_API_KEY"]),
        ("scope", ["403", "scope"]),
        ("queue", ["unknown", "nowhere"]),
        ("fleet", ["409", "queue-of-another-fleet"]),
        ("module", ["there is no module 'absent'"]),
        ("name", ["has no App named 'other'"]),
        ("url", ["credentials"]),
    ],
)
def test_a_worker_that_cannot_work_says_why_and_ends(server: Server, queue: str, tmp_path: Path, change: str, words: list[str]) -> None:
    key = None
    app, more = "jobs:app", []
    if change == "key":
        key = "wrong-key-0123456789-0123456789"
    elif change == "scope":
        key = _key(server, tmp_path, "produce")
    elif change == "queue":
        more = ["--queues", "nowhere"]
    elif change == "fleet":
        more = ["--queues", "default"]
    elif change == "module":
        app = "absent:app"
    elif change == "name":
        app = "jobs:other"
    else:
        more = ["--url", "http://user:hidden@127.0.0.1:1"]
    program = Program(tmp_path, server, "worker", app, *more, key=key)
    assert program.process.wait(60) == 2, program.text()
    text = program.text()
    assert all(word in text for word in words), text
    assert "Traceback" not in text and "hidden" not in text and (key is None or key not in text)


def test_a_key_for_work_alone_is_enough_once_the_kinds_are_declared(server: Server, client: Client, queue: str, tmp_path: Path) -> None:
    declared = Program(tmp_path, server, "declare", "jobs:app")
    assert declared.process.wait(60) == 0 and f"{queue}.wait" in declared.text()
    program = Program(tmp_path, server, "worker", "jobs:app", key=_key(server, tmp_path, "work"))
    program.says("registered as worker")
    assert client.enqueue(f"{queue}.hold", {"seconds": 0}).result(30) == "held"
    assert program.end() == 0


def test_the_heartbeat_process_is_replaced_when_it_is_killed(server: Server, queue: str, tmp_path: Path, client: Client) -> None:
    program = Program(tmp_path, server, "worker", "jobs:app")
    program.says("registered as worker")
    (pulse,) = eventually(program.children, "the heartbeat process")
    os.kill(pulse, signal.SIGKILL)
    program.says("is started again")
    (other,) = eventually(lambda: [pid for pid in program.children() if pid != pulse], "another one")
    assert program.end() == 0 and not is_alive(other)


def test_kinds_are_declared_as_they_are_given(client: Client) -> None:
    definition = KindDefinition(
        "declared.kind",
        "declared",
        timeout_seconds=30,
        max_attempts=2,
        base_seconds=1.5,
        payload_schema={"type": "object"},
        description="A kind.",
        redact=("/secret",),
    )
    shown = client.put_kind(definition)
    assert client.kind("declared.kind") == shown
    assert shown["retry"]["max_attempts"] == 2 and shown["redact"] == ["/secret"] and shown["timeout_seconds"] == 30
    client.delete_kind("declared.kind")
    with pytest.raises(holdfast.NotFound):
        client.kind("declared.kind")
    client.put_queue("declared2")
    client.delete_queue("declared2")


def _key(server: Server, directory: Path, scope: str) -> str:
    import json
    import urllib.request

    name = f"{scope}-{time.monotonic_ns()}"
    request = urllib.request.Request(
        f"{server.url}/v1/keys",
        json.dumps({"name": name, "scopes": [scope]}).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {server.key}"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return str(json.load(answer)["key"])
