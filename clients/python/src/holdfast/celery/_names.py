"""Names: what a Celery queue is called on the server, and where the transport keeps what is no job."""

from __future__ import annotations

import hashlib
import re

_VALID = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_OTHERS = re.compile(r"[^a-z0-9_-]+")

#: Characters of the readable part of a name that had to be changed.
READABLE = 50


def queue_name(name: str) -> str:
    """The server's queue for a Celery queue.

    It is the name itself if the server allows it: a lower-case letter, then up to 62 of a-z, 0-9, ``_`` and ``-``. Otherwise it is what is
    left of the name in these characters, and eight hexadecimal digits of its SHA-256, so that two names never share a queue.
    """
    if _VALID.fullmatch(name):
        return name
    readable = _OTHERS.sub("-", name.lower()).strip("-")
    if not readable[:1].isalpha():
        readable = f"q-{readable}"
    return f"{readable[:READABLE].strip('-')}-{hashlib.sha256(name.encode('utf-8')).hexdigest()[:8]}"


def exchange_channel(exchange: str) -> str:
    """The channel of a fanout exchange."""
    return f"kombu.x.{exchange}"


def queue_channel(queue: str) -> str:
    """The channel of a queue that holds no jobs, such as one for replies."""
    return f"kombu.q.{queue}"


def bindings(exchange: str) -> str:
    """The set of what is bound to an exchange."""
    return f"kombu.bindings.{exchange}"


def listeners(queue: str) -> str:
    """The set that is not empty while a queue exists that holds no jobs."""
    return f"kombu.listening.{queue}"
