#!/usr/bin/env python3
"""Faults under load: processes are killed and suspended, Redis is flushed, SQL stops, clocks are wrong. See README.md.

Judged from outside, each time: no accepted job is missing, and a job's side effect happened twice only where the server counted a
crash of that very attempt. Times are printed; with --within they are judged too, for a machine that does nothing else.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.dont_write_bytecode = True

from harness import Failure, LOST_AFTER_SECONDS, Redis, Server, end_on_signals, eventually, scratch  # noqa: E402
from proxy import FINISH, PULL, Call  # noqa: E402
from run import arguments, conclude, play, report  # noqa: E402
from scenarios import JOBS, has_jobs  # noqa: E402
from world import Scenario, Unsupported, World, equal, expect  # noqa: E402

# Nothing is asserted about time but that it ends.
CEILING_SECONDS = 180.0


@dataclass
class Fault:
    scenario: Scenario
    database: str
    redis: bool
    lost_after: int | None


FAULTS: list[Fault] = []

# `None`: times are no verdict.
within_seconds: float | None = None


def fault(
    sentence: str, database: str = "sqlite", redis: bool = False, lost_after: int | None = None
) -> Callable[[Callable[[World], None]], Callable[[World], None]]:
    """Adds a fault, which gets a server of its own, with the `lost_after` of the command line unless it has one of its own."""

    def add(play: Callable[[World], None]) -> Callable[[World], None]:
        FAULTS.append(Fault(Scenario(sentence, play, needs_adapter=True), database, redis, lost_after))
        return play

    return add


# --- load and verdict -----------------------------------------------------------------------------------------------


def load(world: World, count: int, **payload: Any) -> list[str]:
    """So many jobs, each with a side effect of its own."""
    jobs: list[str] = []
    for start in range(0, count, 1_000):
        jobs += world.enqueue_batch([world.payload(**payload)] * min(1_000, count - start))
    return jobs


def settle(world: World) -> None:
    """Waits until no job waits or runs, whatever the API answers in the meantime."""

    def done() -> bool:
        try:
            return world.is_empty()
        except (Failure, OSError, http.client.HTTPException):
            return False

    eventually(done, "every job has ended", CEILING_SECONDS, 0.2)


def verdict(world: World, jobs: list[str], began: float, crashes_allowed: bool = True) -> None:
    """No job is missing; no side effect happened more often than the server's count of crashes explains."""
    ended = time.monotonic()
    found = world.jobs()
    missing = [job for job in jobs if found.get(job, {}).get("state") != "completed"]
    equal(missing, [], f"missing jobs of {len(jobs)}")
    starts = world.runs()
    equal([job for job in jobs if not starts[job]], [], "completed jobs that no handler has seen")
    unexplained = {job: (starts[job], found[job]["crashes"]) for job in jobs if starts[job] > 1 + found[job]["crashes"]}
    equal(unexplained, {}, "jobs that ran more often than their crashes explain (starts, crashes)")
    crashed = sum(1 for job in jobs if found[job]["crashes"])
    if not crashes_allowed:
        equal(crashed, 0, "jobs with a crash")
    twice = sum(1 for job in jobs if starts[job] > 1)
    print(f"    {world.adapter_command}: {len(jobs)} jobs, missing 0, {twice} ran twice, {crashed} with a crash; "
          f"all had ended {ended - began:.1f} s after the fault", flush=True)
    if within_seconds is not None:
        expect(ended - began <= within_seconds, f"the jobs had ended {ended - began:.1f} s after the fault, not within {within_seconds:g} s")


# --- faults ---------------------------------------------------------------------------------------------------------


@fault("connections say nothing any more: of a pull that gives jobs, of a finish, and of an enqueue")
def silent_connections(world: World) -> None:
    world.declare()
    proxies = [world.proxy() for _ in range(3)]
    first, second, producer = (world.adapter(proxy) for proxy in proxies)
    # Heartbeats, on other connections, pass.
    rules = [proxies[0].hang("POST", PULL, when=has_jobs), proxies[1].hang("POST", FINISH), proxies[2].hang("POST", JOBS)]
    world.start(first, worker="first", concurrency=10)
    world.start(second, worker="second", concurrency=10)
    pending = producer.send("enqueue", kind=world.kind, payload=world.payload())
    jobs = load(world, 200, do="sleep", seconds=0.01)
    jobs.append(pending.answer()["id"])
    settle(world)
    silent = [call for proxy in proxies for call in list(proxy.calls) if call.lost]
    equal(([rule.used for rule in rules], len(silent)), ([1, 1, 1], 3), "calls that were never answered")
    verdict(world, jobs, max(call.answered_at or 0.0 for call in silent), crashes_allowed=False)
    equal(len(world.jobs()), len(jobs), "jobs of the queue")


