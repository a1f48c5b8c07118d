"""The worker's side of the API in memory, for what a real server does seldom."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx

from holdfast import App, Worker


class FakeServer:
    """Gives jobs, and notes what it is told. ``before`` may answer a call itself: it is given its name and body."""

    def __init__(self, **settings: Any) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.waiting: list[dict[str, Any]] = []
        self.outcomes: list[dict[str, Any]] = []
        self.before: Callable[[str, Any], httpx.Response | None] = lambda name, body: None
        self.settings = {"heartbeat_seconds": 0.2, "lost_after_seconds": 1, **settings}
        self.workers = 0
        self.beat: dict[str, Any] = {}

    def give(self, kind: str, payload: Any, id: str = "J1", fence: str = "f1", **more: Any) -> None:
        job = {"id": id, "kind": kind, "queue": "q", "payload": payload, "fence": fence, "attempt": 1, "max_attempts": 5}
        self.waiting.append({**job, "deadline_seconds": 60, "headers": {}, **more})

    def named(self, name: str) -> list[Any]:
        return [body for one, body in self.calls if one == name]

    async def answer(self, request: httpx.Request) -> httpx.Response:
        name = "delete" if request.method == "DELETE" else request.url.path.rsplit("/", 1)[-1]
        body = json.loads(request.content) if request.content else None
        self.calls.append((name, body))
        answer = self.before(name, body)
        return answer if answer is not None else await getattr(self, f"on_{name}")(body)

    async def on_workers(self, body: Any) -> httpx.Response:
        self.workers += 1
        return httpx.Response(201, json={"id": f"W{self.workers}", **self.settings})

    async def on_pull(self, body: Any) -> httpx.Response:
        for _ in range(200):
            if self.waiting:
                break
            await asyncio.sleep(0.01)
        jobs, self.waiting = self.waiting[: body["max"]], self.waiting[body["max"] :]
        return httpx.Response(200, json={"jobs": jobs})

    async def on_finish(self, body: Any) -> httpx.Response:
        self.outcomes += body["outcomes"]
        return httpx.Response(200, json={"outcomes": [{"job": one["job"], "status": "stored"} for one in body["outcomes"]]})

    async def on_heartbeat(self, body: Any) -> httpx.Response:
        return httpx.Response(200, json=self.beat)

    async def on_delete(self, body: Any) -> httpx.Response:
        return httpx.Response(204)

    def worker(self, app: App, **options: Any) -> Worker:
        return Worker(app, url="http://fake", transport=httpx.MockTransport(self.answer), **options)
