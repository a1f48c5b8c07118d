"""Celery on a real server: the quick part, with test_celery_jobs.py. Celery's own integration suite, the faults and the figures are run by
scripts/celery."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import PROGRAMS, Server, clean_environment, eventually, free_port

pytest.importorskip("celery")

import celery
from celery import Celery, chain, chord, group
from celery.exceptions import TaskRevokedError
from celery_worker import STORES_REJECTIONS, Program, app, application, jobs, own, server, url_of, worker  # noqa: F401
from kombu import Connection, Exchange, Queue
from kombu.exceptions import OperationalError
from scripted import Scripted, answer

import holdfast.celery
from holdfast.celery import _message, queue_name
from holdfast.celery._calls import Calls
from holdfast.celery._endpoint import split
from holdfast.celery.transport import Channel
from holdfast.errors import ConfigurationError, InvalidRequest


# --- without a server -----------------------------------------------------------------------------------------------


def test_a_name_that_the_server_does_not_allow_gets_one_of_its_own() -> None:
    assert [queue_name(name) for name in ("celery", "high_prio-2")] == ["celery", "high_prio-2"]
    odd = ["High", "high.prio", "a b", "1", "", "ä", "x" * 64, "x" * 65, "high-prio"]
    names = [queue_name(name) for name in odd]
    assert len(set(names)) == len(odd)
    assert all(len(name) <= 63 and name[0].isalpha() and name == name.lower() and " " not in name for name in names)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("holdfast://KEY@h:1", ("h", 1, "KEY", False, "")),
        ("holdfast://:K%2FY@h", ("h", 8080, "K/Y", False, "")),
        ("holdfast+https://KEY@h/base/", ("h", 443, "KEY", True, "/base")),
        ("https://KEY@h", ("h", 443, "KEY", True, "")),
        ("holdfast://[::1]:9", ("::1", 9, None, False, "")),
    ],
)
def test_a_url_names_the_server_and_the_key(url: str, expected: Any) -> None:
    assert split(url) == expected


def test_a_url_that_is_none_is_refused_without_its_key() -> None:
    with pytest.raises(ConfigurationError) as error:
        split("redis://SECRET@h")
    assert "SECRET" not in str(error.value)


@pytest.mark.parametrize(
    "url", ["holdfast://SECRET@h:1", "holdfast://:SECRET@h:1", "holdfast+https://SECRET@h:1", "holdfast+https://:SECRET@h:1"]
)
def test_the_key_is_shown_nowhere(url: str) -> None:
    connection = Connection(url)
    info = connection.info()
    info.pop("password")
    texts = [connection.as_uri(), repr(connection), repr(info), repr(connection.transport.calls.endpoint)]
    texts += [connection.clone().as_uri(), application(url).backend.as_uri()]
    assert not [text for text in texts if "SECRET" in text]
    assert connection.clone().transport.calls is connection.transport.calls


def message(**headers: Any) -> dict[str, Any]:
    return {
        "body": "[[], {}, {}]",
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"id": "t1", "task": "tasks.add", **headers},
        "properties": {"delivery_tag": "tag", "priority": 0, "delivery_info": {}},
    }


def test_eta_expires_and_priority_become_those_of_the_job() -> None:
    eta = datetime(2030, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    call = _message.enqueue("Odd Name", message(eta=eta.isoformat(), expires="2031-01-01T00:00:00Z", ignore_result=True))
    job = json.loads(call.body or "")
    assert (job["kind"], job["queue"], job["priority"]) == ("celery", queue_name("Odd Name"), "high")
    assert (job["run_at"], job["expires_at"]) == ("2030-01-01T10:00:00+00:00", "2031-01-01T00:00:00+00:00")
    assert job["payload"]["headers"]["eta"] == eta.isoformat()
    # A worker has to mark it as revoked: the producer waits for the result.
    assert "expires_at" not in json.loads(_message.enqueue("q", message(expires="2031-01-01T00:00:00Z")).body or "")
    assert "expires_at" not in json.loads(
        _message.enqueue("q", message(expires="2031-01-01T00:00:00Z", ignore_result=True, group="g")).body or ""
    )
    assert [_message.priority({"priority": number}) for number in (None, 0, 2, 3, 5, 6, 9)] == ["high"] * 3 + ["normal"] * 2 + ["low"] * 2


class Recorder:
    """A channel that notes what it would send."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.fails = 0

    def publish(self, queue: str, message: dict[str, Any]) -> None:
        self.sent.append(json.loads(json.dumps(message)))
        if self.fails:
            self.fails -= 1
            raise ConnectionResetError("lost")


