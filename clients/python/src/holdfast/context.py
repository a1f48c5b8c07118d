"""What a handler knows of the job that it runs, and what it can say while it does."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from . import _json
from .errors import Cancelled

#: Longest progress, in bytes of JSON.
MAX_PROGRESS_BYTES = 65_536

#: Longest line of a log that a server keeps, in bytes.
MAX_LINE_BYTES = 4_096

CancelReason = Literal["requested", "timeout", "lost", "shutdown"]


@dataclass(frozen=True)
class JobInfo:
    """The job, as it was pulled."""

    id: str
    kind: str
    queue: str
    #: From 1.
    attempt: int
    max_attempts: int
    #: Longest duration of this attempt, in seconds.
    deadline_seconds: float
    #: W3C trace context of its producer.
    traceparent: str | None = None
    #: What the job before this one in its chain returned.
    previous_result: Any = None
    #: The batch that it is part of.
    batch: str | None = None
    #: If it is the callback of a batch: that batch's id, total, completed, discarded and cancelled.
    ended_batch: Mapping[str, Any] | None = None


class Context:
    """Given to a handler whose first parameter has this type. Safe to use from any thread."""

    __slots__ = ("_log", "_progress", "_started_at", "cancel_reason", "job")

    def __init__(self, job: JobInfo, progress: Callable[[str], None], log: Callable[[str], None]) -> None:
        self.job = job
        #: Why the handler should stop: the job was cancelled (``requested``), the deadline has passed (``timeout``), the lease
        #: was lost (``lost``), or the worker ends (``shutdown``). None: it should not.
        self.cancel_reason: CancelReason | None = None
        self._progress = progress
        self._log = log
        self._started_at = time.monotonic()

    def __repr__(self) -> str:
        return f"Context({self.job.id}, {self.job.kind}, attempt {self.job.attempt})"

    @property
    def job_id(self) -> str:
        return self.job.id

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1."""
        return self.job.attempt

    @property
    def is_last_attempt(self) -> bool:
        return self.job.attempt >= self.job.max_attempts

    @property
    def cancelled(self) -> bool:
        """Whether the handler should stop; ``cancel_reason`` says why."""
        return self.cancel_reason is not None

    @property
    def seconds_left(self) -> float:
        """Until the deadline of this attempt; 0 when it has passed."""
        return max(0.0, self._started_at + self.job.deadline_seconds - time.monotonic())

    def raise_if_cancelled(self) -> None:
        """Raises Cancelled if the handler should stop."""
        if self.cancel_reason is not None:
            raise Cancelled(f"the handler stopped: {self.cancel_reason}")

    def progress(self, value: Any) -> None:
        """Shows how far the job is, as JSON of up to 64 KiB, in ``GET /v1/jobs/{id}``. The newest counts; about one a second is sent."""
        text = _json.encode(value)
        if len(text) > MAX_PROGRESS_BYTES:
            raise ValueError(f"a progress has at most {MAX_PROGRESS_BYTES} bytes, and this one has {len(text)}")
        self._progress(text)

    def log(self, line: str) -> None:
        """Writes a line, of up to 4 KiB, to the log of the job. It is not for secrets."""
        self._log(str(line).encode("utf-8", "replace")[:MAX_LINE_BYTES].decode("utf-8", "ignore"))