@fault("kill -9 of a worker in the middle of 2,000 jobs")
def killed_worker(world: World) -> None:
    world.declare()
    jobs = load(world, 2_000, do="sleep", seconds=0.1)
    first, second = world.adapter(), world.adapter()
    world.start(first, worker="first", concurrency=50)
    world.start(second, worker="second", concurrency=50)
    # When handlers have just started: the side effects of these happen twice.
    world.awaits("start", 425)
    first.kill()
    began = time.monotonic()
    expect(world.count("end") < 2_000, "the jobs were done before the fault")
    settle(world)
    verdict(world, jobs, began)


@fault("kill -9 of the only worker while each of its handlers blocks, and a new one", database="postgres")
def killed_while_blocking(world: World) -> None:
    world.declare()
    jobs = load(world, 8, do="block", seconds=1.5)
    first = world.adapter()
    world.start(first, concurrency=4, mode="thread")
    world.awaits("start")
    first.kill()
    began = time.monotonic()
    second = world.adapter()
    world.start(second, concurrency=4, mode="thread")
    settle(world)
    verdict(world, jobs, began)


@fault("a worker is suspended for longer than lost_after, and goes on")
def suspended_worker(world: World) -> None:
    world.declare()
    jobs = load(world, 1_000, do="sleep", seconds=0.02)
    first, second = world.adapter(), world.adapter()
    world.start(first, worker="first", concurrency=20)
    world.start(second, worker="second", concurrency=20)
    world.awaits("start", 210)
    first.signal(signal.SIGSTOP)
    # What it held is done by the other one, or waits for it: its heartbeat may be a process of its own, which was not suspended.
    time.sleep(world.server.lost_after + 3)
    first.signal(signal.SIGCONT)
    began = time.monotonic()
    settle(world)
    verdict(world, jobs, began)
    again = load(world, 100, do="echo")
    settle(world)
    verdict(world, again, time.monotonic())


@fault("Redis is flushed, again and again, in the middle of 2,000 jobs", redis=True)
def flushed_redis(world: World) -> None:
    world.declare()
    client = world.adapter()
    world.start(client, concurrency=20)
    done = threading.Event()

    def flush() -> None:
        while not done.wait(0.1):
            assert world.server.redis
            world.server.redis.flush()

    flusher = threading.Thread(target=flush)
    flusher.start()
    began = time.monotonic()
    try:
        jobs = [job for _ in range(4) for job in load(world, 500, do="sleep", seconds=0.01)]
        world.awaits("end", len(jobs), seconds=CEILING_SECONDS)
    finally:
        done.set()
        flusher.join()
    settle(world)
    verdict(world, jobs, began, crashes_allowed=False)


@fault("a handler blocks the event loop for 60 s, four leases of the default length", lost_after=15)
def blocked_loop(world: World) -> None:
    world.declare(timeout_seconds=120)
    first, second = world.adapter(), world.adapter()
    world.start(first, worker="first", concurrency=4)
    blocking = load(world, 1, do="block", seconds=60, idle=True)
    world.awaits("start")
    began = time.monotonic()
    world.start(second, worker="second", concurrency=20)
    others = load(world, 200, do="sleep", seconds=0.05)
    # The first worker may have been given some of these before it was blocked in its call.
    world.awaits("end", 180)
    expect(not world.runs("end")[blocking[0]], "the handler that blocks has ended before the others")
    settle(world)
    equal(world.job(blocking[0])["result"], "blocked", "the result")
    verdict(world, blocking + others, began + 60, crashes_allowed=False)


def killed_api(world: World, method: str, path: str, when: Callable[[Call], bool] | None = None) -> None:
    """The API dies after it has committed and before its reply reaches the client, and starts again."""
    world.declare()
    proxy = world.proxy()
    client = world.adapter(proxy)
    api = world.server.services["api"]
    jobs = load(world, 500, do="sleep", seconds=0.01)
    killed = threading.Event()

    def kill() -> None:
        api.kill()
        killed.set()

    world.start(client, concurrency=20)
    world.awaits("end", 50)
    rule = proxy.lose(method, path, when=when, then=kill)
    pending = client.send("enqueue", kind=world.kind, payload=world.payload())
    if not killed.wait(60):
        raise Failure("no call came that the fault was for")
    began = time.monotonic()
    world.server.start("api")
    jobs.append(pending.answer()["id"])
    settle(world)
    verdict(world, jobs, began)
    equal(rule.used, 1, "lost replies")
    equal(len(world.jobs()), len(jobs), "jobs of the queue")


@fault("the API is killed between the commit of an enqueue and its reply")
def killed_after_enqueue(world: World) -> None:
    killed_api(world, "POST", JOBS)


@fault("the API is killed between the commit of a pull and its reply")
def killed_after_pull(world: World) -> None:
    killed_api(world, "POST", PULL, has_jobs)


@fault("the API is killed between the commit of a finish and its reply", database="postgres")
def killed_after_finish(world: World) -> None:
    killed_api(world, "POST", FINISH)


