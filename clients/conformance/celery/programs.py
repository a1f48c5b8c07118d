#!/usr/bin/env python3
"""Programs around Celery, each for real on Holdfast: inspect, control, status, events, purge, amqp, beat, Flower, django-celery-beat and
django-celery-results; and a worker with several URLs."""

from __future__ import annotations

import argparse
import json
import os
import pty
import select
import signal
import sys
import urllib.request
from pathlib import Path
from typing import Callable

from brokers import ADMIN_KEY, Broker, Worker, environment, holdfast_url, run

from harness import Failure, Process, end_on_signals, eventually, free_port, scratch

CELERY = [sys.executable, "-m", "celery"]

DJANGO = '''
import os
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "site_settings")
from celery import Celery
app = Celery("site_app")
app.config_from_object("django.conf:settings", namespace="CELERY")
import django
django.setup()

@app.task
def trace(text):
    with open(os.environ["TRACE"], "a") as file:
        file.write(text + "\\n")
    return text
'''

DJANGO_SETTINGS = '''
import os
SECRET_KEY = "for-tests"
USE_TZ = True
INSTALLED_APPS = ["django.contrib.contenttypes", "django_celery_beat", "django_celery_results"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["SITE_DB"], "OPTIONS": {"timeout": 20}}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
CELERY_BROKER_URL = os.environ["CELERY_URL"]
CELERY_RESULT_BACKEND = "django-db"
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
'''

SCHEDULE = '''
import site_app
from django_celery_beat.models import IntervalSchedule, PeriodicTask
every, _ = IntervalSchedule.objects.get_or_create(every=1, period=IntervalSchedule.SECONDS)
PeriodicTask.objects.get_or_create(name="t", task="site_app.trace", interval=every, args='["by django"]')
'''

RESULTS = '''
import site_app
from django_celery_results.models import TaskResult
assert site_app.trace.delay("a result").get(timeout=60) == "a result"
assert TaskResult.objects.filter(status="SUCCESS").count() >= 1
'''


class World:
    """One server, one worker."""

    def __init__(self, holdfast: str) -> None:
        self.directory = scratch("holdfast-celery-programs-")
        self.broker = Broker("sqlite", holdfast)
        self.env = environment(self.broker.url)
        self.worker = Worker(self.broker.url, self.directory, "-c", "2", "-E", env=self.env).ready()
        self.programs: list[Process] = []

    def celery(self, *arguments: str, url: str | None = None) -> str:
        found = run([*CELERY, "-A", "app", *arguments], environment(url) if url else self.env, cwd=self.directory, timeout=120)
        if found.returncode != 0:
            raise Failure(f"celery {' '.join(arguments)} ended with {found.returncode}: {found.stdout[-800:]}{found.stderr[-800:]}")
        return found.stdout

    def start(self, name: str, command: list[str], **env: str) -> Process:
        self.programs.append(Process(name, command, self.directory, {**self.env, **env}))
        return self.programs[-1]

    def publish(self) -> None:
        self.celery("call", "app.add", "--args", "[1, 2]")

    def end(self) -> None:
        for program in self.programs:
            program.end(seconds=20)
        self.worker.end()
        self.broker.end()


def contains(text: str, *words: str) -> None:
    for word in words:
        if word not in text:
            raise Failure(f"{word!r} is not in what it said: {text[-1500:]}")


def inspect(world: World) -> None:
    contains(world.celery("inspect", "ping", "-t", "5"), "pong", "1 node online")
    contains(world.celery("inspect", "registered", "-t", "5"), "app.add")
    contains(world.celery("inspect", "active_queues", "-t", "5"), "celery")
    contains(world.celery("inspect", "stats", "-t", "5"), "holdfast")
    if ADMIN_KEY in world.celery("inspect", "stats", "-t", "5"):
        raise Failure("inspect stats shows the key")
    contains(world.celery("status", "-t", "5"), "1 node online")


def control(world: World) -> None:
    contains(world.celery("control", "rate_limit", "app.add", "100/s", "-t", "5"), "new rate limit set")
    contains(world.celery("control", "add_consumer", "another", "-t", "5"), "add consumer another")
    contains(world.celery("inspect", "active_queues", "-t", "5"), "another")
    world.celery("call", "app.record", "--args", json.dumps([str(world.directory / "another"), 1]), "--queue", "another")
    eventually(lambda: (world.directory / "another").exists(), "the added queue is consumed")
    contains(world.celery("control", "cancel_consumer", "another", "-t", "5"), "no longer consuming")
    contains(world.celery("control", "pool_grow", "1", "-t", "5"), "pool will grow")


