#!/usr/bin/env python3
"""A minimal client of Holdfast and its adapter, in Python's standard library: an example for those who write a client.

It keeps every rule of docs/writing-a-client.md, and nothing more: a connection for each call, a thread for each handler.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import sys
import threading
import time
import uuid
from typing import Any, Callable
from urllib.parse import quote, urlsplit

ABOUT = {"name": "minimal", "version": "1", "language": "python"}
TRIES, CONNECT_SECONDS, MARGIN_SECONDS = 6, 5.0, 10.0


class Refused(Exception):
    """The server's problem document, or no answer at all."""

    def __init__(self, status: int, problem: Any, retry_after: float | None = None) -> None:
        self.status, self.problem, self.retry_after = status, problem if isinstance(problem, dict) else {}, retry_after
        self.type = str(self.problem.get("type", "unavailable")).rsplit(":", 1)[-1]
        super().__init__(f"{self.type}: {self.problem.get('detail', 'no answer')}")

    def is_transient(self) -> bool:
        return self.status == 0 or self.status == 429 or self.status >= 500


class Client:
    def __init__(self, url: str, key: str | None) -> None:
        self._address, self._key = urlsplit(url), key
        if self._address.username or self._address.password:
            raise ValueError("the URL must not contain credentials: give the key by itself")

    def call(self, method: str, path: str, body: Any = None, wait: float = 0, headers: dict[str, str] | None = None) -> Any:
        """One try. A long poll adds its own `wait` to the timeout."""
        connection = http.client.HTTPConnection(str(self._address.hostname), self._address.port, timeout=CONNECT_SECONDS)
        sent = {"Content-Type": "application/json", **(headers or {}), **({"Authorization": f"Bearer {self._key}"} if self._key else {})}
        try:
            connection.connect()
            connection.sock.settimeout(wait + MARGIN_SECONDS)
            connection.request(method, path, None if body is None else json.dumps(body).encode(), sent)
            reply = connection.getresponse()
            status, after, text = reply.status, reply.headers.get("Retry-After"), reply.read()
        except (OSError, http.client.HTTPException):
            raise Refused(0, None) from None
        finally:
            connection.close()
        try:
            answer = json.loads(text) if text else None
        except ValueError:
            raise Refused(status, None) from None
        if status >= 300:
            raise Refused(status, answer, float(after) if after else None)
        return answer

    def repeat(self, *call: Any, **options: Any) -> Any:
        """Tries again what may be repeated: everything with an Idempotency-Key or without an effect of its own."""
        for tried in range(1, TRIES + 1):
            try:
                return self.call(*call, **options)
            except Refused as refused:
                if not refused.is_transient() or tried == TRIES:
                    raise
                time.sleep(pause(refused, tried))

    def enqueue(self, kind: str, payload: Any, idempotency_key: str | None = None, **options: Any) -> Any:
        key = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        return self.repeat("POST", "/v1/jobs", {"kind": kind, "payload": payload, **options}, headers=key)

    def enqueue_many(self, jobs: list[Any], idempotency_key: str | None = None) -> list[str]:
        key, ids = idempotency_key or uuid.uuid4().hex, []
        for start in range(0, len(jobs), 10_000):
            headers = {"Idempotency-Key": f"{key}-{start}"}
            ids += self.repeat("POST", "/v1/jobs/batch", {"jobs": jobs[start:start + 10_000]}, headers=headers)["ids"]
        return ids

    def wait(self, job: str, seconds: float) -> Any:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            poll = min(left, 20)
            found = self.repeat("GET", f"/v1/jobs/{job}?wait={poll:.3f}", wait=poll)
            if found["state"] in ("completed", "discarded", "cancelled"):
                return found
        raise TimeoutError(f"the job {job} has not ended within {seconds:g} s")


def pause(refused: Refused, tried: int) -> float:
    """What Retry-After says, or a delay that doubles up to 10 s; both with jitter."""
    if refused.retry_after is not None:
        return refused.retry_after * random.uniform(1.0, 1.25)
    return min(10.0, 0.1 * 2.0 ** min(tried, 10)) * random.uniform(0.5, 1.0)


