"""The adapter of the conformance suite (clients/conformance/README.md): commands on standard input, answers on standard output."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import platform
import queue
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import holdfast
from holdfast import App, Client, Context, Discard, KindDefinition, NewJob, Retry, Snooze, Worker

#: Commands that wait at the same time at most.
MAX_COMMANDS = 64


class Unsupported(Exception):
    """The client cannot do this by its nature."""


class Output:
    """Lines for the runner, each written whole."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._file = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def write(self, line: dict[str, Any]) -> None:
        with self._lock:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()


class Events(logging.Handler):
    """What the client logs, as events."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        level = record.levelname.lower() if record.levelno <= logging.ERROR else "error"
        self._output.write({"event": "log", "level": level, "message": record.getMessage()})


# The handler


def record(payload: dict[str, Any], ctx: Context, word: str) -> None:
    if payload.get("record"):
        file = os.open(payload["record"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, f"{ctx.job_id} {ctx.attempt} {word}\n".encode())
        finally:
            os.close(file)


SNOOZED: dict[str, int] = {}


async def handle(ctx: Context, payload: dict[str, Any]) -> Any:
    record(payload, ctx, "start")
    while payload.get("hold") and not os.path.exists(payload["hold"]):
        if ctx.cancelled:
            record(payload, ctx, "cancelled")
            ctx.raise_if_cancelled()
        await asyncio.sleep(0.05)
    result = await act(ctx, payload)
    record(payload, ctx, "end")
    return result


async def act(ctx: Context, payload: dict[str, Any]) -> Any:
    do, seconds = payload["do"], payload.get("seconds", 0)
    if do == "echo":
        return payload.get("value")
    if do == "fail":
        if ctx.attempt <= payload["times"]:
            raise RuntimeError(payload.get("message", "failed"))
        return "recovered"
    if do == "discard":
        raise Discard(payload.get("message", "discarded"))
    if do == "snooze":
        SNOOZED[ctx.job_id] = SNOOZED.get(ctx.job_id, 0) + 1
        if SNOOZED[ctx.job_id] <= payload["times"]:
            raise Snooze(seconds)
        return "awake"
    if do == "retry_after":
        if ctx.attempt == 1:
            raise Retry("later", after=seconds)
        return "retried"
    if do == "sleep":
        await asyncio.sleep(seconds)
        return "slept"
    if do == "block" and payload.get("idle"):
        time.sleep(seconds)
        return "blocked"
    if do == "block":
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            pass
        return "blocked"
    if do == "wait_cancel":
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            if ctx.cancelled:
                record(payload, ctx, "cancelled")
                ctx.raise_if_cancelled()
            await asyncio.sleep(0.02)
        return "not cancelled"
    if do == "progress":
        for number, value in enumerate(payload["values"]):
            if number:
                await asyncio.sleep(payload.get("every_seconds") or 0)
            ctx.progress(value)
        return payload["values"][-1]
    if do == "log":
        for line in payload["lines"]:
            ctx.log(line)
        return len(payload["lines"])
    if do == "context":
        job = ctx.job
        return {
            "job": job.id,
            "kind": job.kind,
            "queue": job.queue,
            "attempt": job.attempt,
            "max_attempts": job.max_attempts,
            "deadline_seconds": job.deadline_seconds,
            "traceparent": job.traceparent,
            "previous_result": job.previous_result,
            "batch": job.batch,
        }
    if do == "big":
        return "x" * payload["bytes"]
    if do == "exit":
        os._exit(7)
    raise Discard(f"the adapter does not know {do!r}")


def app_of(kinds: list[str], queue: str, mode: str) -> App:
    """One handler for every kind, which takes the payload as it is."""
    app = App(queue=queue)
    for kind in kinds:
        if mode == "thread":

            @app.job(kind)
            def in_thread(ctx: Context, payload: dict[str, Any], /) -> Any:
                return asyncio.run(handle(ctx, payload))
        else:

            @app.job(kind)
            async def on_loop(ctx: Context, payload: dict[str, Any], /) -> Any:
                return await handle(ctx, payload)

    return app


# Commands


class Adapter:
    def __init__(self, output: Output) -> None:
        self._output = output
        self._client: Client | None = None
        self._url: str | None = None
        self._key: str | None = None
        self._workers: dict[str, Worker] = {}

    @property
    def client(self) -> Client:
        assert self._client is not None, "open comes first"
        return self._client

    def run(self, command: dict[str, Any]) -> None:
        name = "do_" + str(command["do"]).replace(".", "_")
        try:
            method = getattr(self, name, None)
            if method is None:
                raise Unsupported(command["do"])
            answer = {"ok": method({key: value for key, value in command.items() if value is not None})}
        except Exception as error:
            answer = {"error": error_of(error)}
        self._output.write({"id": command["id"], **answer})

    def do_hello(self, _command: dict[str, Any]) -> Any:
        return {"client": "holdfast-python", "version": holdfast.__version__, "language": f"python {platform.python_version()}"}

    def do_open(self, command: dict[str, Any]) -> Any:
        self._url, self._key = command["url"], command.get("key")
        self._client = Client(self._url, self._key)
        return {}

    def do_describe(self, _command: dict[str, Any]) -> Any:
        return {"text": " ".join(f"{one!r} {one}" for one in [self._client, *self._workers.values()])}

    def do_declare(self, command: dict[str, Any]) -> Any:
        for kind in command["kinds"]:
            retry = kind.get("retry") or {}
            fields = {name: value for name, value in {**kind, **retry}.items() if name != "retry" and value is not None}
            self.client.put_kind(KindDefinition(**fields))
        return {}

    def do_enqueue(self, command: dict[str, Any]) -> Any:
        job = self.client.enqueue(command["kind"], command["payload"], **options_of(command.get("options")))
        return {"id": job.id, "duplicate": job.duplicate}

    def do_enqueue_many(self, command: dict[str, Any]) -> Any:
        jobs = [NewJob(job["kind"], job["payload"], **options_of(job.get("options"))) for job in command["jobs"]]
        return {"ids": self.client.enqueue_many(jobs, idempotency_key=command.get("idempotency_key"))}

    def do_wait(self, command: dict[str, Any]) -> Any:
        job = self.client.wait(command["job"], command["timeout_seconds"])
        return {"state": job.state, "result": job.result, "error": job.errors[-1].message if job.errors else None}

    def do_cancel(self, command: dict[str, Any]) -> Any:
        self.client.cancel(command["job"])
        return {}

    def do_worker_start(self, command: dict[str, Any]) -> Any:
        name = command.get("worker", "main")
        options: dict[str, Any] = {}
        if "grace_seconds" in command:
            options["grace_seconds"] = command["grace_seconds"]
        if "held_limit" in command:
            options["held_limit"] = command["held_limit"]
        worker = self._workers[name] = Worker(
            app_of(command["kinds"], command["queues"][0], command.get("mode", "async")),
            url=self._url,
            key=self._key,
            queues=command["queues"],
            concurrency=command["concurrency"],
            name=name,
            **options,
        )
        if command.get("signals"):
            SIGNALLED.put(worker)
            while worker.stats.worker_id is None:
                time.sleep(0.01)
        else:
            worker.start()
        return {"worker_id": worker.stats.worker_id}

    def do_worker_stats(self, command: dict[str, Any]) -> Any:
        stats = self._workers[command.get("worker", "main")].stats
        return {
            "worker_id": stats.worker_id,
            "running": stats.running,
            "held": stats.held,
            "held_limit": stats.held_limit,
        }

    def do_worker_stop(self, command: dict[str, Any]) -> Any:
        self._workers[command.get("worker", "main")].stop(command.get("grace_seconds"))
        return {}

    def do_worker_wait(self, command: dict[str, Any]) -> Any:
        return {"reason": self._workers[command.get("worker", "main")].join()}


def options_of(options: dict[str, Any] | None) -> Any:
    given = {name: value for name, value in (options or {}).items() if value is not None}
    for name in {"run_at", "expires_at"} & given.keys():
        given[name] = datetime.fromisoformat(given[name].replace("Z", "+00:00"))
    if "then" in given:
        given["then"] = new_job_of(given["then"])
    return given


def new_job_of(fields: dict[str, Any]) -> NewJob:
    fields = dict(fields)
    return NewJob(fields.pop("kind"), fields.pop("payload"), **options_of(fields))


def error_of(error: Exception) -> dict[str, Any]:
    fields: dict[str, Any] = {"message": str(error)}
    if isinstance(error, holdfast.ApiError):
        has_document = not error.type.startswith(("status-", "unknown-answer"))
        fields["type"] = error.type if has_document else "unavailable"
        fields |= {"status": error.status, "title": error.title, "detail": error.detail, "retry_after": error.retry_after}
        fields["errors"] = [{"field": fault.field, "reason": fault.reason} for fault in error.errors]
    elif isinstance(error, holdfast.ConnectionFailed):
        fields["type"] = "unavailable"
    elif isinstance(error, holdfast.WaitTimeout):
        fields["type"] = "wait-timeout"
    elif isinstance(error, Unsupported):
        fields["type"] = "unsupported"
    elif isinstance(error, (ValueError, TypeError)):
        fields["type"] = "invalid"
    else:
        fields["type"] = "internal"
    return fields


#: A worker that handles signals runs in the main thread.
SIGNALLED: queue.SimpleQueue[Worker] = queue.SimpleQueue()


def main() -> None:
    output = Output()
    logger = logging.getLogger("holdfast")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(Events(output))
    adapter = Adapter(output)
    pool = ThreadPoolExecutor(MAX_COMMANDS)

    def read() -> None:
        for line in sys.stdin:
            pool.submit(adapter.run, json.loads(line))
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    SIGNALLED.get().run()
    # Answers that are under way.
    time.sleep(0.1)
    os._exit(0)


if __name__ == "__main__":
    main()
