"""Workers of Celery for tests: what test_celery.py and test_celery_jobs.py share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import celery
import httpx
import pytest
from celery import Celery
from conftest import Server, clean_environment, eventually

#: Celery stores the result of a rejected task from 5.7 on. Before, who waits for it waits in vain, on every broker.
STORES_REJECTIONS = celery.VERSION[:2] >= (5, 7)

TASKS = """
import os
import time
from celery import Celery
from celery.exceptions import Reject

app = Celery("tasks", broker=os.environ["CELERY_URL"], backend=os.environ["CELERY_URL"])
app.conf.worker_prefetch_multiplier = 2

def note(text):
    with open(os.environ["RECORD"], "a") as record:
        record.write(text + "\\n")

@app.task
def add(x, y):
    return x + y

@app.task
def total(numbers):
    note(f"total {sum(numbers)}")
    return sum(numbers)

@app.task(bind=True, max_retries=3)
def flaky(self, fails):
    if self.request.retries < fails:
        raise self.retry(countdown=0.1)
    return self.request.retries

@app.task(autoretry_for=(KeyError,), retry_backoff=False, default_retry_delay=0.1, max_retries=2)
def keyed():
    note("keyed")
    raise KeyError("k")

@app.task(acks_late=True)
def refuse():
    raise Reject("no good", requeue=False)

@app.task(acks_late=True, bind=True)
def again(self):
    note("again")
    if not self.request.delivery_info["redelivered"]:
        raise Reject("later", requeue=True)
    return "again"

@app.task(acks_late=True, reject_on_worker_lost=True, bind=True)
def die(self, times):
    # It kills its process until it has begun more often.
    note(f"die {self.request.id}")
    with open(os.environ["RECORD"]) as record:
        if record.read().splitlines().count(f"die {self.request.id}") <= times:
            os._exit(9)
    return "alive"

@app.task(acks_late=True)
def gated(gate):
    note("begin gated")
    while not os.path.exists(gate):
        time.sleep(0.02)
    note("end gated")
    return "gated"

@app.task(acks_late=True, bind=True)
def picky(self, gate):
    note("picky")
    if not os.path.exists(gate):
        raise Reject("not yet", requeue=False)

@app.task(acks_late=True)
def slow(name, seconds):
    note(f"begin {name}")
    time.sleep(seconds)
    note(f"end {name}")
    return name
"""


class Program:
    """A worker of Celery, in a process group of its own."""

    def __init__(self, directory: Path, server: Server, *options: str, record: Path | None = None) -> None:
        directory.mkdir(exist_ok=True)
        (directory / "tasks.py").write_text(TASKS)
        self.record = record or directory / "record"
        self.log = directory / f"celery-{time.monotonic_ns()}.log"
        self.url = url_of(server)
        environment = clean_environment(CELERY_URL=self.url, RECORD=str(self.record), PYTHONPATH=str(directory))
        command = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "-l", "info", "--without-mingle"]
        command += ["-n", f"{directory.name}@t", *options]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=directory, env=environment, stdout=log, stderr=log, start_new_session=True)

    def ready(self) -> Program:
        def look() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            return " ready." in self.log.read_text()

        eventually(look, f"the worker is ready: {self.log.read_text()}")
        return self

    def notes(self) -> list[str]:
        return self.record.read_text().splitlines() if self.record.exists() else []

    def kill(self) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()

    def end(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        finally:
            self.kill()


def url_of(server: Server) -> str:
    return f"holdfast://:{server.key}@127.0.0.1:{server.port}"


def application(server: Server | str) -> Celery:
    url = server if isinstance(server, str) else url_of(server)
    return Celery("tasks", broker=url, backend=url, set_as_current=False)


@pytest.fixture(scope="session")
def server(server: Server) -> Server:
    """One that has results and channels."""
    found = httpx.get(f"{server.url}/v1/channels/any", headers={"Authorization": f"Bearer {server.key}"})
    if found.status_code == 404:
        pytest.skip("this build of holdfast has no results and channels")
    return server


@pytest.fixture(scope="module")
def worker(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    running = Program(tmp_path_factory.mktemp("shared"), server, "-c", "2", "-E").ready()
    yield running
    running.end()


@pytest.fixture
def app(server: Server, worker: Program) -> Iterator[Celery]:
    made = application(server)
    yield made
    made.close()


@pytest.fixture
def own(server: Server, tmp_path: Path) -> Iterator[Any]:
    """Makes workers of a queue of the test's own."""
    made: list[Program] = []

    def start(queue: str, *options: str) -> Program:
        made.append(Program(tmp_path / f"w{len(made)}", server, "-Q", queue, "--without-gossip", *options, record=tmp_path / "record"))
        return made[-1]

    yield start
    for one in made:
        one.kill()


def jobs(server: Server, queue: str) -> list[dict[str, Any]]:
    answer = httpx.get(f"{server.url}/v1/jobs?queue={queue}&limit=1000", headers={"Authorization": f"Bearer {server.key}"})
    return list(answer.json()["jobs"])