class Stop(Exception):
    """Raised by a handler: another outcome than completed or failed."""

    def __init__(self, outcome: str, error: str | None = None, after: float | None = None) -> None:
        super().__init__(error)
        self.fields = {"outcome": outcome, "error": error, "retry_after_seconds": after}


class Running:
    """A job that this worker has: its handler's context until it is reported, then its outcome."""

    def __init__(self, worker: str, job: Any) -> None:
        self.worker, self.job, self.cancelled = worker, job, threading.Event()
        self.outcome: dict[str, Any] | None = None
        self.progress: Any = None
        self.lines: list[str] = []
        self.is_late = False


class Worker:
    """Everything that is shared is under one lock; a handler's thread only puts its outcome there."""

    def __init__(self, client: Client, handler: Callable[[Running], Any], log: Callable[[str, str], None], name: str, queues: list[str],
                 kinds: list[str], concurrency: int, grace: float = 20, held_limit: int = 1_000) -> None:
        self.client, self.handler, self.log = client, handler, log
        self.about = {"name": name, "queues": queues, "kinds": kinds, "concurrency": concurrency, "client": ABOUT}
        self.concurrency, self.grace, self.held_limit = concurrency, grace, held_limit
        self.lock, self.jobs = threading.RLock(), dict[str, Running]()
        self.changed, self.reason = threading.Condition(self.lock), "stop"
        # Pulls no more; its threads end; the server has forgotten it.
        self.stopping, self.ended, self.left = threading.Event(), threading.Event(), threading.Event()
        self.sending = threading.Event()
        self.id, self.old = "", set[str]()
        self.register(self.client.repeat)

    def start(self) -> None:
        for task in (self.pull, self.finish, self.beat):
            threading.Thread(target=task, daemon=True).start()

    def register(self, call: Callable[..., Any]) -> None:
        answer = call("POST", "/v1/workers", self.about)
        self.id, self.heartbeat = answer["id"], answer["heartbeat_seconds"]

    def stop(self, reason: str, grace: float | None = None) -> None:
        with self.changed:
            if not self.stopping.is_set():
                self.reason, self.grace = reason, self.grace if grace is None else grace
                self.stopping.set()
                threading.Thread(target=self.leave, daemon=True).start()

    def held(self) -> int:
        return sum(1 for running in self.jobs.values() if running.outcome)

    def ask(self, tried: int, *call: Any, **options: Any) -> Any:
        """The answer, or nothing if it was transient: after the pause the caller looks again what is to be sent."""
        try:
            return self.client.call(*call, **options)
        except Refused as refused:
            if not refused.is_transient():
                raise
            self.log("warning", f"{call[1].rsplit('/', 1)[-1]} failed: {refused}")
            self.ended.wait(pause(refused, tried))
            return None

    # --- pull: one at a time, with everything that the worker has ---------------------------------------------------

    def pull(self) -> None:
        tried = 1
        while not self.stopping.is_set():
            with self.changed:
                room = self.concurrency - (len(self.jobs) - self.held())
                if room <= 0 or self.held() >= self.held_limit:
                    self.changed.wait(0.5)
                    continue
                worker, have = self.id, list(self.jobs)
            body = {"max": min(room, 500), "wait_seconds": 20, "have": have}
            try:
                answer = self.ask(tried, "POST", f"/v1/workers/{worker}/pull", body, wait=20)
            except Refused as refused:
                if refused.type == "worker-not-found":
                    self.lost(worker)
                else:
                    self.log("error", f"pull was refused: {refused}")
                    self.ended.wait(5)
                continue
            tried = 1 if answer else tried + 1
            # What comes after the decision to stop is left alone: it goes back when the worker leaves.
            if not answer or self.stopping.is_set():
                continue
            for job in answer["jobs"]:
                self.run(worker, job)
            if answer.get("drain"):
                self.stop("drain")
            elif answer.get("register_again") and worker == self.id:
                self.old.add(worker)
                self.again()

    def again(self) -> None:
        for tried in range(1, 1_000_000):
            try:
                return self.register(self.client.call)
            except Refused as refused:
                self.log("error", f"the registration failed: {refused}")
                if self.ended.wait(pause(refused, tried)):
                    return None

    def lost(self, worker: str) -> None:
        """The server has given the worker's jobs to others: what still runs is void."""
        with self.changed:
            for running in self.jobs.values():
                if running.worker == worker and not running.outcome:
                    running.cancelled.set()
            self.old.discard(worker)
            if worker != self.id:
                return
        self.log("warning", f"worker-not-found: {worker} was lost and registers again")
        self.again()

    # --- handlers ---------------------------------------------------------------------------------------------------

    def run(self, worker: str, job: Any) -> None:
        with self.changed:
            if job["id"] in self.jobs:
                return
            running = self.jobs[job["id"]] = Running(worker, job)
        threading.Thread(target=self.handle, args=(running,), daemon=True).start()
        timer = threading.Timer(job["deadline_seconds"], self.too_late, (running,))
        timer.daemon = True
        timer.start()

    def too_late(self, running: Running) -> None:
        self.conclude(running, {"outcome": "failed", "error": f"timed out after {running.job['deadline_seconds']:g} s"})
        running.cancelled.set()

    def handle(self, running: Running) -> None:
        try:
            outcome = {"outcome": "completed", "result": self.handler(running)}
        except Stop as stop:
            outcome = stop.fields
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is its outcome
            outcome = {"outcome": "failed", "error": f"{type(error).__name__}: {error}"}
        self.conclude(running, outcome)

    def conclude(self, running: Running, outcome: dict[str, Any]) -> None:
        with self.changed:
            if running.outcome is None and self.jobs.get(running.job["id"]) is running:
                running.outcome = {"job": running.job["id"], "fence": running.job["fence"], **outcome}
                self.sending.set()
                self.changed.notify_all()

    # --- finish: what is held is sent until it is answered ----------------------------------------------------------

    def finish(self) -> None:
        tried = 1
        while not self.ended.is_set():
            self.sending.wait(0.5)
            self.sending.clear()
            while batch := self.next_outcomes():
                worker, sent = batch
                try:
                    answer = self.ask(tried, "POST", f"/v1/workers/{worker}/finish", {"outcomes": [one.outcome for one in sent]})
                except Refused as refused:
                    self.log("error", f"outcomes are dropped, the server refuses them for good: {refused}")
                    answer = {"outcomes": [{"job": one.job["id"], "status": "refused"} for one in sent]}
                tried = 1 if answer else tried + 1
                for status in (answer or {"outcomes": []})["outcomes"]:
                    self.answered(status)
                if self.ended.is_set():
                    return
            self.retire()

    def next_outcomes(self) -> tuple[str, list[Running]] | None:
        """Outcomes of one worker id, 1,000 and 4 MiB at most."""
        with self.lock:
            held = [running for running in self.jobs.values() if running.outcome]
        if not held:
            return None
        batch, size = [], 0
        for running in held:
            size += len(json.dumps(running.outcome))
            if running.worker == held[0].worker and len(batch) < 1_000 and (not batch or size < 4 << 20):
                batch.append(running)
        return held[0].worker, batch

    def answered(self, status: dict[str, Any]) -> None:
        if status["status"] != "stored":
            self.log("warning", f"{status['status']}: the outcome of {status['job']} is dropped")
        if status.get("refused"):
            self.log("warning", f"the result of {status['job']} was refused: {status['refused']}")
        with self.changed:
            self.jobs.pop(status["job"], None)
            self.changed.notify_all()

    def retire(self) -> None:
        """Deletes ids that were replaced and have no job any more."""
        with self.lock:
            done = [old for old in self.old if all(running.worker != old for running in self.jobs.values())]
        for old in done:
            if self.ask(1, "DELETE", f"/v1/workers/{old}") is None:
                self.old.discard(old)

    # --- heartbeat: apart from handlers and pulls -------------------------------------------------------------------

    def beat(self) -> None:
        while not self.ended.wait(self.heartbeat):
            for worker in [self.id, *self.old]:
                try:
                    answer = self.ask(1, "POST", f"/v1/workers/{worker}/heartbeat", self.news(worker))
                except Refused as refused:
                    if refused.type == "worker-not-found":
                        self.lost(worker)
                    continue
                with self.lock:
                    for job in [*(answer or {}).get("cancel", []), *(answer or {}).get("lost", [])]:
                        if job in self.jobs:
                            self.jobs[job].cancelled.set()
                if (answer or {}).get("drain"):
                    self.stop("drain")

    def news(self, worker: str) -> dict[str, Any]:
        with self.lock:
            mine = {job: running for job, running in self.jobs.items() if running.worker == worker}
            lines = [{"job": job, "line": line} for job, running in mine.items() for line in running.lines][:1_000]
            progress = {job: running.progress for job, running in mine.items() if running.progress is not None}
            for running in mine.values():
                running.lines = []
        return {"running": list(mine), "progress": progress, "log": lines}

    # --- the end ----------------------------------------------------------------------------------------------------

    def leave(self) -> None:
        until = time.monotonic() + self.grace
        with self.changed:
            while self.jobs and time.monotonic() < until:
                self.changed.wait(0.1)
            self.jobs = {job: running for job, running in self.jobs.items() if running.outcome}
        self.ended.set()
        for worker in [self.id, *self.old]:
            try:
                self.client.repeat("DELETE", f"/v1/workers/{worker}")
            except Refused as refused:
                self.log("warning", f"the worker could not leave: {refused}")
        self.left.set()


