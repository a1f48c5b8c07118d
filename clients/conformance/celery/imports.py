#!/usr/bin/env python3
"""`holdfast import celery` with messages of a real Celery: what waits in Redis, what a killed worker had prefetched, and tasks with an eta are
moved, while the import and the API are killed in the middle; then workers of Celery on Holdfast run each task once.
"""

from __future__ import annotations

import argparse
import base64
import itertools
import json
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from brokers import ADMIN_KEY, Broker, Record, Worker

from harness import Failure, Process, Redis, end_on_signals, eventually, scratch
from proxy import Proxy

#: How a job is posted by the import.
POSTS = r"^/v1/jobs(/batch)?$"

#: Tasks of each sort. Pages of the import have 200.
SORTS = {"plain": 450, "priorities": 60, "odd queue": 40, "eta": 40, "slow": 10}

#: A queue whose name is none on the server.
ODD_QUEUE = "High.Prio"

QUEUES = f"celery,{ODD_QUEUE}"

#: Of tasks with an eta, in seconds: later than the worker of Redis is killed.
COUNTDOWN_SECONDS = 20

#: The entries that the import has posted when it, or the API, is killed.
KILL_AFTER = 120


class Move:
    """A Redis with tasks of Celery, and a Holdfast that is to take them."""

    def __init__(self, holdfast: str, database: str) -> None:
        self.holdfast = holdfast
        self.directory = scratch("holdfast-celery-imports-")
        self.record = Record(self.directory)
        self.redis = Redis()
        self.redis_url = f"{self.redis.url}/0"
        self.broker = Broker(database, holdfast)
        assert self.broker.server
        self.server = self.broker.server
        self.proxy = Proxy(self.server.url)
        self.workers: list[Worker] = []
        self.imports = 0

    def publish(self) -> int:
        """Returns how many."""
        from celery import Celery

        app = Celery("app", broker=self.redis_url, backend=self.redis_url)
        numbers = itertools.count()

        def send(count: int, seconds: float = 0.0, **options: Any) -> None:
            for _ in range(count):
                app.send_task("app.record", (str(self.record.path), next(numbers), seconds), **options)

        # The slow ones come first, for the worker that is killed while it runs them.
        send(SORTS["slow"], 600.0, ignore_result=True)
        send(SORTS["plain"])
        for priority in (3, 6, 9):
            send(SORTS["priorities"] // 3, priority=priority)
        send(SORTS["odd queue"], queue=ODD_QUEUE)
        send(SORTS["eta"], countdown=COUNTDOWN_SECONDS)
        return next(numbers)

    def leave_unacknowledged(self) -> None:
        """A worker on Redis takes tasks, begins two, and is killed."""
        worker = self.worker(self.redis_url, "-c", "2", "-Q", "celery")
        eventually(lambda: len(self.record.count("begin")) >= 2, "the worker of Redis has begun tasks")
        eventually(lambda: self.ask("HLEN", "unacked") >= 4, "it has prefetched some")
        worker.kill()

    def worker(self, url: str, *options: str) -> Worker:
        self.workers.append(Worker(url, self.directory, *options))
        return self.workers[-1].ready()

    def start_import(self, *options: str) -> Process:
        self.imports += 1
        command = [self.holdfast, "import", "celery", "--redis", self.redis_url, "--url", self.proxy.url, "--key", ADMIN_KEY, "--json", *options]
        return Process(f"import-{self.imports}", command, self.directory, self.server.env)

    def finish_import(self, *options: str) -> Any:
        process = self.start_import(*options)
        code = process.popen.wait(180)
        if code != 0:
            raise Failure(f"the import ended with {code}: {process.tail()}")
        text = process.log.read_text()
        return json.loads(text[text.index("{") :])

    # What is in Redis

    def ask(self, *words: str) -> Any:
        with socket.create_connection(("127.0.0.1", self.redis.port), 10) as connection, connection.makefile("rb") as lines:
            connection.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word.encode()) for word in words))
            return _answer(lines)

    def contents(self) -> dict[str, Any]:
        """Every key, as Redis serializes it."""
        return {key.decode(): self.ask("DUMP", key.decode()) for key in sorted(self.ask("KEYS", "*"))}

    def waiting(self) -> int:
        """Entries in lists and hashes that hold tasks."""
        total = 0
        for key in map(bytes.decode, self.ask("KEYS", "*")):
            kind = self.ask("TYPE", key)
            if kind == b"list":
                total += self.ask("LLEN", key)
            elif kind == b"hash" and "unacked" in key:
                total += self.ask("HLEN", key)
        return total

    # What is in Holdfast

    def jobs(self) -> dict[int, list[Any]]:
        """The jobs of each task."""
        found: dict[int, list[Any]] = {}
        after = ""
        while True:
            page = self.server.admin.ok("GET", "/v1/jobs?kind=celery&limit=1000" + after)
            for job in page["jobs"]:
                found.setdefault(_number(job), []).append(job)
            if not page.get("next"):
                return found
            after = f"&after={page['next']}"

    def end(self) -> None:
        for worker in self.workers:
            worker.end()
        self.proxy.close()
        self.broker.end()
        self.redis.end()