def events(world: World) -> None:
    dump = world.start("events", [*CELERY, "-A", "app", "events", "--dump"], PYTHONUNBUFFERED="1")

    def look() -> bool:
        world.publish()
        text = dump.log.read_text(errors="replace")
        return all(word in text for word in ("task received", "task started", "task succeeded", "heartbeat:"))

    eventually(look, f"events are dumped:\n{dump.tail()}", 90, 0.5)


def purge(world: World) -> None:
    assert world.broker.server
    url = holdfast_url(world.broker.server, key=ADMIN_KEY)
    for _ in range(3):
        world.celery("call", "app.add", "--args", "[1, 2]", "--queue", "purged")
    contains(world.celery("purge", "-f", "-Q", "purged", url=url), "Purged 3 messages")


def beat(world: World) -> None:
    (world.directory / "clock.py").write_text(
        "from app import app\nimport app as module\napp.conf.beat_schedule = "
        f"{{'t': {{'task': 'app.record', 'schedule': 1.0, 'args': ({str(world.directory / 'beaten')!r}, 7)}}}}\n"
    )
    world.start("beat", [*CELERY, "-A", "clock:app", "beat", "-s", str(world.directory / "beat.db")], PYTHONPATH=f"{world.env['PYTHONPATH']}:{world.directory}")
    path = world.directory / "beaten"
    eventually(lambda: path.exists() and path.read_text().count("end 7") >= 2, "beat's task has run twice", 60)


def embedded_beat(world: World) -> None:
    path = world.directory / "embedded"
    (world.directory / "embedding.py").write_text(
        "from app import app\nimport app as module\n"
        f"app.conf.beat_schedule = {{'t': {{'task': 'app.record', 'schedule': 1.0, 'args': ({str(path)!r}, 8), 'options': {{'queue': 'embedded'}}}}}}\n"
    )
    env = {**world.env, "PYTHONPATH": f"{world.env['PYTHONPATH']}:{world.directory}"}
    schedule = ["-s", str(world.directory / "embedded.db")]
    worker = Worker(world.broker.url, world.directory, "-B", *schedule, "-c", "1", "-Q", "embedded", app="embedding:app", env=env).ready()
    eventually(lambda: path.exists() and path.read_text().count("end 8") >= 2, "its task has run twice", 60)
    worker.end()


def amqp(world: World) -> None:
    contains(world.celery("amqp", "queue.declare", "amqp-queue"), "OK")
    world.celery("call", "app.add", "--args", "[1, 2]", "--queue", "amqp-queue")
    # It waits for a second, in which a busy machine may not come to it.
    eventually(lambda: "'routing_key': 'amqp-queue'" in world.celery("amqp", "basic.get", "amqp-queue"), "basic.get gives the task", 90)


def several_urls(world: World) -> None:
    """The first one is of no server."""
    urls = f"holdfast://:k@127.0.0.1:{free_port()};{world.broker.url}"
    env = environment(world.broker.url, CELERY_BROKER_URL=urls)
    (world.directory / "several.py").write_text(f"from app import app\napp.conf.broker_url = {urls!r}\n")
    env["PYTHONPATH"] += f":{world.directory}"
    worker = Worker(world.broker.url, world.directory, "-c", "1", "-Q", "several", app="several:app", env=env).ready()
    path = world.directory / "several"
    found = run([*CELERY, "-A", "several:app", "call", "app.record", "--args", json.dumps([str(path), 9]), "--queue", "several"], env, cwd=world.directory, timeout=120)
    eventually(path.exists, f"the task has run: {found.stderr[-800:]}", 60)
    worker.end()


