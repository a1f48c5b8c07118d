"""Celery's tasks as jobs of a real server: what happens to them over HTTP, and what they do to their workers."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import httpx
import pytest
from conftest import LOST_AFTER_SECONDS, Server, binary, clean_environment, eventually

pytest.importorskip("celery")

from celery.exceptions import TaskRevokedError
from celery_worker import STORES_REJECTIONS, application, jobs, own, server  # noqa: F401

from holdfast.celery._lost import MAX_LOSSES

#: What takes long runs each night: `scripts/clients --deep`.
deep = pytest.mark.skipif(not os.environ.get("HOLDFAST_DEEP"), reason="runs each night: HOLDFAST_DEEP is not set")


def call(server: Server, method: str, path: str, body: Any = None) -> Any:
    answer = httpx.request(method, server.url + path, json=body, headers={"Authorization": f"Bearer {server.key}"}, timeout=30)
    assert answer.is_success, answer.text
    return answer.json() if answer.content else None


def job_of(server: Server, queue: str, task: str) -> Any:
    return next(one for one in jobs(server, queue) if one["payload"]["headers"]["id"] == task)


def test_a_task_that_kills_its_process_again_and_again_is_a_dead_letter(server: Server, own: Any) -> None:
    app = application(server)
    one = own("mortal", "-c", "1").ready()
    killer = app.send_task("tasks.die", (100,), queue="mortal")
    once = app.send_task("tasks.die", (1,), task_id="once", queue="mortal")
    if STORES_REJECTIONS:
        with pytest.raises(Exception, match=f"lost its process, {MAX_LOSSES} of {MAX_LOSSES} times"):
            killer.get(timeout=60)
    # One that loses its process once is run again, and ends.
    assert once.get(timeout=60) == "alive"
    eventually(lambda: job_of(server, "mortal", killer.id)["state"] == "discarded", "the dead letter")
    assert (one.notes().count(f"die {killer.id}"), one.notes().count("die once")) == (MAX_LOSSES, 2)
    job = job_of(server, "mortal", killer.id)
    assert len(job["errors"]) == MAX_LOSSES and all("lost its process" in error["message"] for error in job["errors"]), job["errors"]
    eventually(lambda: job_of(server, "mortal", "once")["state"] == "completed", "the other one is completed")
    assert one.process.poll() is None


def test_a_job_that_is_cancelled_over_http_is_revoked_in_its_worker(server: Server, own: Any) -> None:
    app = application(server)
    one = own("cancelled", "-c", "1").ready()
    gate = one.record.parent / "gate"
    runs = app.send_task("tasks.gated", (str(gate),), queue="cancelled")
    eventually(lambda: "begin gated" in one.notes(), "the first task runs")
    waits = app.send_task("tasks.slow", ("waits", 0.0), queue="cancelled")
    eventually(lambda: job_of(server, "cancelled", waits.id)["state"] == "running", "the second task is prefetched")
    call(server, "POST", f"/v1/jobs/{job_of(server, 'cancelled', waits.id)['id']}/cancel")
    eventually(lambda: f"task {waits.id}) was cancelled" in one.log.read_text(), "the worker knows")
    gate.touch()
    assert runs.get(timeout=60) == "gated"
    with pytest.raises(TaskRevokedError):
        waits.get(timeout=60)
    assert "begin waits" not in one.notes()
    eventually(lambda: job_of(server, "cancelled", waits.id)["state"] in ("cancelled", "completed"), "its job is settled")


@deep
def test_a_drained_worker_shuts_down_warmly(server: Server, own: Any) -> None:
    app = application(server)
    one = own("drained", "-c", "1").ready()
    gate = one.record.parent / "gate"
    for number in range(5):
        app.send_task("tasks.gated", (str(gate),), task_id=str(number), queue="drained")
    eventually(lambda: "begin gated" in one.notes(), "a task runs")
    inspect = app.control.inspect(destination=["w0@t"], timeout=10, limit=1)
    eventually(lambda: [at for at in (inspect.active() or {}).get("w0@t", ()) if at["worker_pid"]], "the task is known to run")
    listed = [worker for worker in call(server, "GET", "/v1/workers")["workers"] if worker["queues"] == ["drained"]]
    assert len(listed) == 1 and listed[0]["name"].startswith("celery-"), listed
    command(server, "workers", "drain", listed[0]["id"])
    eventually(lambda: "the server drains this worker" in one.log.read_text(), "the worker knows")
    gate.touch()
    assert one.process.wait(60) == 0, one.log.read_text()
    states = sorted(job["state"] for job in jobs(server, "drained"))
    assert states == ["available"] * 4 + ["completed"], one.log.read_text()
    assert one.notes() == ["begin gated", "end gated"] and not [job for job in jobs(server, "drained") if job["crashes"]]


def command(server: Server, *arguments: str) -> str:
    """The program of the server, over HTTP."""
    environment = clean_environment(HOLDFAST_URL=server.url, HOLDFAST_API_KEY=server.key)
    done = subprocess.run([binary(), *arguments], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_order_limits_and_dead_letters_are_those_of_jobs(server: Server, own: Any) -> None:
    """One worker for three promises: high priority goes first, a limit of the queue holds, and a dead letter is run again."""
    app = application(server)
    for number, priority in enumerate((9, 9, 4, 0, 0)):
        app.send_task("tasks.slow", (f"{priority}-{number}", 0.0), priority=priority, queue="ordered")
    call(server, "PUT", "/v1/queues/ordered/limits", {"max_running": 1})
    one, two = own("ordered", "-c", "2"), own("ordered", "-c", "2")
    eventually(lambda: len(one.notes()) == 10, "the five tasks have run")
    begun = [note.removeprefix("begin ") for note in one.notes() if note.startswith("begin")]
    assert begun == ["0-3", "0-4", "4-2", "9-0", "9-1"]
    # One at a time, over both workers.
    assert [note.split()[0] for note in one.notes()] == ["begin", "end"] * 5
    gate = one.record.parent / "allowed"
    refused = app.send_task("tasks.picky", (str(gate),), queue="ordered")
    eventually(lambda: job_of(server, "ordered", refused.id)["state"] == "discarded", "the dead letter")
    gate.touch()
    command(server, "dead-letters", "redrive", job_of(server, "ordered", refused.id)["id"])
    eventually(lambda: one.notes().count("picky") == 2, "it has run again")
    eventually(lambda: job_of(server, "ordered", refused.id)["state"] == "completed", "it is completed")
    assert two.process.poll() is None


@deep
def test_a_task_that_expires_without_a_result_is_dropped_by_the_server(server: Server) -> None:
    app = application(server)
    app.send_task("tasks.slow", ("expires", 0.0), queue="unserved", ignore_result=True, expires=0.5)
    eventually(lambda: {job["state"] for job in jobs(server, "unserved")} == {"cancelled"}, "the job has expired")
    (job,) = jobs(server, "unserved")
    assert [error["class"] for error in job["errors"]] == ["expired"], job


def test_results_live_as_long_as_celery_says(server: Server) -> None:
    app = application(server)
    app.conf.update(result_expires=1, result_failure_expires=3_600)
    app.backend.store_result("short", 1, "SUCCESS")
    app.backend.store_result("long", KeyError("k"), "FAILURE")
    eventually(lambda: app.AsyncResult("short").state == "PENDING", "the result has expired")
    assert app.AsyncResult("long").state == "FAILURE"


@deep
def test_a_task_longer_than_a_lease_runs_once(server: Server, own: Any) -> None:
    app = application(server)
    pools = ("prefork", "threads", "solo")
    holders = [own(pool, "-c", "1", "-P", pool).ready() for pool in pools]
    for pool in pools:
        app.send_task("tasks.slow", (pool, LOST_AFTER_SECONDS * 4), queue=pool)
    eventually(lambda: {f"begin {pool}" for pool in pools} <= set(holders[0].notes()), "each pool has its task")
    # It has nothing else to do.
    own(",".join(pools), "-c", "4").ready()
    eventually(lambda: {f"end {pool}" for pool in pools} <= set(holders[0].notes()), "each task has ended")
    assert sorted(holders[0].notes()) == sorted(f"{what} {pool}" for pool in pools for what in ("begin", "end"))
    for pool in pools:
        eventually(lambda: [job["state"] for job in jobs(server, pool)] == ["completed"], f"the job of {pool} is completed")
        assert [job["crashes"] for job in jobs(server, pool)] == [0]


@deep
def test_a_task_whose_workers_crash_three_times_is_a_dead_letter(server: Server, own: Any) -> None:
    app = application(server)
    app.send_task("tasks.slow", ("poison", 600.0), queue="poison")
    for times in range(1, 4):
        one = own("poison", "-c", "1").ready()
        eventually(lambda: one.notes().count("begin poison") == times, f"it has begun {times} times")
        one.kill()
    eventually(lambda: [job["state"] for job in jobs(server, "poison")] == ["discarded"], "the dead letter")
    assert [job["crashes"] for job in jobs(server, "poison")] == [3]