# --- the adapter ----------------------------------------------------------------------------------------------------


class Handler:
    """The handler of README.md."""

    def __init__(self) -> None:
        self.snoozes: dict[str, int] = {}

    def __call__(self, running: Running) -> Any:
        payload, job = running.job["payload"], running.job

        def record(what: str) -> None:
            if path := payload.get("record"):
                with open(path, "ab", buffering=0) as file:
                    file.write(f"{job['id']} {job['attempt']} {what}\n".encode())

        def stopped() -> Stop:
            record("cancelled")
            return Stop("cancelled")

        record("start")
        while payload.get("hold") and not os.path.exists(payload["hold"]):
            if running.cancelled.wait(0.05):
                raise stopped()
        result = self.does(payload, running, stopped)
        record("end")
        return result

    def does(self, payload: Any, running: Running, stopped: Callable[[], Stop]) -> Any:
        job, do = running.job, payload.get("do")
        if do == "echo":
            return payload.get("value")
        if do == "fail":
            if job["attempt"] <= payload["times"]:
                raise ValueError(payload["message"])
            return "recovered"
        if do == "discard":
            raise Stop("discard", payload["message"])
        if do == "snooze":
            times = self.snoozes[job["id"]] = self.snoozes.get(job["id"], 0) + 1
            if times <= payload["times"]:
                raise Stop("snooze", after=payload["seconds"])
            return "awake"
        if do == "retry_after":
            if job["attempt"] == 1:
                raise Stop("failed", "later", payload["seconds"])
            return "retried"
        if do == "sleep":
            time.sleep(payload["seconds"])
            return "slept"
        if do == "block" and payload.get("idle"):
            time.sleep(payload["seconds"])
            return "blocked"
        if do == "block":
            until = time.monotonic() + payload["seconds"]
            while time.monotonic() < until:
                pass
            return "blocked"
        if do == "wait_cancel":
            if running.cancelled.wait(payload["seconds"]):
                raise stopped()
            return "not cancelled"
        if do == "progress":
            for value in payload["values"]:
                running.progress = value
                time.sleep(payload.get("every_seconds") or 0)
            return payload["values"][-1]
        if do == "log":
            running.lines += payload["lines"]
            # Lines travel with the next heartbeat.
            time.sleep(2.5)
            return len(payload["lines"])
        if do == "context":
            names = ("kind", "queue", "attempt", "max_attempts", "deadline_seconds", "previous_result", "batch")
            trace = job.get("headers", {}).get("traceparent")
            return {"job": job["id"], "traceparent": trace, **{name: job.get(name) for name in names}}
        if do == "big":
            return "x" * payload["bytes"]
        if do == "exit":
            os._exit(7)
        raise Stop("discard", f"the payload's do is unknown: {do!r}")


