#!/usr/bin/env python3
"""Faults under load of Celery's tasks on Holdfast: workers and the API are killed, Redis is flushed, SQL stops.

Judged by side effects: each of 2,000 tasks has one when it begins and one when it ends. None may be missing, one may happen again only
as often as the server counted a crash of that task's job, and there is one job for each task. Times are printed, and are no verdict.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable

from kombu.exceptions import OperationalError

from brokers import Broker, Record, Worker, environment, holdfast_url

from harness import Failure, Redis, Server, end_on_signals, eventually, scratch
from proxy import Proxy

CEILING_SECONDS = 240.0

#: How long after a kill every task has begun again, at most: a lease of 15 s, and what a poll and a busy machine take.
BACK_SECONDS = 20.0


class Case:
    """One fault: a server of its own, tasks, workers."""

    def __init__(self, holdfast: str, database: str, tasks: int, redis: bool = False) -> None:
        self.directory = scratch("holdfast-celery-faults-")
        self.record = Record(self.directory)
        self.tasks = tasks
        self.redis = Redis() if redis else None
        settings = {"REDIS_URL": self.redis.url} if self.redis else {}
        self.broker = Broker(database, holdfast, settings=settings)
        self.workers: list[Worker] = []

    @property
    def server(self) -> Server:
        assert self.broker.server
        return self.broker.server

    def publish(self, task: str = "record", seconds: float = 0.0, count: int | None = None, url: str | None = None, retry: bool = True) -> int:
        """In this process, one by one. Returns how many raised and were published again."""
        app = self.application(url)
        again = 0
        for number in range(self.tasks if count is None else count):
            # What raises was not accepted, or is not known to be; an application tries again. Under kombu's own policy it does not raise.
            while True:
                try:
                    app.send_task(f"app.{task}", (str(self.record.path), number, seconds), retry=retry)
                    break
                except OperationalError:
                    again += 1
                    time.sleep(0.2)
        return again

    def application(self, url: str | None = None) -> Any:
        from celery import Celery

        return Celery("app", broker=url or self.broker.url, backend=url or self.broker.url)

    def worker(self, *options: str, url: str | None = None) -> Worker:
        target = url or self.broker.url
        worker = Worker(target, self.directory, "-c", "2", *options, env=environment(target))
        self.workers.append(worker)
        return worker

    def awaits(self, what: str, count: int) -> None:
        eventually(lambda: len(self.record.count(what)) >= count, f"{count} tasks {what}; {len(self.record.count(what))} did", CEILING_SECONDS)

    def verdict(self, name: str, began: float, may_miss: frozenset[int] = frozenset()) -> None:
        """Nothing is missing, and nothing ran more often than the server's count of crashes of its job explains."""
        self.awaits("end", self.tasks - len(may_miss))
        took = time.monotonic() - began
        eventually(self.is_settled, "every job is settled", CEILING_SECONDS, 0.2)
        begun, ended = self.record.count("begin"), self.record.count("end")
        missing = {number for number in range(self.tasks) if not ended[number]} - may_miss
        if missing:
            raise Failure(f"{len(missing)} tasks are missing, such as {sorted(missing)[:5]}")
        jobs = self.jobs()
        if len(jobs) != self.tasks or {len(of) for of in jobs.values()} != {1}:
            raise Failure(f"{self.tasks} tasks were published, and there are {sum(map(len, jobs.values()))} jobs")
        unexplained = {number: (times, jobs[number]) for number, times in begun.items() if times > 1 + jobs[number][0]}
        if unexplained:
            raise Failure(f"{len(unexplained)} tasks ran more often than their crashes explain: {dict(list(unexplained.items())[:5])}")
        twice = sum(1 for times in begun.values() if times > 1)
        print(f"    {name}: {self.tasks} tasks, missing {self.tasks - len(ended)}, {twice} ran twice; all had ended {took:.1f} s after the fault", flush=True)

    def jobs(self) -> dict[int, list[int]]:
        """The crashes of each task's jobs."""
        found: dict[int, list[int]] = {}
        after = ""
        while True:
            page = self.server.admin.ok("GET", "/v1/jobs?queue=celery&limit=1000" + after)
            for job in page["jobs"]:
                found.setdefault(json.loads(job["payload"]["body"])[0][1], []).append(job["crashes"])
            if not page.get("next"):
                return found
            after = f"&after={page['next']}"

    def is_settled(self) -> bool:
        try:
            states = ("available", "running", "retryable", "scheduled")
            return all(not self.server.admin.ok("GET", f"/v1/jobs?queue=celery&state={state}&limit=1")["jobs"] for state in states)
        except (Failure, OSError):
            return False

    def at_work(self) -> set[int]:
        begun, ended = self.record.count("begin"), self.record.count("end")
        return set(begun) - set(ended)

    def end(self) -> None:
        for worker in self.workers:
            worker.end()
        self.broker.end()
        if self.redis:
            self.redis.end()


