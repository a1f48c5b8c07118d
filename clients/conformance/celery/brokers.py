"""What the programs of this folder share: brokers to run against, workers of Celery, and the record of side effects."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.dont_write_bytecode = True

from harness import ADMIN_KEY, Process, Redis, Server, child_env, eventually  # noqa: E402

HERE = Path(__file__).resolve().parent

#: As a server is by default; the harness' own values are shorter.
DEFAULTS = {"HOLDFAST__WORKER__HEARTBEAT_SECONDS": "5", "HOLDFAST__WORKER__LOST_AFTER_SECONDS": "15"}


def holdfast_url(server: Server, key: str | None = None, port: int | None = None) -> str:
    return f"holdfast://:{key or celery_key(server)}@127.0.0.1:{port or server.port}"


def celery_key(server: Server) -> str:
    """A key as an application of Celery has it."""
    made = getattr(server, "celery_key", None)
    if made is None:
        made = server.admin.ok("POST", "/v1/keys", {"name": "celery", "scopes": ["produce", "work"]})["key"]
        server.celery_key = made  # type: ignore[attr-defined]
    return str(made)


class Broker:
    """Redis, or Holdfast on one of its databases."""

    def __init__(
        self, name: str, holdfast: str, *, beat: bool = False, settings: dict[str, str] | None = None, durable: bool = False
    ) -> None:
        self.name = name
        self.redis: Redis | None = None
        self.server: Server | None = None
        if name == "redis":
            self.redis = Redis()
            self.url = self.redis.url + "/0"
        else:
            self.server = Server(holdfast, name, beat=beat, settings={**DEFAULTS, **(settings or {})}, durable=durable)
            self.url = holdfast_url(self.server)

    def end(self) -> None:
        if self.server is not None:
            self.server.end()
        if self.redis is not None:
            self.redis.end()


def environment(url: str, **more: str) -> dict[str, str]:
    return child_env(CELERY_URL=url, PYTHONPATH=str(HERE), PYTHONDONTWRITEBYTECODE="1", **more)


class Worker:
    """A worker of Celery, in a process group of its own."""

    _made = 0

    def __init__(self, url: str, directory: Path, *options: str, app: str = "app", env: dict[str, str] | None = None) -> None:
        Worker._made += 1
        self.name = f"w{Worker._made}@test"
        command = [sys.executable, "-m", "celery", "-A", app, "worker", "-l", "info", "-n", self.name, *options]
        self.process = Process(f"celery-{Worker._made}", command, directory, env or environment(url), start_new_session=True)

    def ready(self) -> Worker:
        def look() -> bool:
            assert self.process.is_running(), self.process.tail()
            return f"{self.name} ready" in self.text()

        eventually(look, f"{self.name} is ready:\n{self.process.tail()}", 90)
        return self

    def text(self) -> str:
        return self.process.log.read_text(errors="replace")

    def kill(self) -> None:
        """The worker and the processes of its pool, at the same moment, as a host that dies."""
        os.killpg(self.process.pid, 9)
        self.process.popen.wait()

    def end(self) -> None:
        self.process.end(seconds=60)
        try:
            os.killpg(self.process.pid, 9)
        except ProcessLookupError:
            pass


class Record:
    """The side effects of tasks."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "record"

    def lines(self) -> list[tuple[str, int]]:
        if not self.path.exists():
            return []
        return [(words[0], int(words[1])) for words in (line.split() for line in self.path.read_text().splitlines()) if len(words) == 2]

    def count(self, what: str) -> Counter[int]:
        return Counter(number for one, number in self.lines() if one == what)


def run(command: list[str], env: dict[str, str], **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=env, text=True, capture_output=True, check=False, **options)


__all__ = ["ADMIN_KEY", "HERE", "Broker", "Record", "Worker", "celery_key", "environment", "holdfast_url", "run"]
