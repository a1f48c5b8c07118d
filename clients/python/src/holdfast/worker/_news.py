"""What handlers tell while they run: progress and lines, until a heartbeat brings them. Written by any thread."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._runs import Run

log = logging.getLogger("holdfast.worker")

#: Lines that wait at most; older ones are dropped, and their number is logged.
MAX_WAITING_LINES = 10_000

#: Lines, and jobs with a progress, in one heartbeat at most.
MAX_NEWS = 1_000

#: Bytes of progress in one heartbeat, about.
MAX_PROGRESS_BYTES = 4 * 1024 * 1024


class News:
    """Progress and lines that are to be sent. The operations of dict and deque that are used here are atomic."""

    def __init__(self) -> None:
        self._progress: dict[Run, str] = {}
        self._lines: deque[tuple[Run, str]] = deque()
        self._dropped = 0

    def __bool__(self) -> bool:
        return bool(self._progress or self._lines)

    def progress(self, run: Run, value: str) -> None:
        """The newest counts."""
        self._progress[run] = value

    def line(self, run: Run, line: str) -> None:
        if len(self._lines) >= MAX_WAITING_LINES:
            self._lines.popleft()
            self._dropped += 1
        self._lines.append((run, line))

    def take(self) -> tuple[list[tuple[Run, str]], list[tuple[Run, str]]]:
        """As much as one heartbeat takes: progress and lines."""
        if self._dropped:
            log.warning("%d lines of handlers were dropped: they came faster than they could be sent", self._dropped)
            self._dropped = 0
        progress: list[tuple[Run, str]] = []
        size = 0
        while self._progress and len(progress) < MAX_NEWS and size < MAX_PROGRESS_BYTES:
            item = self._progress.popitem()
            size += len(item[1])
            progress.append(item)
        lines: list[tuple[Run, str]] = []
        while self._lines and len(lines) < MAX_NEWS:
            lines.append(self._lines.popleft())
        return progress, lines

    def give_back(self, progress: list[tuple[Run, str]], lines: list[tuple[Run, str]]) -> None:
        """What could not be sent. A newer progress is kept."""
        for run, value in progress:
            self._progress.setdefault(run, value)
        self._lines.extendleft(reversed(lines))
