"""Testing without a server.

.. code-block:: python

    with app.testing() as box:
        make.delay("https://example.com/a.png")
        assert box.jobs[0].payload == {"url": "https://example.com/a.png"}
        box.run()
        assert box.jobs[0].state == "completed"

A :class:`Box` stands behind the app's clients in place of the HTTP connection, so that producers run as they are. It checks kinds,
options and payloads (by the types of the handlers), runs handlers as a worker does, in the calling thread, and retries failures without
delays. It is no server: there are no limits, schedules, or other processes.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import httpx

from . import _json
from ._attempt import Outcome
from .aio import AsyncClient
from .client import Client
from .context import Context, JobInfo
from .errors import PayloadError
from .models import FINAL_STATES

if TYPE_CHECKING:
    from .app import App

#: Executions of one job in one `run`, after which a job that snoozes itself again and again is left.
MAX_EXECUTIONS = 1_000

#: Attempts of a job, where neither it nor its kind says how many.
DEFAULT_ATTEMPTS = 5


@dataclass
class BoxJob:
    """A job in the box."""

    id: str
    kind: str
    queue: str
    payload: Any
    #: The other fields of the request, such as ``priority``.
    options: dict[str, Any] = field(default_factory=dict)
    max_attempts: int = DEFAULT_ATTEMPTS
    #: available, completed, discarded or cancelled.
    state: str = "available"
    #: Attempts that have ended.
    attempt: int = 0
    result: Any = None
    #: One for each attempt that failed.
    errors: list[str] = field(default_factory=list)
    #: What the handler reported, in order.
    progress: list[Any] = field(default_factory=list)
    #: Lines of ``ctx.log``.
    lines: list[str] = field(default_factory=list)
    previous_result: Any = None

    @property
    def error(self) -> str | None:
        """The last error."""
        return self.errors[-1] if self.errors else None

    def view(self) -> dict[str, Any]:
        """As the API shows it."""
        return {
            "id": self.id,
            "kind": self.kind,
            "queue": self.queue,
            "state": self.state,
            "payload": self.payload,
            "result": self.result,
            "progress": self.progress[-1] if self.progress else None,
            "attempt": self.attempt,
            "max_attempts": self.max_attempts,
            "unique_key": self.options.get("unique_key"),
            "errors": [
                {"attempt": number, "class": "transient", "message": message, "at": _now()} for number, message in enumerate(self.errors, 1)
            ],
        }


class Refused(Exception):
    """The box refuses a request, as the API would."""

    def __init__(self, status: int, type: str, detail: str, field: str | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.body = {"type": f"urn:holdfast:problem:{type}", "title": type, "status": status, "detail": detail, "field": field}


class Box:
    """Jobs in memory. Made by :meth:`App.testing <holdfast.App.testing>`."""

    def __init__(self, app: App, *, eager: bool, others: Iterable[str]) -> None:
        self._app = app
        self._others = frozenset(others)
        self._eager = eager
        self._keys: dict[str, Any] = {}
        self._count = 0
        #: Every job, in the order in which they were enqueued.
        self.jobs: list[BoxJob] = []
        self.client = Client("http://box.test", transport=httpx.MockTransport(self._answer), patience=0)
        self.async_client = AsyncClient("http://box.test", transport=httpx.MockTransport(self._answer), patience=0)

    def __repr__(self) -> str:
        return f"Box({len(self.jobs)} jobs)"

    def of(self, kind: str) -> list[BoxJob]:
        """The jobs of a kind."""
        return [job for job in self.jobs if job.kind == kind]

    def run(self) -> int:
        """Runs what waits, and what that enqueues, until nothing waits. Returns the number of executions."""
        executions = 0
        while (job := next(filter(self._can_run, self.jobs), None)) is not None:
            executions += self._finish(job)
        return executions

    def _can_run(self, job: BoxJob) -> bool:
        return job.state == "available" and job.kind not in self._others

    def _finish(self, job: BoxJob) -> int:
        """Runs a job until it has ended."""
        executions = 0
        while self._can_run(job):
            executions += 1
            if executions > MAX_EXECUTIONS:
                raise AssertionError(f"job {job.id} ({job.kind}) has been run {MAX_EXECUTIONS} times, and has not ended")
            self._apply(job, self._execute(job))
        return executions

    def _execute(self, job: BoxJob) -> Outcome:
        kind = self._app.kinds[job.kind]
        info = JobInfo(
            job.id,
            job.kind,
            job.queue,
            job.attempt + 1,
            job.max_attempts,
            float(job.options.get("timeout_seconds") or kind.definition.timeout_seconds or 3600.0),
            previous_result=job.previous_result,
        )
        context = Context(info, lambda value: job.progress.append(_json.decode(value)), job.lines.append)
        if kind.handler.is_async:
            return _run_here(kind.handler.run_async(context, job.payload))
        return kind.handler.run(context, job.payload)

    def _apply(self, job: BoxJob, outcome: Outcome) -> None:
        if outcome.verb == "snooze":
            return
        job.attempt += 1
        if outcome.verb == "completed":
            job.state = "completed"
            job.result = _json.decode(outcome.result) if outcome.result is not None else None
            if job.options.get("then"):
                self._accept(job.options["then"], previous_result=job.result)
        elif outcome.verb == "cancelled":
            job.state = "cancelled"
        else:
            job.errors.append(outcome.error or "")
            if outcome.verb == "discard" or job.attempt >= job.max_attempts:
                job.state = "discarded"

    # The API's side

    def _answer(self, request: httpx.Request) -> httpx.Response:
        try:
            status, body = self._route(request)
        except Refused as refused:
            return httpx.Response(refused.status, json=refused.body)
        return httpx.Response(status, json=body)

    def _route(self, request: httpx.Request) -> tuple[int, Any]:
        key = request.headers.get("Idempotency-Key")
        routes: dict[tuple[str, str], Callable[[Any], Any]] = {
            ("POST", "/v1/jobs"): self._enqueue,
            ("POST", "/v1/jobs/batch"): self._enqueue_many,
        }
        route = routes.get((request.method, request.url.path))
        if route is None:
            return 200, self._of_job(request)
        if key not in self._keys:
            self._keys[key] = route(_json.decode(request.content))
            return 202, self._keys[key]
        return 200, {**self._keys[key], "duplicate": True}

    def _enqueue(self, body: Any) -> Any:
        job, is_new = self._accept_unique(body)
        return {"id": job.id, "kind": job.kind, "queue": job.queue, "state": job.state, "duplicate": not is_new}

    def _enqueue_many(self, body: Any) -> Any:
        for one in body["jobs"]:
            self._check(one)
        return {"ids": [self._accept_unique(one)[0].id for one in body["jobs"]], "accepted": len(body["jobs"])}

    def _accept_unique(self, body: Any) -> tuple[BoxJob, bool]:
        unique = body.get("unique_key")
        for job in self.jobs:
            is_same = unique is not None and (job.kind, job.options.get("unique_key")) == (body["kind"], unique)
            if is_same and job.state not in FINAL_STATES:
                return job, False
        return self._accept(body), True

    def _accept(self, body: Any, previous_result: Any = None) -> BoxJob:
        self._check(body)
        kind = self._app.kinds.get(body["kind"])
        options = {name: value for name, value in body.items() if name not in ("kind", "payload", "queue")}
        attempts = options.get("max_attempts") or (kind and kind.definition.max_attempts) or DEFAULT_ATTEMPTS
        self._count += 1
        job = BoxJob(
            f"{self._count:026d}",
            body["kind"],
            body.get("queue") or (kind.queue if kind else ""),
            body["payload"],
            options,
            attempts,
            previous_result=previous_result,
        )
        self.jobs.append(job)
        if self._eager:
            self._finish(job)
        return job

    def _check(self, body: Any) -> None:
        kind = self._app.kinds.get(body["kind"])
        if kind is None and body["kind"] not in self._others:
            raise Refused(422, "unknown-kind", f"there is no kind {body['kind']!r} in this app", "kind")
        try:
            if kind is not None:
                kind.check(body["payload"])
        except PayloadError as fault:
            raise Refused(422, "invalid-payload", str(fault), fault.path) from None
        if body.get("then"):
            self._check(body["then"])

    def _of_job(self, request: httpx.Request) -> Any:
        parts = request.url.path.split("/")
        if parts[1:3] != ["v1", "jobs"] or len(parts) < 4:
            raise Refused(404, "route-not-found", f"the box has no {request.method} {request.url.path}")
        job = next((job for job in self.jobs if job.id == parts[3]), None)
        if job is None:
            raise Refused(404, "job-not-found", f"no job {parts[3]} is known", "id")
        if parts[4:] == ["cancel"]:
            if job.state not in ("available", "cancelled"):
                raise Refused(409, "illegal-transition", f"the job is {job.state}")
            job.state = "cancelled"
            return {"id": job.id, "state": job.state}
        if "wait" in parse_qs(request.url.query.decode()):
            self._finish(job)
        return job.view()


def _run_here(coroutine: Coroutine[Any, Any, Outcome]) -> Outcome:
    """Runs an async handler to its end; within a running loop, on another one in a thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(asyncio.run(coroutine)))
    thread.start()
    thread.join()
    return outcomes[0]


def _now() -> str:
    return datetime.now(timezone.utc).isoformat()
