"""What a real server does seldom, with one in memory. Each test is about one sentence of :mod:`holdfast.worker`."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import threading
import time
from typing import Any

import holdfast
import httpx
import pytest
from conftest import eventually
from fake import FakeServer
from holdfast import App, Context

app = App(queue="q")
RUNS: list[tuple[str, Any]] = []
GATE = threading.Event()


@app.job("echo")
async def echo(ctx: Context, payload: Any, /) -> Any:
    RUNS.append((ctx.job_id, payload))
    return payload


@app.job("gated")
def gated(ctx: Context) -> str:
    RUNS.append((ctx.job_id, None))
    while not GATE.is_set() and not ctx.cancelled:
        time.sleep(0.005)
    return str(ctx.cancel_reason)


@app.job("sleepy")
async def sleepy(ctx: Context, ignore: bool = False) -> str:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        if not ignore:
            raise
    return str(ctx.cancel_reason)


@pytest.fixture(autouse=True)
def fresh() -> None:
    RUNS.clear()
    GATE.clear()


def problem(status: int, slug: str) -> httpx.Response:
    return httpx.Response(status, json={"type": f"urn:holdfast:problem:{slug}", "title": "T", "status": status, "detail": "D"})


def test_a_job_that_is_given_twice_under_one_fence_runs_once() -> None:
    server = FakeServer()
    server.give("gated", {})
    with server.worker(app):
        eventually(lambda: RUNS, "the first run")
        server.give("gated", {})
        server.give("echo", 1, "J2")
        eventually(lambda: server.outcomes, "the other job")
        GATE.set()
        eventually(lambda: len(server.outcomes) == 2, "its outcome")
    assert [id for id, _ in RUNS] == ["J1", "J2"]


def test_a_job_that_comes_again_before_its_outcome_is_answered_runs_again() -> None:
    server = FakeServer()
    server.before = lambda name, body: problem(503, "unavailable") if name == "finish" and len(RUNS) < 2 else None
    server.give("echo", 1)
    with server.worker(app):
        eventually(lambda: server.named("finish"), "the first outcome")
        server.give("echo", 1, fence="f2")
        eventually(lambda: len(server.outcomes) == 2, "both outcomes")
    assert sorted(one["fence"] for one in server.outcomes) == ["f1", "f2"]


def test_an_answer_to_an_older_heartbeat_does_not_stop_a_newer_run() -> None:
    """The list of the heartbeat had J1 under its first fence; meanwhile it came again under the second."""
    server = FakeServer()
    with server.worker(app) as worker:
        running = worker._running
        assert running is not None
        version = running.runs._version
        server.give("gated", {}, fence="f2")
        eventually(lambda: RUNS, "the run")
        session = running.sessions.current
        assert session is not None
        stale = holdfast._calls.Instructions(cancel=("J1",), lost=("J1",), drain=False)
        running.loop.call_soon_threadsafe(running.heard, session, version, stale)
        GATE.set()
        eventually(lambda: server.outcomes, "its outcome")
    assert server.outcomes[0]["result"] == "None"


def test_a_lost_run_is_stopped_and_its_job_may_come_again() -> None:
    server = FakeServer()
    server.give("gated", {})
    with server.worker(app, concurrency=2):
        eventually(lambda: RUNS, "the run")
        server.beat = {"lost": ["J1"]}
        eventually(lambda: any("J1" not in body["have"] for body in server.named("pull")[2:]) or server.outcomes, "it is not named")
        server.beat = {}
        server.give("echo", 2, "J1", fence="f2")
        eventually(lambda: {one["fence"] for one in server.outcomes} == {"f1", "f2"}, "both outcomes")


def test_a_server_that_forgot_the_worker_gets_a_new_registration_and_the_old_outcomes() -> None:
    server = FakeServer()
    server.give("gated", {})
    with server.worker(app):
        eventually(lambda: RUNS, "the run")
        server.before = lambda name, body: problem(404, "worker-not-found") if name == "heartbeat" and server.workers == 1 else None
        eventually(lambda: server.workers == 2, "the new registration")
        eventually(lambda: server.outcomes, "the outcome of the void run")
    assert server.outcomes[0]["result"] == "lost"


def test_one_outcome_that_the_server_refuses_does_not_hold_up_the_others(caplog: pytest.LogCaptureFixture) -> None:
    server = FakeServer()

    def refuse(name: str, body: Any) -> httpx.Response | None:
        is_bad = name == "finish" and any(one.get("result") == "bad" for one in body["outcomes"])
        return problem(422, "invalid-field") if is_bad else None

    server.before = refuse
    for number in range(9):
        server.give("echo", "bad" if number == 4 else number, f"J{number}")
    with server.worker(app):
        eventually(lambda: len(server.outcomes) == 9, "all outcomes")
    (bad,) = [one for one in server.outcomes if one["outcome"] == "discard"]
    assert bad["job"] == "J4" and "the server refused the outcome: D" in bad["error"]


def test_an_outcome_that_is_refused_in_every_form_is_dropped_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    server = FakeServer()
    server.before = lambda name, body: problem(422, "invalid-field") if name == "finish" else None
    server.give("echo", 1)
    with server.worker(app) as worker:
        eventually(lambda: len(server.named("finish")) == 2 and worker.stats.held == 0, "it is dropped")
    assert "is dropped" in caplog.text


def test_a_revoked_key_holds_outcomes_until_it_is_accepted_again() -> None:
    server = FakeServer()
    server.before = lambda name, body: problem(401, "unauthenticated") if name == "finish" and len(server.named(name)) < 3 else None
    server.give("echo", 1)
    with server.worker(app):
        eventually(lambda: server.outcomes, "the outcome")


@pytest.mark.parametrize(
    "page", [httpx.Response(404, text="<html>"), httpx.Response(200, text="<html>"), httpx.Response(302), httpx.Response(400, text="no")]
)
def test_pages_of_a_proxy_hold_outcomes_and_are_no_answers(page: httpx.Response) -> None:
    server = FakeServer()

    def odd(name: str, body: Any) -> httpx.Response | None:
        is_odd = name in ("finish", "heartbeat", "pull") and len(server.named(name)) == 2
        return httpx.Response(page.status_code, content=page.content) if is_odd else None

    server.before = odd
    for number in range(3):
        server.give("echo", number, f"J{number}")
    with server.worker(app, concurrency=1):
        eventually(lambda: len(server.outcomes) == 3, "all outcomes")
        eventually(lambda: len(server.named("heartbeat")) >= 3, "heartbeats go on")
    assert server.workers == 1 and {one["outcome"] for one in server.outcomes} == {"completed"}


def test_a_text_that_no_json_holds_is_a_reason_all_the_same() -> None:
    odd = App(queue="q")

    @odd.job("odd")
    def handler() -> None:
        raise ValueError("\ud800 and \x00")

    server = FakeServer()
    server.give("odd", {})
    with server.worker(odd):
        eventually(lambda: server.outcomes, "the outcome")
    assert server.outcomes[0]["outcome"] == "failed" and "ValueError" in server.outcomes[0]["error"]


def test_a_worker_that_has_ended_can_be_stopped() -> None:
    server = FakeServer()
    server.beat = {"drain": True}
    with server.worker(app) as worker:
        assert worker.join() == "drain"
    worker.stop()


def test_heartbeats_come_from_the_loop_where_no_process_works(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    server = FakeServer()
    worker = server.worker(app)
    worker._heartbeat = "process"
    with worker:
        eventually(lambda: server.named("heartbeat"), "a heartbeat")
    assert "no heartbeat process works here" in caplog.text


def test_a_heartbeat_process_that_says_nothing_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.worker._lease.MUTE_SECONDS", 0.5)
    monkeypatch.setattr("holdfast.worker._lease.TELL_SECONDS", 0.1)
    monkeypatch.setattr("holdfast.worker._lease.STEADY_SECONDS", 0.0)
    worker = FakeServer().worker(app)
    worker._heartbeat = "process"
    with worker:
        (first,) = eventually(pulses, "a heartbeat process")
        os.kill(first, signal.SIGSTOP)
        eventually(lambda: [pid for pid in pulses() if pid != first], "another one")
    assert pulses() == []


def pulses() -> list[int]:
    """The heartbeat processes of this one."""
    listed = subprocess.run(["ps", "-A", "-ww", "-o", "pid=,ppid=,args="], check=True, capture_output=True, text=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    return [int(pid) for pid, parent, command in rows if int(parent) == os.getpid() and "import _pulse" in command]


def test_what_is_held_is_sent_at_the_end_without_a_long_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakeServer()
    refused = [True]
    server.before = lambda name, body: (
        httpx.Response(503, headers={"Retry-After": "60"}, json={}) if name == "finish" and refused[0] else None
    )
    server.give("echo", 1)
    with server.worker(app):
        eventually(lambda: server.named("finish"), "the outcome is held")
        refused[0] = False
    assert len(server.outcomes) == 1


def test_a_job_without_a_handler_is_put_back() -> None:
    server = FakeServer()
    server.give("unheard", {})
    with server.worker(app):
        eventually(lambda: server.outcomes, "the outcome")
    assert server.outcomes == [{"job": "J1", "fence": "f1", "outcome": "snooze", "retry_after_seconds": 15.0}]


@pytest.mark.parametrize("kind", ["sleepy", "gated"])
def test_a_deadline_ends_the_attempt_whether_the_handler_listens_or_not(kind: str) -> None:
    server = FakeServer()
    server.give(kind, {}, deadline_seconds=0.3)
    with server.worker(app):
        eventually(lambda: server.outcomes, "the outcome")
        assert server.outcomes == [{"job": "J1", "fence": "f1", "outcome": "failed", "error": "timed out after 0.3 s"}]
        GATE.set()
        server.give("echo", 1, "J2")
        eventually(lambda: len(server.outcomes) == 2, "the worker goes on")


def test_handlers_that_do_not_return_after_their_deadline_stop_the_pulling_and_then_the_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("holdfast.worker._worker.STUCK_SECONDS", 0.2)
    block = threading.Event()
    stuck = App(queue="q")

    @stuck.job("stuck")
    def handler() -> None:
        block.wait()

    server = FakeServer()
    server.give("stuck", {}, deadline_seconds=0.1)
    with server.worker(stuck, concurrency=1) as worker:
        eventually(lambda: server.outcomes, "the outcome")
        running = worker._running
        assert running is not None and running.runs.room == 0
        block.set()
        eventually(lambda: running.runs.room == 1, "it has returned")
    block.clear()
    server.give("stuck", {}, "J2", deadline_seconds=0.1)
    with server.worker(stuck, concurrency=1, kill_when_stuck=True) as worker:
        assert worker.join() == "stuck"
    block.set()


def test_a_cancelled_async_handler_is_interrupted_if_it_does_not_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.worker._worker.CANCEL_SECONDS", 0.1)
    server = FakeServer()
    server.give("sleepy", {})
    server.beat = {"cancel": ["J1"]}
    with server.worker(app):
        eventually(lambda: server.outcomes, "the outcome")
    assert server.outcomes == [{"job": "J1", "fence": "f1", "outcome": "cancelled"}]


def test_progress_and_lines_are_sent_before_the_outcome() -> None:
    talking = App(queue="q")

    @talking.job("talk")
    async def talk(ctx: Context) -> None:
        ctx.progress(1)
        ctx.progress({"percent": 50})
        ctx.log("first")
        ctx.log("x" * 5000)

    server = FakeServer()
    server.give("talk", {})
    with server.worker(talking):
        eventually(lambda: server.outcomes, "the outcome")
    news = [body for name, body in server.calls if name == "heartbeat" and body["progress"]]
    assert news[0]["progress"] == {"J1": {"percent": 50}} and [line["line"] for line in news[0]["log"]] == ["first", "x" * 4096]
    names = [name for name, body in server.calls if name == "finish" or (name == "heartbeat" and body["progress"])]
    assert names[:2] == ["heartbeat", "finish"]


def test_a_stop_during_the_registration_deletes_what_it_made() -> None:
    server = FakeServer()
    arrived = threading.Event()

    async def slow(body: Any) -> httpx.Response:
        arrived.set()
        await asyncio.sleep(0.3)
        server.workers += 1
        return httpx.Response(201, json={"id": "W1"})

    server.on_workers = slow  # type: ignore[method-assign]
    worker = server.worker(app)
    thread = threading.Thread(target=worker.start)
    thread.start()
    arrived.wait()
    worker.stop()
    thread.join()
    assert server.workers == 1 and server.named("delete") == [None]


def test_a_stop_hands_back_what_does_not_end_in_time() -> None:
    server = FakeServer()
    server.give("sleepy", {})
    server.give("gated", {}, "J2")
    worker = server.worker(app).start()
    eventually(lambda: RUNS, "the runs")
    worker.stop(grace_seconds=0.1)
    # The thread saw `ctx.cancelled` and returned something; the other was interrupted, and reports nothing.
    assert [(one["job"], one["result"]) for one in server.outcomes] == [("J2", "shutdown")]
    assert server.named("delete") == [None]
    assert worker.join() == "stop"


def test_an_order_to_drain_lets_handlers_finish() -> None:
    server = FakeServer()
    server.give("gated", {})
    worker = server.worker(app).start()
    eventually(lambda: RUNS, "the run")
    server.beat = {"drain": True}
    pulls = len(server.named("pull"))
    time.sleep(0.4)
    GATE.set()
    assert worker.join() == "drain"
    assert [one["result"] for one in server.outcomes] == ["None"] and len(server.named("pull")) <= pulls + 1


def test_on_register_again_the_old_id_is_deleted_when_its_jobs_have_ended() -> None:
    server = FakeServer()
    server.give("gated", {})
    pulls = 0

    def worn(name: str, body: Any) -> httpx.Response | None:
        nonlocal pulls
        if name != "pull":
            return None
        pulls += 1
        jobs, server.waiting = server.waiting, []
        return httpx.Response(200, json={"jobs": jobs, "register_again": True}) if pulls == 1 else None

    server.before = worn
    with server.worker(app):
        eventually(lambda: server.workers == 2 and RUNS, "the second registration")
        assert server.named("delete") == []
        GATE.set()
        eventually(lambda: server.named("delete"), "the first id is deleted")
    assert len(server.named("delete")) == 2


def test_many_outcomes_go_in_few_calls() -> None:
    server = FakeServer()
    for number in range(1000):
        server.give("echo", number, f"J{number}")
    with server.worker(app, concurrency=500):
        eventually(lambda: len(server.outcomes) == 1000, "all outcomes")
    assert len(server.named("finish")) <= 40
    assert len({one["job"] for one in server.outcomes}) == 1000


def test_an_odd_answer_is_no_end(caplog: pytest.LogCaptureFixture) -> None:
    server = FakeServer()
    odd = [httpx.Response(200, text="<html>"), httpx.Response(200, json={"jobs": [{}]}), httpx.Response(302)]
    server.before = lambda name, body: odd.pop() if name == "pull" and odd else None
    server.give("echo", 1)
    caplog.set_level(logging.ERROR)
    import holdfast.worker._puller as puller

    seconds, puller.REFUSED_SECONDS = puller.REFUSED_SECONDS, 0.05
    try:
        with server.worker(app):
            eventually(lambda: server.outcomes, "the outcome")
    finally:
        puller.REFUSED_SECONDS = seconds
