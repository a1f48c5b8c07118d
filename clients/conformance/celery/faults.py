#!/usr/bin/env python3
"""Faults under load of Celery's tasks on Holdfast: workers and the API are killed, Redis is flushed, SQL stops.

Judged by side effects: each of 2,000 tasks has one when it begins and one when it ends. None may be missing, one may happen again only
as often as the server counted a crash of that task's job, and there is one job for each task. Times are printed; with --within it is judged
how soon the tasks of a killed worker are back, for a machine that does nothing else.
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

from faults import Clock
from harness import Failure, Redis, Server, end_on_signals, eventually, scratch
from proxy import FINISH, PULL, Proxy
from scenarios import JOBS, has_jobs

CEILING_SECONDS = 240.0

#: Of a lease, as a server is by default, in seconds.
LEASE_SECONDS = 15.0

#: How often kombu repeats a publish here, and after how long each time, in seconds.
FOR_EVER = {"max_retries": None, "interval_start": 0.1, "interval_step": 0.1, "interval_max": 0.5}

#: Within how many seconds the tasks of a killed worker have begun again. `None`: it is no verdict.
within_seconds: float | None = None


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
        self.proxies: list[Proxy] = []

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

    def worker(self, *options: str, url: str | None = None, **env: str) -> Worker:
        target = url or self.broker.url
        worker = Worker(target, self.directory, "-c", "2", *options, env=environment(target, **env))
        self.workers.append(worker)
        return worker

    def awaits(self, what: str, count: int) -> None:
        eventually(lambda: len(self.record.count(what)) >= count, f"{count} tasks {what}; {len(self.record.count(what))} did", CEILING_SECONDS)

    def proxy(self) -> tuple[Proxy, str]:
        """One before the server, and the broker's URL through it."""
        proxy = Proxy(self.server.url)
        self.proxies.append(proxy)
        return proxy, holdfast_url(self.server, port=int(proxy.url.rsplit(":", 1)[1]))

    def verdict(self, name: str, began: float, may_miss: frozenset[int] = frozenset(), crashes_allowed: bool = True) -> None:
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
        crashed = [number for number, of in jobs.items() if sum(of)]
        if crashed and not crashes_allowed:
            raise Failure(f"{len(crashed)} tasks have a crash, such as {crashed[:5]}")
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
        for proxy in self.proxies:
            proxy.close()
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
    if within_seconds is not None and took > within_seconds:
        raise Failure(f"the tasks were back after {took:.1f} s, not within {within_seconds:g} s")


