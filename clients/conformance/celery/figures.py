#!/usr/bin/env python3
"""Celery on Holdfast beside Celery on Redis, in the same run: publishing one by one, draining, and `delay().get()`.

The server should be a release build, and the machine quiet. PostgreSQL writes each commit to its disk, and so does SQLite; Redis keeps nothing
on a disk. Figures are printed; with --judge one that misses its aim fails the run.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from brokers import Broker, Worker

from harness import end_on_signals, eventually, scratch


def application(url: str) -> Any:
    from celery import Celery

    return Celery("app", broker=url, backend=url)


def published(app: Any, count: int) -> tuple[float, float]:
    """Tasks a second, one by one (each is accepted when the call returns), and the producer's own CPU time for each in microseconds."""
    app.send_task("app.nothing", ignore_result=True, queue="figures")
    began, worked = time.perf_counter(), time.process_time()
    for _ in range(count):
        app.send_task("app.nothing", ignore_result=True, queue="figures")
    return count / (time.perf_counter() - began), (time.process_time() - worked) / count * 1e6


def drained(broker: Broker, directory: Path, count: int, pool: tuple[str, ...]) -> float:
    """Tasks a second of a worker that finds all of them waiting, from the first to the last."""
    worker = Worker(broker.url, directory, "-Q", "figures", "--without-gossip", "--without-mingle", "-l", "info", *pool)
    first: float | None = None
    try:

        def done() -> bool:
            nonlocal first
            ended = worker.text().count(" succeeded in ")
            if ended and first is None:
                first = time.perf_counter()
            return ended >= count

        eventually(done, f"{count} tasks have ended", 600, 0.02)
        return count / (time.perf_counter() - (first or 0.0))
    finally:
        worker.end()


def round_trips(broker: Broker, directory: Path, count: int) -> list[float]:
    """Milliseconds of `delay().get()` with an idle worker."""
    worker = Worker(broker.url, directory, "-c", "2", "--without-gossip", "--without-mingle").ready()
    app = application(broker.url)
    took = []
    try:
        for number in range(count + 10):
            began = time.perf_counter()
            app.send_task("app.add", (number, 1)).get(timeout=60)
            took.append(1_000 * (time.perf_counter() - began))
        return sorted(took[10:])
    finally:
        worker.end()


#: Of each figure what it is to be at least, or at most, in times of Celery on Redis.
AIMS = {"publish/s": (1.0, True), "drain/s": (1.5, True), "get p50 ms": (1.5, False)}

POOLS = {"prefork 2": ("-P", "prefork", "-c", "2"), "threads 16": ("-P", "threads", "-c", "16")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--holdfast", required=True, metavar="PATH", type=lambda path: str(Path(path).resolve()), help="the built program")
    parser.add_argument("--tasks", type=int, default=3_000, help="tasks to publish and to drain (default: %(default)s)")
    parser.add_argument("--trips", type=int, default=200, help="round trips (default: %(default)s)")
    parser.add_argument("--on", default="sqlite,postgres", help="databases, separated by commas (default: %(default)s)")
    parser.add_argument("--judge", action="store_true", help="end with 1 if a figure misses its aim, for a machine that does nothing else")
    options = parser.parse_args()
    end_on_signals()
    directory = scratch("holdfast-celery-figures-")
    rows: dict[str, dict[str, float]] = {}
    for name in ["redis", *options.on.split(",")]:
        broker = Broker(name, options.holdfast, durable=True)
        row = rows.setdefault(name, {})
        try:
            app = application(broker.url)
            for pool, arguments in POOLS.items():
                rate, cpu = published(app, options.tasks)
                row["publish/s"] = max(row.get("publish/s", 0.0), rate)
                row["publish, us of the producer's CPU"] = min(row.get("publish, us of the producer's CPU", cpu), cpu)
                row[f"drain/s, {pool}"] = drained(broker, directory, options.tasks, arguments)
            trips = round_trips(broker, directory, options.trips)
            row["get p50 ms"] = statistics.median(trips)
            row["get p95 ms"] = trips[int(len(trips) * 0.95)]
        finally:
            broker.end()
    missed = 0
    for figure, of_redis in rows["redis"].items():
        aim = AIMS.get(figure.partition(",")[0])
        ratios = {name: row[figure] / of_redis for name, row in rows.items()}
        values = ", ".join(f"{name} {row[figure]:.1f} ({ratios[name]:.2f} x)" for name, row in rows.items())
        wanted = ""
        if aim:
            bound, is_least = aim
            late = [name for name, ratio in ratios.items() if name != "redis" and (ratio < bound if is_least else ratio > bound)]
            missed += len(late)
            wanted = f"; aim {'≥' if is_least else '≤'} {bound} x, {'missed by ' + ' and '.join(late) if late else 'met'}"
        print(f"figure: {figure}: {values}{wanted}", flush=True)
    return 1 if options.judge and missed else 0


if __name__ == "__main__":
    sys.exit(main())
