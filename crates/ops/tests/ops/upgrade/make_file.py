"""Writes an installation of the release before as SQL: `scripts/previous-release file` runs this with its `holdfast`.

The installation is used over HTTP, and killed while one job runs. Its jobs ask RECEIVER when they run; a test puts its own there.
"""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

RECEIVER = "http://127.0.0.1:48999"


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


class Api:
    def __init__(self, port: int) -> None:
        self.base = f"http://127.0.0.1:{port}"

    def call(self, path: str, body: object = None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.loads(answer.read() or "null")
        except urllib.error.HTTPError as refusal:
            raise SystemExit(f"{path}: {refusal.code} {refusal.read().decode()}") from None

    def until_ready(self) -> None:
        for _ in range(300):
            try:
                self.call("/health")
                return
            except OSError:
                time.sleep(0.1)
        raise SystemExit("the release before does not start")

    def ended(self, job: dict, state: str) -> None:
        found = self.call(f"/v1/jobs/{job['id']}?wait=20")
        if found["state"] != state:
            raise SystemExit(f"{found} is not {state}")


def hit(name: str, **more: object) -> dict:
    return {"kind": "http.request", "payload": {"url": f"{RECEIVER}/hit/{name}"}, "queue": "ml", **more}


def fill(api: Api) -> None:
    api.call("/v1/queues/ml/pause", {})
    done = api.call("/v1/jobs", {"kind": "debug.echo", "payload": "done", "unique_key": "done"})
    failed = api.call("/v1/jobs", {"kind": "debug.fail", "payload": {"mode": "permanent"}})
    cancelled = api.call("/v1/jobs", {"kind": "debug.echo", "payload": 1, "delay_seconds": 3600})
    api.call(f"/v1/jobs/{cancelled['id']}/cancel", {})
    for job, state in [(done, "completed"), (failed, "discarded"), (cancelled, "cancelled")]:
        api.ended(job, state)
    api.call("/v1/jobs", hit("single", unique_key="single"))
    api.call("/v1/jobs", hit("chained", then=hit("next")))
    api.call("/v1/jobs", hit("limited", limit_key="customer-1"))
    api.call("/v1/jobs", hit("due", delay_seconds=1))
    api.call("/v1/jobs", hit("later", delay_seconds=150_000_000))
    api.call("/v1/batches", {"jobs": [hit("batch-1"), hit("batch-2")], "callback": hit("callback")})
    api.call(
        "/v1/schedules",
        {"name": "yearly", "cron": "0 3 1 1 *", "time_zone": "Europe/Vienna", "kind": "debug.echo", "payload": {"b": 1, "a": 2}},
    )
    api.call("/v1/webhooks", {"url": f"{RECEIVER}/status/200", "events": ["order.*"]})
    track = api.call("/v1/tracks", {"name": "regatta"})
    api.call("/v1/points", {"points": [{"track_id": track["id"], "recorded_at": "2026-06-01T10:00:00.123456Z", "lat": 0.1, "lon": -11.4}]})
    api.call("/v1/events", [{"uid": "jazz", "title": "Jazz 🎷", "starts_at": "2090-06-01T18:00:00Z", "lat": 47.27, "lon": 11.4}])


def main(program: str, target: str) -> None:
    with tempfile.TemporaryDirectory() as place, socket.socket() as silent:
        # Accepts and answers nothing: the job that runs at the end stays where it is.
        silent.bind(("127.0.0.1", 48999))
        silent.listen()
        port = free_port()
        environment = {"PATH": os.environ["PATH"], "PORT": str(port)}
        installation = subprocess.Popen([program], cwd=place, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            api = Api(port)
            api.until_ready()
            fill(api)
            running = api.call("/v1/jobs", hit("lost") | {"queue": "default"})
            while api.call(f"/v1/jobs/{running['id']}")["state"] != "running":
                time.sleep(0.05)
            time.sleep(3)
        finally:
            installation.send_signal(signal.SIGKILL)
            installation.wait()
        with sqlite3.connect(f"{place}/.holdfast/holdfast.db") as database:
            lines = list(database.iterdump())
    with open(target, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


main(*sys.argv[1:])