def flushed_redis(case: Case, name: str) -> None:
    """The server's Redis comes back empty."""
    assert case.redis
    case.publish(seconds=0.005)
    case.worker().ready()
    case.worker().ready()
    case.awaits("begin", case.tasks // 5)
    case.redis.flush()
    case.verdict(name, time.monotonic())


def killed_api(case: Case, proxy: Proxy, method: str, path: str, when: Callable[[Any], bool] | None = None) -> tuple[threading.Event, threading.Thread]:
    """The API dies after it has committed and before its reply, and starts again. Returns what is set when it has died, and the thread
    that starts it."""
    lost = threading.Event()

    def kill() -> None:
        case.server.services["api"].kill()
        lost.set()

    def restart() -> None:
        if lost.wait(120):
            time.sleep(0.3)
            case.server.start("api")

    proxy.lose(method, path, when=when, then=kill)
    starting = threading.Thread(target=restart)
    starting.start()
    return lost, starting


def killed_api_at_publish(case: Case, name: str) -> None:
    """The API dies after it has committed a task and before its reply, and starts again."""
    proxy, url = case.proxy()
    case.worker().ready()
    case.worker().ready()
    seen = itertools.count()
    lost, starting = killed_api(case, proxy, "POST", JOBS, lambda _: next(seen) >= case.tasks // 2)
    app = case.application(url)
    for number in range(case.tasks):
        app.send_task("app.record", (str(case.record.path), number, 0.0), retry=True, retry_policy=FOR_EVER)
    starting.join()
    case.verdict(name, time.monotonic())
    if not lost.is_set():
        raise Failure("no call came that the fault was for")


def killed_api_of_workers(case: Case, name: str, path: str, when: Callable[[Any], bool] | None = None) -> None:
    """The same when workers have taken tasks, or have reported outcomes."""
    proxy, url = case.proxy()
    case.publish(seconds=0.002)
    case.worker(url=url).ready()
    case.awaits("begin", case.tasks // 5)
    lost, starting = killed_api(case, proxy, "POST", path, when)
    if not lost.wait(120):
        raise Failure("no call came that the fault was for")
    began = time.monotonic()
    starting.join()
    case.verdict(name, began)


def api_away(case: Case, name: str) -> None:
    """The API is away for a minute, four leases, while tasks run: their leases pass, and others may have been given them."""
    case.publish(seconds=0.01)
    case.worker().ready()
    case.worker().ready()
    case.awaits("begin", case.tasks // 5)
    case.server.services["api"].kill()
    time.sleep(4 * LEASE_SECONDS)
    began = time.monotonic()
    case.server.start("api")
    case.verdict(name, began)


def silent_connections(case: Case, name: str) -> None:
    """A pull that gives tasks, a finish and a publish are never answered; heartbeats, on other connections, are."""
    proxy, url = case.proxy()
    case.publish(seconds=0.002, count=case.tasks - 1)
    rules = [proxy.hang("POST", PULL, when=has_jobs), proxy.hang("POST", FINISH), proxy.hang("POST", JOBS)]
    case.worker(url=url).ready()
    app = case.application(url)
    app.send_task("app.record", (str(case.record.path), case.tasks - 1, 0.0), retry=True, retry_policy=FOR_EVER)
    eventually(lambda: sum(rule.used for rule in rules) == len(rules), "each fault has come", 120)
    case.verdict(name, time.monotonic(), crashes_allowed=False)


def wrong_clock(case: Case, name: str) -> None:
    """A worker's clock is five minutes fast, and then five minutes slow, while tasks run that take longer than a lease."""
    case.tasks = 40
    clock = Clock(case.directory)
    clock.set(300)
    worker = case.worker("-P", "threads", "--concurrency", "4", **clock.env).ready()
    case.publish(seconds=LEASE_SECONDS + 5, count=4)
    case.awaits("begin", 4)
    clock.set(-300)
    app = case.application()
    for number in range(4, case.tasks):
        app.send_task("app.record", (str(case.record.path), number, 0.0), countdown=number % 3)
    case.worker().ready()
    case.verdict(name, time.monotonic(), crashes_allowed=False)
    if not worker.process.is_running():
        raise Failure("the worker has ended")


def blocked_worker(case: Case, name: str) -> None:
    """A task of the pool `solo` blocks the worker's only thread for three leases, and another worker has nothing to do."""
    case.tasks = 20
    case.publish(seconds=3 * LEASE_SECONDS, count=1)
    case.worker("-P", "solo").ready()
    case.awaits("begin", 1)
    case.worker().ready()
    app = case.application()
    for number in range(1, case.tasks):
        app.send_task("app.record", (str(case.record.path), number, 0.0))
    case.verdict(name, time.monotonic(), crashes_allowed=False)


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


def publishes_without_sql(case: Case, name: str) -> None:
    """PostgreSQL says nothing, and then is gone: a publish raises what Celery documents, and what did not raise is a job."""
    case.tasks = 20
    app = case.application()
    app.send_task("app.record", (str(case.record.path), 0, 0.0))
    postgres = case.server.postgres
    assert postgres
    took = []
    for fault in (postgres.stop, lambda: (postgres.go_on(), postgres.process.kill())):
        fault()
        for _ in range(3):
            began = time.monotonic()
            try:
                app.send_task("app.record", (str(case.record.path), 1, 0.0), retry=False)
            except OperationalError:
                took.append(time.monotonic() - began)
            else:
                raise Failure("a publish was accepted without a database")
    print(f"    figure: {name}: the publishes raised after {', '.join(f'{seconds:.2f}' for seconds in took)} s", flush=True)
    if within_seconds is not None and max(took) > within_seconds:
        raise Failure(f"a publish raised after {max(took):.1f} s, not within {within_seconds:g} s")


FAULTS: dict[str, tuple[Callable[[Case, str], None], str, bool]] = {
    "kill -9 of a worker, tasks acknowledged late": (killed_worker, "postgres", False),
    "kill -9 of a worker, Celery's default of acknowledging early": (lambda case, name: killed_worker(case, name, "record_early"), "sqlite", False),
    "kill -9 of the only worker": (killed_worker_alone, "sqlite", False),
    "Redis is flushed": (flushed_redis, "postgres", True),
    "the API is killed between the commit of a publish and its reply": (killed_api_at_publish, "sqlite", False),
    "the API is killed between the commit of a pull and its reply": (lambda case, name: killed_api_of_workers(case, name, PULL, has_jobs), "sqlite", False),
    "the API is killed between the commit of a finish and its reply": (lambda case, name: killed_api_of_workers(case, name, FINISH), "sqlite", False),
    "the API is away for a minute": (api_away, "sqlite", False),
    "connections say nothing any more: of a pull, of a finish, and of a publish": (silent_connections, "sqlite", False),
    "a worker's clock is five minutes fast, then five minutes slow": (wrong_clock, "sqlite", False),
    "a task blocks its worker for three leases": (blocked_worker, "sqlite", False),
    "SQL stops for 20 s": (stopped_sql, "postgres", False),
    "a publish while SQL stops, and while it is gone": (publishes_without_sql, "postgres", False),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--holdfast", required=True, metavar="PATH", type=lambda path: str(Path(path).resolve()), help="the built program")
    parser.add_argument("--tasks", type=int, default=2_000, help="tasks of each fault (default: %(default)s)")
    parser.add_argument("--only", default="", help="only faults with this in their names")
    parser.add_argument("--within", metavar="N", type=float, help="seconds within which the tasks of a killed worker have begun again, and a publish raises")
    options = parser.parse_args()
    end_on_signals()
    global within_seconds  # noqa: PLW0603 - it is set once, before the first fault
    within_seconds = options.within
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
