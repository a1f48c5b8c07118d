"""What a scenario has: the server, names of its own, adapters, proxies, and the record of side effects."""

from __future__ import annotations

import json
from collections import Counter as Tally
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

from adapter import Adapter, Unsupported
from harness import Api, Counter, Failure, Server, eventually
from proxy import Proxy

_names = Counter()


@dataclass
class Scenario:
    sentence: str
    play: Callable[["World"], None]
    needs_adapter: bool


SCENARIOS: list[Scenario] = []


def scenario(sentence: str, needs_adapter: bool = True) -> Callable[[Callable[["World"], None]], Callable[["World"], None]]:
    """Adds a scenario to the list."""

    def add(play: Callable[["World"], None]) -> Callable[["World"], None]:
        SCENARIOS.append(Scenario(sentence, play, needs_adapter))
        return play

    return add


def expect(holds: Any, what: str) -> None:
    if not holds:
        raise Failure(what)


def equal(found: Any, wanted: Any, what: str) -> None:
    if found != wanted:
        raise Failure(f"{what}: expected {json.dumps(wanted, default=str)[:600]}, found {json.dumps(found, default=str)[:600]}")


@dataclass
class World:
    server: Server
    directory: Path
    adapter_command: str | None = None
    _open: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        number = _names.next()
        self.queue, self.kind = f"q{number}", f"kind.n{number}"
        self.directory = self.directory / f"s{number}"
        self.directory.mkdir()
        self.record = str(self.directory / "record")
        self.gate = str(self.directory / "gate")
        self.admin = self.server.admin

    # --- the server -------------------------------------------------------------------------------------------------

    def declare(self, kind: str | None = None, queue: str | None = None, **definition: Any) -> str:
        """Declares a kind over HTTP. By default it is retried immediately, three attempts in all."""
        kind = kind or self.kind
        retry = {"max_attempts": 3, "base_seconds": 0, "cap_seconds": 0}
        body = {"queue": queue or self.queue, "timeout_seconds": 60, "retry": retry, **definition}
        self.admin.ok("PUT", f"/v1/kinds/{kind}", body)
        return kind

    def key(self, *scopes: str, **bounds: Any) -> str:
        """A new API key."""
        name = f"key-{_names.next()}"
        return str(self.admin.ok("POST", "/v1/keys", {"name": name, "scopes": list(scopes), **bounds})["key"])

    def enqueue(self, payload: Any, kind: str | None = None, **options: Any) -> str:
        """One job, over HTTP."""
        return str(self.admin.ok("POST", "/v1/jobs", {"kind": kind or self.kind, "payload": payload, **options})["id"])

    def enqueue_batch(self, payloads: list[Any], kind: str | None = None) -> list[str]:
        jobs = [{"kind": kind or self.kind, "payload": payload} for payload in payloads]
        return list(self.admin.ok("POST", "/v1/jobs/batch", {"jobs": jobs})["ids"])

    def job(self, job: str) -> Any:
        return self.admin.job(job)

    def reaches(self, job: str, state: str, seconds: float = 60) -> Any:
        """Waits until the job is in the state; the job."""
        found: Any = None

        def look() -> bool:
            nonlocal found
            found = self.job(job)
            return bool(found["state"] == state)

        try:
            eventually(look, f"{job} is {state}", seconds)
        except Failure as failure:
            raise Failure(f"{failure}; it is {json.dumps(found)[:1500]}") from None
        return found

    def jobs(self, queue: str | None = None) -> dict[str, Any]:
        """Every job of the queue, whatever its state, as SQL has it now. (The counts of queues are cached for a moment.)"""
        found: dict[str, Any] = {}
        path, after = f"/v1/jobs?queue={queue or self.queue}&limit=1000", ""
        while True:
            page = self.admin.ok("GET", path + after)
            found |= {job["id"]: job for job in page["jobs"]}
            if not page.get("next"):
                return found
            after = f"&after={page['next']}"

    def is_empty(self) -> bool:
        """Whether no job of the queue waits or runs."""
        unfinished = ("scheduled", "available", "running", "retryable")
        pages = (self.admin.ok("GET", f"/v1/jobs?queue={self.queue}&state={state}&limit=1") for state in unfinished)
        if any(page["jobs"] for page in pages):
            return False
        # A rescued job may have moved, between two of these reads, into a state that had been read. Only a final state stays.
        return all(job["state"] in ("completed", "discarded", "cancelled") for job in self.jobs().values())

    def worker_is_listed(self, worker: str) -> bool:
        return any(listed["id"] == worker and listed["alive"] for listed in self.admin.ok("GET", "/v1/workers")["workers"])

    # --- the client -------------------------------------------------------------------------------------------------

    def proxy(self) -> Proxy:
        proxy = Proxy(self.server.url)
        self._open.append(proxy)
        return proxy

    def adapter(self, via: Proxy | str | None = None, key: str | None = None, env: dict[str, str] | None = None) -> Adapter:
        """A process of the client under test, whose client is open."""
        if self.adapter_command is None:
            raise Unsupported("no adapter was given")
        adapter = Adapter(self.adapter_command, self.directory, f"adapter{_names.next()}", env)
        self._open.append(adapter)
        url = via.url if isinstance(via, Proxy) else via or self.server.url
        adapter.ask("open", url=url, key=key or self.admin.key)
        return adapter

    def start(self, adapter: Adapter, **options: Any) -> str:
        """Starts the adapter's worker on this scenario's queue and kind; its id."""
        fields = {"queues": [self.queue], "kinds": [self.kind], "concurrency": 4, "grace_seconds": 20, **options}
        return str(adapter.ask("worker.start", **fields)["worker_id"])

    def close(self) -> None:
        for opened in reversed(self._open):
            opened.close()

    # --- side effects -----------------------------------------------------------------------------------------------

    def payload(self, do: str = "echo", hold: bool = False, **fields: Any) -> dict[str, Any]:
        """A payload whose handler records its side effects, and waits for `release` if it is held."""
        return {"do": do, "record": self.record, **({"hold": self.gate} if hold else {}), **fields}

    def release(self) -> None:
        Path(self.gate).touch()

    def lines(self) -> list[tuple[str, int, str]]:
        path = Path(self.record)
        text = path.read_text() if path.exists() else ""
        return [(job, int(attempt), what) for job, attempt, what in (line.split() for line in text.splitlines())]

    def count(self, what: str, job: str | None = None) -> int:
        return sum(1 for found, _, did in self.lines() if did == what and job in (None, found))

    def runs(self, what: str = "start") -> Tally[str]:
        """How often each job did it."""
        return Tally(job for job, _, did in self.lines() if did == what)

    def awaits(self, what: str, times: int = 1, job: str | None = None, seconds: float = 60) -> None:
        """Waits until handlers have done it so many times."""
        eventually(lambda: self.count(what, job) >= times, f"{times} × {what} in the record; there are {self.count(what, job)}", seconds)


def pull(api: Api, worker: str, *, max: int = 10, wait: float = 0, have: list[str] | None = None) -> list[Any]:
    """The jobs of one raw pull."""
    body = {"max": max, "wait_seconds": wait, "have": have or []}
    return list(api.ok("POST", f"/v1/workers/{worker}/pull", body)["jobs"])