def _number(job: Any) -> int:
    """The task's. Celery on Redis writes bodies in base64."""
    return int(json.loads(base64.b64decode(job["payload"]["body"]))[0][1])


def _answer(lines: Any) -> Any:
    """One answer of Redis' protocol."""
    line = lines.readline().rstrip(b"\r\n")
    kind, rest = line[:1], line[1:]
    if kind == b"*":
        return [_answer(lines) for _ in range(int(rest))]
    if kind == b"$":
        return None if rest == b"-1" else lines.read(int(rest) + 2)[:-2]
    if kind == b"-":
        raise Failure(f"Redis answered {rest.decode()}")
    return int(rest) if kind == b":" else rest


def play(move: Move) -> None:
    tasks = move.publish()
    move.leave_unacknowledged()
    if move.waiting() != tasks:
        raise Failure(f"{tasks} tasks were published, and {move.waiting()} wait in Redis")

    before = move.contents()
    report = move.finish_import("--dry-run")
    if move.contents() != before:
        raise Failure("--dry-run has changed what is in Redis")
    if move.jobs():
        raise Failure("--dry-run has made jobs")
    print(f"    --dry-run: {json.dumps(report)[:300]}", flush=True)

    # kill -9 of the import, after the API has committed a task and before the import knows.
    seen = itertools.count()
    process: list[Process] = []
    move.proxy.lose("POST", POSTS, when=lambda _: next(seen) >= KILL_AFTER, then=lambda: process[0].send(signal.SIGKILL))
    process.append(move.start_import())
    if process[0].popen.wait(180) != -signal.SIGKILL:
        raise Failure(f"the import was not killed: {process[0].tail()}")
    moved = sum(map(len, move.jobs().values()))
    if not 0 < moved < tasks:
        raise Failure(f"the import was to be killed in the middle, and had moved {moved} of {tasks}")

    # The API dies in the same moment, and starts again.
    died = threading.Event()
    seen = itertools.count()

    def kill_api() -> None:
        move.server.services["api"].kill()
        died.set()

    move.proxy.lose("POST", POSTS, when=lambda _: next(seen) >= KILL_AFTER, then=kill_api)
    second = move.start_import()
    if not died.wait(120):
        raise Failure(f"no call came that the fault was for: {second.tail()}")
    time.sleep(0.3)
    move.server.start("api")
    second.popen.wait(180)

    report = move.finish_import()
    if move.waiting():
        raise Failure(f"{move.waiting()} entries are left in Redis: {move.ask('KEYS', '*')}")
    jobs = move.jobs()
    if sorted(jobs) != list(range(tasks)) or {len(of) for of in jobs.values()} != {1}:
        raise Failure(f"{tasks} tasks were moved, and there are {sum(map(len, jobs.values()))} jobs of {len(jobs)}")
    print(f"    moved: {json.dumps(report)[:300]}", flush=True)

    # Those that the killed worker had begun would go on for ten minutes: they are shown to run, and no more.
    slow = set(range(SORTS["slow"]))
    begun_before = move.record.count("begin")
    worker = move.worker(move.broker.url, "-P", "threads", "-c", "16", "-Q", QUEUES)
    eventually(lambda: set(move.record.count("end")) >= set(range(tasks)) - slow, "every task has ended", 180)
    eventually(lambda: all(move.record.count("begin")[number] > begun_before[number] for number in slow), "the slow ones have begun", 60)
    worker.kill()
    begun = move.record.count("begin")
    twice = {number: times for number, times in begun.items() if times != 1 + begun_before[number]}
    if twice:
        raise Failure(f"{len(twice)} tasks ran more than once: {dict(list(twice.items())[:5])}")
    print(f"    holdfast import celery: {tasks} tasks, missing 0, 0 ran twice after the import", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--holdfast", required=True, metavar="PATH", type=lambda path: str(Path(path).resolve()), help="the built program")
    parser.add_argument("--on", default="sqlite", help="databases, separated by commas (default: %(default)s)")
    options = parser.parse_args()
    end_on_signals()
    failed = 0
    for database in options.on.split(","):
        move = Move(options.holdfast, database)
        try:
            play(move)
        except Exception as error:
            failed += 1
            print(f"    not ok holdfast import celery on {database}: {type(error).__name__}: {error}", flush=True)
        finally:
            move.end()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