def test_a_repeat_by_kombu_is_the_same_publish_and_another_publish_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    monkeypatch.setattr(Calls, "publish", lambda _, queue, message: recorder.publish(queue, message))
    monkeypatch.setattr(Calls, "check", lambda _: None)
    monkeypatch.setattr(Calls, "is_job_queue", lambda *_: True)
    monkeypatch.setattr(Channel, "queue_bind", lambda *_, **__: None)
    app = application("holdfast://:k@127.0.0.1:1")
    recorder.fails = 2
    policy = {"max_retries": 5, "interval_start": 0, "interval_step": 0, "interval_max": 0}
    app.send_task("tasks.add", (1, 2), task_id="same", retry=True, retry_policy=policy)
    app.send_task("tasks.add", (1, 2), task_id="same", retries=1)
    app.send_task("tasks.add", (1, 2), task_id="same", retries=1)
    tags = [one["properties"]["delivery_tag"] for one in recorder.sent]
    assert len(tags) == 5 and tags[0] == tags[1] == tags[2] and len(set(tags[2:])) == 3
    assert recorder.sent[0] == recorder.sent[2]


#: Of a publish that is to raise at once: a bound that a busy machine keeps, far below every timeout and pause of a retry.
SOON_SECONDS = 3.0


def test_a_publish_raises_soon_while_nothing_listens() -> None:
    app = application(f"holdfast://:k@127.0.0.1:{free_port()}")
    began = time.monotonic()
    with pytest.raises(OperationalError):
        app.send_task("tasks.add", (1, 2), retry=False)
    assert time.monotonic() - began < SOON_SECONDS
    with pytest.raises(OperationalError):
        app.send_task("tasks.add", (1, 2), retry=True, retry_policy={"max_retries": 1, "interval_start": 0})


class Unwell(Scripted):
    """Answers 503 to the first bindings of a queue."""

    unavailable = 1

    def answer(self, request: bytes) -> bytes | None:
        line = request.split(b"\r\n")[0]
        if b"kombu.bindings" in line and self.unavailable:
            self.unavailable -= 1
            return answer(503, '{"type":"urn:holdfast:problem:unavailable","title":"Unavailable","detail":"no database"}')
        return answer(202, '{"id":"J1","results":[],"parts":[],"count":1}')


def test_a_queue_that_cannot_be_declared_at_once_is_declared_by_the_next_try() -> None:
    server = Unwell()
    app = application(f"holdfast://:k@{server.url.removeprefix('http://')}")
    app.send_task("tasks.add", (1, 2), retry=True, retry_policy={"max_retries": 1, "interval_start": 0})
    lines = [request.split(b" HTTP")[0] for request in server.requests]
    assert lines[-1] == b"POST /v1/jobs" and lines.count(lines[-1]) == 1
    server.close()
    server = Unwell()
    server.unavailable = 1_000
    app = application(f"holdfast://:k@{server.url.removeprefix('http://')}")
    with pytest.raises(OperationalError, match="no database"):
        app.send_task("tasks.add", (1, 2), retry=True, retry_policy={"max_retries": 1, "interval_start": 0})
    server.close()