def curses(world: World) -> None:
    """The monitor in a terminal of its own."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(world.directory)
        os.execve(sys.executable, [*CELERY, "-A", "app", "events"], {**world.env, "TERM": "xterm", "LINES": "40", "COLUMNS": "120"})
    shown = b""
    try:

        def look() -> bool:
            nonlocal shown
            world.publish()
            while select.select([terminal], [], [], 0.2)[0]:
                shown += os.read(terminal, 65_536)
            return b"app.add" in shown and b"SUCCESS" in shown

        eventually(look, "the monitor shows a task", 60, 0.2)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)


def flower(world: World) -> None:
    port = free_port()
    program = world.start("flower", [*CELERY, "-A", "app", "flower", f"--port={port}", "--address=127.0.0.1"], FLOWER_UNAUTHENTICATED_API="true")

    def get(path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
            return str(answer.read().decode())

    def shows(path: str, *words: str) -> Callable[[], bool]:
        def look() -> bool:
            try:
                text = get(path)
            except OSError:
                return False
            return all(word in text for word in words)

        return look

    eventually(shows("/api/workers?refresh=1", world.worker.name, "app.add"), f"Flower lists the worker:\n{program.tail()}", 90, 0.5)
    world.publish()
    eventually(shows("/api/tasks", "app.add", "SUCCESS"), f"Flower lists the task:\n{program.tail()}", 60, 0.5)
    contains(get("/workers"), world.worker.name)
    if ADMIN_KEY in get("/workers") + program.log.read_text():
        raise Failure("Flower shows the key")


def pools(world: World) -> None:
    for pool in ("threads", "solo", "gevent", "eventlet"):
        worker = Worker(world.broker.url, world.directory, "-P", pool, "-c", "4", "-Q", pool, env=world.env).ready()
        trace = world.directory / f"trace-{pool}"
        for number in range(8):
            world.celery("call", "app.record", "--args", json.dumps([str(trace), number, 0.05]), "--queue", pool)
        eventually(lambda trace=trace: trace.exists() and trace.read_text().count("end") == 8, f"{pool} runs tasks:\n{worker.process.tail()}", 60)
        contains(world.celery("inspect", "ping", "-d", worker.name, "-t", "10"), "pong")
        worker.end()


def django(world: World) -> None:
    (world.directory / "site_app.py").write_text(DJANGO)
    (world.directory / "site_settings.py").write_text(DJANGO_SETTINGS)
    trace = world.directory / "trace"
    env = {
        "DJANGO_SETTINGS_MODULE": "site_settings", "SITE_DB": str(world.directory / "site.db"), "TRACE": str(trace),
        "PYTHONPATH": f"{world.env['PYTHONPATH']}:{world.directory}",
    }

    def python(*arguments: str) -> None:
        found = run([sys.executable, *arguments], {**world.env, **env}, cwd=world.directory, timeout=120)
        if found.returncode != 0:
            raise Failure(f"{arguments[0:2]} ended with {found.returncode}: {found.stderr[-1500:]}")

    python("-m", "django", "migrate", "-v", "0")
    python("-c", SCHEDULE)
    site = world.start("site-worker", [*CELERY, "-A", "site_app", "worker", "-l", "info", "-c", "1", "-Q", "celery", "-n", "site@test"], **env)
    eventually(lambda: "site@test ready" in site.log.read_text(errors="replace"), f"the site's worker is ready:\n{site.tail()}", 90)
    # The application's own worker knows no task of the site.
    world.celery("control", "cancel_consumer", "celery", "-d", world.worker.name, "-t", "10")
    python("-c", RESULTS)
    world.start("site-beat", [*CELERY, "-A", "site_app", "beat", "-S", "django"], **env)
    eventually(lambda: trace.read_text().count("by django") >= 2, "the schedule of Django has run twice", 90)


PROGRAMS: dict[str, Callable[[World], None]] = {
    "celery inspect and status": inspect,
    "celery control": control,
    "pools threads, solo, gevent and eventlet": pools,
    "celery events --dump": events,
    "celery purge": purge,
    "celery events, the monitor": curses,
    "celery amqp": amqp,
    "several URLs": several_urls,
    "celery beat": beat,
    "worker -B": embedded_beat,
    "Flower": flower,
    "django-celery-beat and django-celery-results": django,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--holdfast", required=True, metavar="PATH", type=lambda path: str(Path(path).resolve()), help="the built program")
    parser.add_argument("--only", default="", help="only programs with this in their names")
    options = parser.parse_args()
    end_on_signals()
    world = World(options.holdfast)
    failed = 0
    try:
        for name, play in PROGRAMS.items():
            if options.only in name:
                try:
                    play(world)
                    print(f"    ok {name}", flush=True)
                except Exception as error:
                    failed += 1
                    print(f"    not ok {name}: {type(error).__name__}: {error}", flush=True)
    finally:
        world.end()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
