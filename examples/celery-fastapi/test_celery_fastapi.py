"""The application on Redis, and then, with another URL and nothing else, on Holdfast.

Needs HOLDFAST_URL and HOLDFAST_API_KEY of a server, and redis-server.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

HERE = Path(__file__).parent
DEADLINE_SECONDS = 90.0


def eventually(look: Callable[[], Any], what: str) -> Any:
    until = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < until:
        value = look()
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError(f"not within {DEADLINE_SECONDS:g} s: {what}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


class Programs:
    """The processes of one run; they end with it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, *command: str, **env: str) -> Path:
        log = self.directory / f"{name}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(command, cwd=self.directory, env={**os.environ, **env}, stdout=file, stderr=file)
        self._running.append(process)
        return log

    def end(self) -> None:
        for process in reversed(self._running):
            process.terminate()
        for process in reversed(self._running):
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    running = Programs(tmp_path)
    yield running
    running.end()


def broker_url(name: str, programs: Programs) -> str:
    if name == "holdfast":
        address = urlsplit(os.environ["HOLDFAST_URL"])
        return f"holdfast://:{os.environ['HOLDFAST_API_KEY']}@{address.hostname}:{address.port}"
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("redis-server is not installed")
    port = free_port()
    programs.start("redis", server, "--port", str(port), "--bind", "127.0.0.1", "--save", "")
    eventually(lambda: listens(port), "Redis listens")
    return f"redis://127.0.0.1:{port}/0"


@pytest.mark.parametrize("broker", ["redis", "holdfast"])
def test_orders_are_priced_and_the_schedule_runs(broker: str, programs: Programs, tmp_path: Path) -> None:
    port, monitor, trace, prices = free_port(), free_port(), tmp_path / "trace", tmp_path / "prices"
    prices.mkdir()
    env = {"CELERY_URL": broker_url(broker, programs), "PYTHONPATH": str(HERE), "SWEEP_TRACE": str(trace), "PRICE_TRACES": str(prices)}
    python = (sys.executable, "-m")
    worker = programs.start("worker", *python, "celery", "-A", "orders", "worker", "-l", "info", "-c", "2", "-E", "-Q", "celery,documents", **env)
    programs.start("beat", *python, "celery", "-A", "orders", "beat", "-s", str(tmp_path / "schedule"), **env)
    flower = ("celery", "-A", "orders", "flower", "--address=127.0.0.1", f"--port={monitor}")
    flower_log = programs.start("flower", *python, *flower, FLOWER_UNAUTHENTICATED_API="true", **env)
    programs.start("api", *python, "uvicorn", "orders:api", "--port", str(port), **env)
    eventually(lambda: listens(port), "the API listens")
    eventually(lambda: " ready." in worker.read_text(), "the worker is ready")
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        items = {"cup": 2, "spoon": 10, "saucer": 1, "teapot": 1}
        placed = [client.post("/orders", json={"name": f"order {number}", "items": items}).json()["invoice"] for number in range(3)]
        for number, id in enumerate(placed):
            shown = eventually(lambda id=id: client.get(f"/invoices/{id}").json()["invoice"], f"invoice {number}: {worker.read_text()[-2000:]}")
            assert shown == {"order": f"order {number}", "total": 100 * (3 * 2 + 5 * 10 + 6 + 6)}
    eventually(lambda: trace.exists() and trace.read_text().count("swept") >= 2, "the schedule has run twice")
    # Each item's first call failed, and was tried again.
    assert sorted(path.name for path in prices.iterdir()) == sorted(items)
    assert worker.read_text().count("Retry in") >= len(items)
    eventually(lambda: listens(monitor), f"Flower listens: {flower_log.read_text()[-2000:]}")
    with httpx.Client(base_url=f"http://127.0.0.1:{monitor}", timeout=30) as client:
        eventually(lambda: "orders.price" in client.get("/api/workers?refresh=1").text, f"Flower lists the worker: {flower_log.read_text()[-2000:]}")
        eventually(lambda: "orders.sweep" in client.get("/api/tasks").text, "Flower lists the tasks that run by the clock")