def test_several_urls_are_tried_in_turn(server: Server) -> None:
    nowhere = f"holdfast://:k@127.0.0.1:{free_port()}"
    app = Celery("tasks", broker=f"{nowhere};{nowhere};{url_of(server)}", set_as_current=False)
    app.conf.task_default_queue = "in-turn"
    app.send_task("tasks.add", (1, 2), retry=False)
    assert len(jobs(server, "in-turn")) == 1
    # Kombu shares connections by the first URL.
    nowhere = f"holdfast://:k@127.0.0.1:{free_port()}"
    with pytest.raises(OperationalError):
        Celery("tasks", broker=f"{nowhere};{nowhere}", set_as_current=False).send_task("tasks.add", (1, 2), retry=False)


def test_the_schemes_are_known_without_an_import_of_ours() -> None:
    code = """
from celery import Celery
app = Celery(broker="holdfast://h", backend="holdfast+https://h")
print(app.connection().get_transport_cls().__module__, app.backend.__module__)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=clean_environment())
    assert found.stdout.split() == ["holdfast.celery.transport", "holdfast.celery.backend"], found.stderr
    assert holdfast.celery.queue_name("celery") == "celery"


def test_the_guide_says_what_becomes_of_every_setting() -> None:
    from celery.app.defaults import NAMESPACES, flatten

    if celery.VERSION[:2] != (5, 7):
        pytest.skip("the guide is about Celery 5.7")
    guide = next((one / "docs/celery.md" for one in Path(__file__).resolve().parents if (one / "mkdocs.yml").exists()), None)
    if guide is None:
        pytest.skip("the documentation is not beside the tests")
    rows = guide.read_text().partition("<!-- settings -->")[2].partition("<!-- /settings -->")[0].splitlines()
    listed = [name for row in rows for name in re.findall(r"`([a-z_]+)`", row.split("|")[1] if "|" in row else "")]
    others = tuple(re.findall(r"`([a-z0-9]+_)\*`", guide.read_text().partition("## Every setting")[2].partition("<!-- settings -->")[0]))
    assert len(listed) == len(set(listed))
    known = {name for name, _ in flatten(NAMESPACES)}
    assert sorted(name for name in known if not name.startswith(others) and name not in listed) == []
    assert [name for name in listed if name not in known or name.startswith(others)] == []
    # No prefix excuses a setting that is not of a backend.
    assert not [prefix for prefix in others if prefix.startswith(("broker", "result", "task", "worker", "beat", "control", "event", "security"))]


# --- on a server ----------------------------------------------------------------------------------------------------


def test_tasks_chains_groups_and_chords_run(app: Celery, worker: Program) -> None:
    add, total = app.signature("tasks.add"), app.signature("tasks.total")
    assert add.delay(1, 2).get(timeout=60) == 3
    assert chain(add.clone((1, 1)), add.clone((5,)), app=app)().get(timeout=60) == 7
    assert group([add.clone((i, 1)) for i in range(20)], app=app)().get(timeout=60) == list(range(1, 21))
    assert chord([add.clone((i, i)) for i in range(10)], app=app)(total.clone()).get(timeout=60) == 90
    assert worker.notes().count("total 90") == 1


def test_a_large_message_is_compressed_and_one_that_is_too_large_is_refused(app: Celery, worker: Program) -> None:
    assert app.send_task("tasks.total", ([1] * 150_000,)).get(timeout=60) == 150_000
    # Its result is as large.
    assert len(app.send_task("tasks.add", (["x" * 50] * 8_000, ["y"])).get(timeout=60)) == 8_001
    with pytest.raises(InvalidRequest, match="payload-too-large"):
        app.send_task("tasks.add", (os.urandom(300_000).hex(), ""))


def test_a_task_is_retried_by_celery(app: Celery, worker: Program) -> None:
    assert app.send_task("tasks.flaky", (2,)).get(timeout=60) == 2
    with pytest.raises(KeyError):
        app.send_task("tasks.keyed").get(timeout=60)
    assert worker.notes().count("keyed") == 3


def test_a_rejected_task_is_a_dead_letter_and_a_requeued_one_runs_again(app: Celery, server: Server, worker: Program) -> None:
    refused = app.send_task("tasks.refuse")
    if STORES_REJECTIONS:
        with pytest.raises(Exception, match="no good"):
            refused.get(timeout=60)
    eventually(lambda: [one for one in jobs(server, "celery") if one["state"] == "discarded"], "the dead letter")
    assert app.send_task("tasks.again").get(timeout=60) == "again"
    assert worker.notes().count("again") == 2


def test_the_server_holds_a_task_with_an_eta(app: Celery, server: Server, worker: Program) -> None:
    result = app.send_task("tasks.add", (1, 2), countdown=3_600, queue="later")
    (job,) = jobs(server, "later")
    assert (job["state"], result.state) == ("scheduled", "PENDING")
    assert app.send_task("tasks.add", (1, 2), countdown=0.5).get(timeout=60) == 3


def test_an_expired_or_revoked_task_is_revoked(app: Celery, worker: Program) -> None:
    with pytest.raises(TaskRevokedError):
        app.send_task("tasks.add", (1, 2), expires=-1.0).get(timeout=60)
    app.control.revoke("revoked-before")
    eventually(lambda: "revoked-before" in str(app.control.inspect(timeout=2).revoked()), "the revocation is known")
    with pytest.raises(TaskRevokedError):
        app.send_task("tasks.add", (1, 2), task_id="revoked-before").get(timeout=60)


def test_remote_control_and_events(app: Celery, worker: Program) -> None:
    inspect = app.control.inspect(timeout=5, limit=1)
    (answers,) = app.control.ping(timeout=5, limit=1)
    (name,) = answers
    assert inspect.stats()[name]["broker"]["transport"] == "holdfast"
    assert "tasks.add" in inspect.registered()[name]
    seen: list[str] = []

    def capture() -> None:
        with app.connection() as connection:
            receiver = app.events.Receiver(connection, handlers={"*": lambda event: seen.append(event["type"])})
            receiver.capture(limit=None, timeout=60, wakeup=False)

    threading.Thread(target=capture, daemon=True).start()

    def look() -> bool:
        app.send_task("tasks.add", (1, 2)).get(timeout=60)
        return {"task-received", "task-started", "task-succeeded"} <= set(seen)

    eventually(look, f"events are seen: {set(seen)}")


def test_queues_of_any_name_and_exchanges_of_every_type(server: Server) -> None:
    got: list[Any] = []
    topic = Exchange("Topics!", type="topic")
    queue = Queue("Odd Name/1", topic, routing_key="news.#")
    with Connection(url_of(server)) as consuming, Connection(url_of(server)) as publishing:
        with consuming.Consumer([queue], callbacks=[lambda body, message: (got.append(body), message.ack())]):
            publishing.Producer().publish({"n": 1}, exchange=topic, routing_key="news.today.x", declare=[topic])
            publishing.Producer().publish({"n": 2}, exchange=topic, routing_key="other", declare=[topic])
            binary: dict[str, Any] = {
                "declare": [topic],
                "serializer": None,
                "content_type": "application/data",
                "content_encoding": "binary",
            }
            publishing.Producer().publish(b"\x00\xff", exchange=topic, routing_key="news.b", **binary)
            while len(got) < 2:
                consuming.drain_events(timeout=60)
        eventually(lambda: {one["state"] for one in jobs(server, queue_name("Odd Name/1"))} == {"completed"}, "both are settled")
    assert sorted(map(repr, got)) == ["b'\\x00\\xff'", "{'n': 1}"]


def test_a_worker_of_several_queues_serves_all_of_them(server: Server, own: Any) -> None:
    app = application(server)
    own("one,two,three", "-c", "1").ready()
    results = [app.send_task("tasks.add", (number, 1), queue=queue) for number, queue in enumerate(("one", "two", "three"))]
    assert [result.get(timeout=60) for result in results] == [1, 2, 3]


def test_a_task_that_a_cancelled_consumer_was_given_goes_to_another(server: Server, own: Any) -> None:
    app = application(server)
    first, second = own("handed", "-c", "1").ready(), own("handed", "-c", "1").ready()
    for _ in range(3):
        # Both wait for tasks; one of them gives its pull up, and is not to keep what that had claimed.
        app.control.cancel_consumer("handed", destination=["w0@t"], reply=True, timeout=10)
        results = [app.send_task("tasks.add", (number, 1), queue="handed") for number in range(5)]
        assert [result.get(timeout=60) for result in results] == [1, 2, 3, 4, 5]
        app.control.add_consumer("handed", destination=["w0@t"], reply=True, timeout=10)
    assert first.process.poll() is None and second.process.poll() is None


def test_what_a_worker_has_fetched_goes_back_at_a_warm_shutdown(server: Server, own: Any) -> None:
    app = application(server)
    first = own("warm", "-c", "1").ready()
    for name in range(6):
        app.send_task("tasks.slow", (str(name), 3.0 if name == 0 else 0.0), queue="warm")
    # Until Celery's consumer has read that its pool began the task, it discards the task at a shutdown, on every broker: docs/celery.md.
    inspect = app.control.inspect(destination=["w0@t"], timeout=10, limit=1)
    eventually(lambda: [one for one in (inspect.active() or {}).get("w0@t", ()) if one["worker_pid"]], "the first task is known to run")
    first.process.terminate()
    first.process.wait(60)
    states = sorted(one["state"] for one in jobs(server, "warm"))
    assert states == ["available"] * 5 + ["completed"], first.log.read_text()
    assert not [one for one in jobs(server, "warm") if one["crashes"]]


def test_the_tasks_of_a_killed_worker_run_elsewhere(server: Server, own: Any) -> None:
    app = application(server)
    first = own("killed", "-c", "2").ready()
    for name in range(20):
        app.send_task("tasks.slow", (str(name), 600.0 if name < 2 else 0.0), queue="killed")
    eventually(lambda: {"begin 0", "begin 1"} <= set(first.notes()), "two tasks are at work")
    first.kill()
    second = own("killed", "-c", "4").ready()
    wanted = [f"begin {name}" for name in range(20)]
    eventually(lambda: set(wanted) <= set(second.notes()), "every task has begun")
    eventually(lambda: second.notes().count("begin 0") == second.notes().count("begin 1") == 2, "those at work have begun again")
    assert all(second.notes().count(f"begin {name}") == 1 for name in range(2, 20))


def test_a_chord_whose_last_part_runs_again_starts_its_callback_once(app: Celery, server: Server, worker: Program) -> None:
    result = chord([app.signature("tasks.add", (i, 3)) for i in range(3)], app=app)(app.signature("tasks.total"))
    assert result.get(timeout=60) == 12
    (header,) = [one for one in jobs(server, "celery") if one["payload"]["headers"]["id"] == result.id]
    part = next(one for one in jobs(server, "celery") if one["payload"]["headers"]["id"] == result.parent.results[0].id)
    # The part again, as after a lost acknowledgement: under a key of its own.
    body = {"kind": "celery", "payload": part["payload"]}
    answer = httpx.post(f"{server.url}/v1/jobs", json=body, headers={"Authorization": f"Bearer {server.key}"})
    copy = answer.json()["id"]
    eventually(lambda: next(one for one in jobs(server, "celery") if one["id"] == copy)["state"] == "completed", "the copy has run")
    assert app.send_task("tasks.add", (1, 2)).get(timeout=60) == 3
    assert [one["id"] for one in jobs(server, "celery") if one["payload"]["headers"]["id"] == result.id] == [header["id"]]
    assert worker.notes().count("total 12") == 1


@pytest.fixture(autouse=True)
def programs_of_conftest_are_not_ours() -> None:
    assert not PROGRAMS
