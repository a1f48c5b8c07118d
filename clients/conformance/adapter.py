"""The runner's side of the adapter protocol (README.md): one process, commands out, answers and events in."""

from __future__ import annotations

import json
import queue
import shlex
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from harness import DEADLINE_SECONDS, Failure, child_env, eventually


class AdapterError(Exception):
    """The client's error, as the adapter reported it."""

    def __init__(self, command: str, error: dict[str, Any]) -> None:
        super().__init__(f"{command}: {json.dumps(error)[:800]}")
        self.error = error
        self.type = str(error.get("type"))

    @property
    def fields(self) -> list[str]:
        return [fault.get("field", "") for fault in self.error.get("errors") or []]


class Unsupported(Exception):
    """The adapter cannot do what the scenario needs."""


class Adapter:
    """A process of the client under test."""

    def __init__(self, command: str, directory: Path, name: str, env: dict[str, str] | None = None) -> None:
        self.directory = directory / name
        self.directory.mkdir(parents=True)
        self._errors_path = self.directory / "stderr.log"
        with self._errors_path.open("wb") as errors:
            self.process = subprocess.Popen(
                shlex.split(command), cwd=self.directory, env=child_env(**(env or {})),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            )
        self.lines: list[str] = []
        self.events: list[dict[str, Any]] = []
        self._answers: dict[int, queue.Queue[dict[str, Any]]] = {}
        self._lock, self._last_id, self._broken = threading.Lock(), 0, ""
        threading.Thread(target=self._read, daemon=True).start()

    # --- commands ---------------------------------------------------------------------------------------------------

    def send(self, do: str, **fields: Any) -> Pending:
        """Sends a command without waiting for its answer."""
        with self._lock:
            self._last_id += 1
            number, answers = self._last_id, queue.Queue[dict[str, Any]]()
            self._answers[number] = answers
            line = json.dumps({"id": number, "do": do, **fields}) + "\n"
            assert self.process.stdin
            try:
                self.process.stdin.write(line.encode())
                self.process.stdin.flush()
            except OSError as error:
                raise Failure(f"the adapter takes no commands any more: {error}\n{self.stderr()}") from error
        return Pending(self, do, answers)

    def ask(self, do: str, timeout: float = DEADLINE_SECONDS, **fields: Any) -> Any:
        """Sends a command; its answer, or the error as an exception."""
        return self.send(do, **fields).answer(timeout)

    def error_of(self, do: str, timeout: float = DEADLINE_SECONDS, **fields: Any) -> AdapterError:
        """Sends a command that must fail."""
        try:
            answer = self.ask(do, timeout, **fields)
        except AdapterError as error:
            return error
        raise Failure(f"{do} was answered {json.dumps(answer)[:300]} and should have failed")

    # --- events -----------------------------------------------------------------------------------------------------

    def logged(self, text: str, level: str | None = None) -> bool:
        """Whether the client has logged a message that contains `text`."""
        return any(
            event.get("event") == "log" and text in str(event.get("message")) and level in (None, event.get("level"))
            for event in list(self.events)
        )

    def everything_said(self) -> str:
        """All that the process has written so far."""
        return "\n".join(self.lines) + self.stderr()

    def stderr(self) -> str:
        return self._errors_path.read_text(errors="replace")

    # --- the process ------------------------------------------------------------------------------------------------

    def is_running(self) -> bool:
        return self.process.poll() is None

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL to this process alone; what it started must notice by itself."""
        if self.is_running():
            self.process.kill()
        self.process.wait()

    def exit_code(self, seconds: float = DEADLINE_SECONDS) -> int:
        """Waits for the process' end."""
        return int(eventually(lambda: (code,) if (code := self.process.poll()) is not None else None, "the adapter ends", seconds)[0])

    def close(self) -> None:
        """Ends it by the end of its input."""
        if self.is_running():
            try:
                assert self.process.stdin
                self.process.stdin.close()
            except OSError:
                pass
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.send_signal(signal.SIGCONT)
                self.kill()

    def _read(self) -> None:
        assert self.process.stdout
        for raw in self.process.stdout:
            text = raw.decode(errors="replace").rstrip("\n")
            self.lines.append(text)
            try:
                line = json.loads(text)
            except ValueError:
                self._broken = f"a line of the adapter is not JSON: {text[:200]!r}"
                continue
            if "event" in line:
                self.events.append({**line, "at": time.monotonic()})
            elif answers := self._answers.get(line.get("id")):
                answers.put(line)
            else:
                self._broken = f"the adapter answers what was not asked: {text[:200]!r}"
        for answers in self._answers.values():
            answers.put({})


class Pending:
    """A command under way."""

    def __init__(self, adapter: Adapter, do: str, answers: queue.Queue[dict[str, Any]]) -> None:
        self._adapter, self._do, self._answers = adapter, do, answers

    def is_answered(self) -> bool:
        return not self._answers.empty()

    def answer(self, timeout: float = DEADLINE_SECONDS) -> Any:
        adapter = self._adapter
        try:
            line = self._answers.get(timeout=timeout)
        except queue.Empty:
            raise Failure(f"{self._do} was not answered within {timeout:g} s\n{adapter.stderr()[-2000:]}") from None
        if adapter._broken:
            raise Failure(adapter._broken)
        if not line:
            raise Failure(f"the adapter ended before it answered {self._do}\n{adapter.stderr()[-2000:]}")
        if error := line.get("error"):
            if error.get("type") == "unsupported":
                raise Unsupported(f"{self._do}: {error.get('message')}")
            raise AdapterError(self._do, error)
        return line["ok"]