@fault("SQL stops for 20 s in the middle of 1,000 jobs", database="postgres")
def stopped_sql(world: World) -> None:
    world.declare()
    client = world.adapter()
    jobs = load(world, 1_000, do="sleep", seconds=0.02)
    world.start(client, concurrency=20)
    world.awaits("end", 200)
    assert world.server.postgres
    world.server.postgres.stop()
    time.sleep(20)
    world.server.postgres.go_on()
    began = time.monotonic()
    settle(world)
    verdict(world, jobs, began)


class Clock:
    """A wall clock that is wrong for the processes that are started with `env`, and can be set while they run. (libfaketime changes
    durations too: its `clock_nanosleep` fails.)"""

    SOURCE = Path(__file__).resolve().parents[2] / "tests/src/preload/clock_offset.c"

    def __init__(self, directory: Path) -> None:
        compiler = shutil.which("cc")
        if sys.platform != "linux" or compiler is None:
            raise Unsupported("a wrong clock needs Linux and a C compiler")
        library = directory / "clock_offset.so"
        self._offset = directory / "clock"
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(self.SOURCE)], check=True)
        self.env = {"LD_PRELOAD": str(library), "CLOCK_OFFSET": str(self._offset)}
        self.set(0)

    def set(self, seconds: int) -> None:
        # In place: the processes have the file mapped.
        with open(os.open(self._offset, os.O_RDWR | os.O_CREAT), "r+b", buffering=0) as file:
            file.write(struct.pack("=q", seconds))


@fault("a worker's clock is five minutes fast, then five minutes slow, while handlers run")
def wrong_clock(world: World) -> None:
    world.declare(timeout_seconds=40)
    clock = Clock(world.directory)
    clock.set(300)
    client = world.adapter(env=clock.env)
    world.start(client, concurrency=10)
    jobs = load(world, 10, do="sleep", seconds=world.server.lost_after / 2)
    world.awaits("start", 10)
    began = time.monotonic()
    # The clock of a host that is corrected: ten minutes back at once.
    clock.set(-300)
    jobs += load(world, 100, do="echo") + load(world, 1, do="retry_after", seconds=1)
    waited = client.ask("enqueue", kind=world.kind, payload=world.payload("snooze", seconds=0.5, times=1))["id"]
    equal(client.ask("wait", job=waited, timeout_seconds=60)["result"], "awake", "the result")
    settle(world)
    found = world.jobs()
    bad = [job for job in found.values() if job["state"] != "completed"]
    equal([[job["state"], job["errors"]] for job in bad], [], "jobs that did not complete")
    failed = [job for job, one in found.items() if one["errors"] and one["payload"]["do"] != "retry_after"]
    equal(failed, [], "jobs that failed")
    equal([job for job in found if found[job]["crashes"]], [], "jobs with a crash")
    expect(all(world.runs()[job] == 1 for job in jobs[:-1]), "a job ran twice")
    print(f"    {world.adapter_command}: {len(found)} jobs, missing 0; ended {time.monotonic() - began:.1f} s after the clock was set back")


def main() -> int:
    parser = arguments(__doc__ or "")
    parser.add_argument("--lost-after", metavar="N", type=int, default=LOST_AFTER_SECONDS,
                        help="seconds until a silent worker is lost; an installation that sets nothing has 15 (default: %(default)s)")
    parser.add_argument("--within", metavar="N", type=float, help="seconds within which all jobs have ended after the fault")
    parser.add_argument("--jobs", metavar="N", type=int, default=4, help="faults at the same time, each with its own server (default: %(default)s)")
    options = parser.parse_args()
    chosen = [one for one in FAULTS if options.only in one.scenario.sentence]
    if options.list:
        print("\n".join(one.scenario.sentence for one in chosen))
        return 0
    if not options.adapter:
        parser.error("--adapter is needed: every fault is one of a client's")
    end_on_signals()
    global within_seconds  # noqa: PLW0603 - it is set once, before the first fault
    within_seconds = options.within
    began = time.monotonic()
    directory = scratch("holdfast-faults-")

    def suffer(one: Fault) -> tuple[Fault, str, str, float]:
        started = time.monotonic()
        redis = Redis() if one.redis else None
        server = Server(options.holdfast, one.database, redis=redis, lost_after=one.lost_after or options.lost_after)
        try:
            verdict, reason = play(one.scenario, server, options.adapter, directory)
        finally:
            server.end()
            if redis:
                redis.end()
        return one, verdict, reason, time.monotonic() - started

    verdicts = []
    # The longest first: the others run beside it.
    chosen.sort(key=lambda one: one.lost_after is None)
    with ThreadPoolExecutor(options.jobs) as pool:
        for done in as_completed([pool.submit(suffer, one) for one in chosen]):
            one, verdict, reason, seconds = done.result()
            report(one.scenario, verdict, reason, seconds)
            verdicts.append(verdict)
    return conclude(verdicts, options.allow_skips, began)


if __name__ == "__main__":
    sys.exit(main())
