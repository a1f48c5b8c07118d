"""The figures of the Python worker, against a server that runs: ``figures.py URL`` (the key in HOLDFAST_API_KEY, with the scope admin).

No-ops per second at several concurrencies, the time from the answer of an enqueue to the start of its handler, and what an idle worker
takes. Run it on a quiet machine, with a release build of the server.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from holdfast import App, Worker

JOBS = 20_000
PICK_UPS = 200
IDLE_SECONDS = 30.0

app = App(sys.argv[1] if __name__ == "__main__" else None, queue="python-figures")
started: dict[int, float] = {}
all_ran = threading.Event()


@app.job("figures.async")
async def run_async(number: int) -> None:
    note(number)


@app.job("figures.thread")
def run_in_thread(number: int) -> None:
    note(number)


def note(number: int) -> None:
    started[number] = time.perf_counter()
    if len(started) == JOBS:
        all_ran.set()


def throughput(kind: str, concurrency: int) -> None:
    """From the first handler to the last answer of a finish."""
    started.clear()
    all_ran.clear()
    app.client.enqueue_many(app.kinds[kind].new(number) for number in range(JOBS))
    cpu = time.process_time()
    with Worker(app, concurrency=concurrency) as worker:
        assert all_ran.wait(600)
        while worker.stats.held:
            time.sleep(0.001)
        seconds = time.perf_counter() - min(started.values())
    cpu = (time.process_time() - cpu) / JOBS * 1e6
    print(f"figure: {kind}, concurrency {concurrency}: {JOBS / seconds:,.0f} jobs/s, {cpu:.0f} us of CPU for each")


def pick_up() -> None:
    started.clear()
    delays = []
    with Worker(app):
        for number in range(PICK_UPS):
            app.kinds["figures.async"].delay(number)
            answered = time.perf_counter()
            while number not in started:
                time.sleep(0.0002)
            delays.append((started[number] - answered) * 1000)
            time.sleep(0.01)
    delays.sort()
    print(f"figure: pick-up p50 {delays[len(delays) // 2]:.1f} ms, p95 {delays[len(delays) * 95 // 100]:.1f} ms")


def idle() -> None:
    """Of a worker of the command line and its heartbeat process. Linux only."""
    environment = {**os.environ, "HOLDFAST_URL": sys.argv[1], "PYTHONPATH": str(Path(__file__).parent)}
    program = subprocess.Popen([sys.executable, "-m", "holdfast", "worker", "figures:app", "--log-level", "warning"], env=environment)
    time.sleep(5)
    children = subprocess.run(["pgrep", "-P", str(program.pid)], capture_output=True, text=True).stdout.split()
    pids = [str(program.pid), *children]
    before = sum(map(ticks, pids))
    time.sleep(IDLE_SECONDS)
    used = (sum(map(ticks, pids)) - before) / os.sysconf("SC_CLK_TCK")
    memory = [[memory_of(pid, kind) for kind in ("Rss", "Pss")] for pid in pids]
    program.terminate()
    program.wait(30)
    print(f"figure: idle, {used / IDLE_SECONDS * 100:.2f} % of a core; worker and heartbeats, MiB of RSS and PSS: {memory}")


def ticks(pid: str) -> int:
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]))


def memory_of(pid: str, kind: str) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith(f"{kind}:")) / 1024, 1)


def main() -> None:
    app.declare()
    for kind, concurrency in (("figures.async", 16), ("figures.async", 100), ("figures.async", 500), ("figures.thread", 100)):
        throughput(kind, concurrency)
    pick_up()
    idle()


if __name__ == "__main__":
    main()
