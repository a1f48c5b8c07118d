"""The application of the faults and the figures. CELERY_URL is its broker and its backend; it names neither."""

from __future__ import annotations

import os
import time

from celery import Celery

app = Celery("app", broker=os.environ["CELERY_URL"], backend=os.environ["CELERY_URL"])
app.conf.update(worker_hijack_root_logger=False, broker_connection_retry_on_startup=True)


@app.task(ignore_result=True)
def nothing() -> None:
    """For figures."""


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task(acks_late=True, reject_on_worker_lost=True)
def record(path: str, number: int, seconds: float = 0.0) -> int:
    """Its side effect is two lines: one when it begins and one when it ends."""
    return _record(path, number, seconds)


@app.task
def record_early(path: str, number: int, seconds: float = 0.0) -> int:
    """The same, acknowledged when it begins, which is Celery's default."""
    return _record(path, number, seconds)


def _record(path: str, number: int, seconds: float) -> int:
    line(path, f"begin {number}\n")
    time.sleep(seconds)
    line(path, f"end {number}\n")
    return number


def line(path: str, text: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)