class Adapter:
    def __init__(self) -> None:
        self.client: Client | None = None
        self.workers: dict[str, Worker] = {}
        self.output = threading.Lock()

    def write(self, line: dict[str, Any]) -> None:
        with self.output:
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()

    def log(self, level: str, message: str) -> None:
        self.write({"event": "log", "level": level, "message": message})

    def carry_out(self, command: dict[str, Any]) -> None:
        try:
            do = getattr(self, command["do"].replace(".", "_"), None)
            self.write({"id": command["id"], "ok": do(command)} if do else {"id": command["id"], "error": {"type": "unsupported"}})
        except Refused as refused:
            self.write({"id": command["id"], "error": {
                **refused.problem, "type": refused.type, "message": str(refused), "status": refused.status}})
        except (TimeoutError, ValueError) as error:
            kind = "wait-timeout" if isinstance(error, TimeoutError) else "invalid"
            self.write({"id": command["id"], "error": {"type": kind, "message": str(error)}})
        except Exception as error:  # noqa: BLE001 - the runner is to know
            self.write({"id": command["id"], "error": {"type": "internal", "message": repr(error)}})

    def api(self) -> Client:
        assert self.client, "open comes first"
        return self.client

    def hello(self, _: Any) -> Any:
        return {"client": ABOUT["name"], "version": ABOUT["version"], "language": ABOUT["language"]}

    def open(self, command: Any) -> Any:
        self.client = Client(command["url"], command.get("key"))
        return {}

    def describe(self, _: Any) -> Any:
        return {"text": repr([self.client, *self.workers.values()])}

    def declare(self, command: Any) -> Any:
        for kind in command["kinds"]:
            name = kind.pop("name")
            self.api().repeat("PUT", f"/v1/kinds/{quote(name)}", {field: value for field, value in kind.items() if value is not None})
        return {}

    def enqueue(self, command: Any) -> Any:
        job = self.api().enqueue(command["kind"], command["payload"], **(command.get("options") or {}))
        return {"id": job["id"], "duplicate": job.get("duplicate", False)}

    def enqueue_many(self, command: Any) -> Any:
        jobs = [{"kind": job["kind"], "payload": job["payload"], **(job.get("options") or {})} for job in command["jobs"]]
        return {"ids": self.api().enqueue_many(jobs, command.get("idempotency_key"))}

    def wait(self, command: Any) -> Any:
        found = self.api().wait(command["job"], command["timeout_seconds"])
        error = found["errors"][-1]["message"] if found["errors"] else None
        return {"state": found["state"], "result": found["result"], "error": error}

    def cancel(self, command: Any) -> Any:
        self.api().repeat("POST", f"/v1/jobs/{command['job']}/cancel")
        return {}

    def worker_start(self, command: Any) -> Any:
        name = command.get("worker") or "main"
        more = {"grace": command.get("grace_seconds"), "held_limit": command.get("held_limit")}
        worker = Worker(self.api(), Handler(), self.log, name, command["queues"], command["kinds"], command["concurrency"],
                        **{field: value for field, value in more.items() if value is not None})
        self.workers[name] = worker
        worker.start()
        if command.get("signals"):
            threading.Thread(target=self.end_with, args=(worker,), daemon=True).start()
        return {"worker_id": worker.id}

    def end_with(self, worker: Worker) -> None:
        worker.left.wait()
        os._exit(0)

    def signalled(self, *_: Any) -> None:
        if any(worker.stopping.is_set() for worker in self.workers.values()):
            os._exit(1)
        for worker in self.workers.values():
            threading.Thread(target=worker.stop, args=("signal",), daemon=True).start()

    def named(self, command: Any) -> Worker:
        return self.workers[command.get("worker") or "main"]

    def worker_stats(self, command: Any) -> Any:
        worker = self.named(command)
        with worker.lock:
            held = worker.held()
            return {"worker_id": worker.id, "running": len(worker.jobs) - held, "held": held, "held_limit": worker.held_limit}

    def worker_stop(self, command: Any) -> Any:
        worker = self.named(command)
        worker.stop("stop", command.get("grace_seconds"))
        return self.worker_wait(command) and {}

    def worker_wait(self, command: Any) -> Any:
        worker = self.named(command)
        worker.left.wait()
        return {"reason": worker.reason}


def main() -> None:
    adapter = Adapter()
    signal.signal(signal.SIGTERM, adapter.signalled)
    commands = threading.Thread(target=read, args=(adapter,), daemon=True)
    commands.start()
    # Signals are handled here, between two joins.
    while commands.is_alive():
        commands.join(0.05)
    os._exit(0)


def read(adapter: Adapter) -> None:
    for line in sys.stdin:
        threading.Thread(target=adapter.carry_out, args=(json.loads(line),), daemon=True).start()


if __name__ == "__main__":
    main()