def killed_worker(case: Case, name: str, task: str = "record") -> None:
    """kill -9 of a worker and its pool, as of a host; another one goes on."""
    case.publish(task, seconds=0.01)
    first, second = case.worker().ready(), case.worker().ready()
    case.awaits("begin", case.tasks // 5)
    first.kill()
    at_work, began = case.at_work(), time.monotonic()
    # Tasks that were acknowledged when they began are gone with their worker, which is what Celery's default means.
    lost = frozenset[int]()
    if task == "record_early":
        time.sleep(1.0)
        lost = frozenset(at_work & case.at_work())
    case.verdict(name, began, lost)
    second.end()


def killed_worker_alone(case: Case, name: str) -> None:
    """When its tasks are back: the worker that takes them over has nothing else to do."""
    case.tasks = 8
    case.publish(seconds=30.0)
    first = case.worker().ready()
    case.awaits("begin", 2)
    first.kill()
    killed = time.monotonic()
    second = case.worker("-P", "threads", "--concurrency", "8").ready()
    eventually(lambda: sum(case.record.count("begin").values()) >= 10, "every task has begun again", 120, 0.05)
    took = time.monotonic() - killed
    print(f"    figure: {name}: its tasks are back {took:.1f} s after the kill (with Celery on Redis after an hour)", flush=True)
    second.end()
    if took > BACK_SECONDS * 3:
        raise Failure(f"the tasks were back after {took:.0f} s")


def flushed_redis(case: Case, name: str) -> None:
    """The server's Redis comes back empty."""
    assert case.redis
    case.publish(seconds=0.005)
    case.worker().ready()
    case.worker().ready()
    case.awaits("begin", case.tasks // 5)
    case.redis.flush()
    case.verdict(name, time.monotonic())


def killed_api_at_publish(case: Case, name: str) -> None:
    """The API dies after it has committed a task and before its reply, and starts again."""
    proxy = Proxy(case.server.url)
    port = int(proxy.url.rsplit(":", 1)[1])
    url = holdfast_url(case.server, port=port)
    case.worker().ready()
    case.worker().ready()
    lost = threading.Event()

    def kill() -> None:
        case.server.services["api"].kill()
        lost.set()

    seen = itertools.count()
    proxy.lose("POST", r"^/v1/jobs$", when=lambda _: next(seen) >= case.tasks // 2, then=kill)

    def restart() -> None:
        lost.wait(120)
        time.sleep(0.3)
        case.server.start("api")

    starting = threading.Thread(target=restart)
    starting.start()
    app_retry = {"max_retries": None, "interval_start": 0.1, "interval_step": 0.1, "interval_max": 0.5}
    app = case.application(url)
    for number in range(case.tasks):
        app.send_task("app.record", (str(case.record.path), number, 0.0), retry=True, retry_policy=app_retry)
    starting.join()
    began = time.monotonic()
    case.verdict(name, began)
    proxy.close()


def killed_api_at_finish(case: Case, name: str) -> None:
    """The same when workers have reported outcomes."""
    proxy = Proxy(case.server.url)
    url = holdfast_url(case.server, port=int(proxy.url.rsplit(":", 1)[1]))
    case.publish(seconds=0.002)
    lost = threading.Event()

    def kill() -> None:
        case.server.services["api"].kill()
        lost.set()

    case.worker(url=url).ready()
    case.awaits("begin", case.tasks // 5)
    proxy.lose("POST", r"/finish$", then=kill)
    if not lost.wait(120):
        raise Failure("no call came that the fault was for")
    began = time.monotonic()
    case.server.start("api")
    case.verdict(name, began)
    proxy.close()


def stopped_sql(case: Case, name: str) -> None:
    """PostgreSQL says nothing for 20 s, in the middle of the tasks."""
    case.publish(seconds=0.005)
    case.worker().ready()
    case.worker().ready()
    case.awaits("begin", case.tasks // 5)
    postgres = case.server.postgres
    assert postgres
    postgres.stop()
    time.sleep(20)
    postgres.go_on()
    case.verdict(name, time.monotonic())


FAULTS: dict[str, tuple[Callable[[Case, str], None], str, bool]] = {
    "kill -9 of a worker, tasks acknowledged late": (killed_worker, "postgres", False),
    "kill -9 of a worker, Celery's default of acknowledging early": (lambda case, name: killed_worker(case, name, "record_early"), "sqlite", False),
    "kill -9 of the only worker": (killed_worker_alone, "sqlite", False),
    "Redis is flushed": (flushed_redis, "postgres", True),
    "the API is killed between the commit of a publish and its reply": (killed_api_at_publish, "sqlite", False),
    "the API is killed between the commit of a finish and its reply": (killed_api_at_finish, "sqlite", False),
    "SQL stops for 20 s": (stopped_sql, "postgres", False),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--holdfast", required=True, metavar="PATH", type=lambda path: str(Path(path).resolve()), help="the built program")
    parser.add_argument("--tasks", type=int, default=2_000, help="tasks of each fault (default: %(default)s)")
    parser.add_argument("--only", default="", help="only faults with this in their names")
    options = parser.parse_args()
    end_on_signals()
    failed = 0
    for name, (play, database, redis) in FAULTS.items():
        if options.only not in name:
            continue
        case = Case(options.holdfast, database, options.tasks, redis)
        try:
            play(case, name)
        except Exception as error:
            failed += 1
            print(f"    not ok {name}: {type(error).__name__}: {error}", flush=True)
            for worker in case.workers:
                print("\n".join("        " + line for line in worker.process.tail(15).splitlines()))
        finally:
            case.end()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
