"""How the transport and the backend send calls: through one :class:`~holdfast._wire.Wire` for each server in a process."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Sequence
from typing import Any, TypeVar

from .. import _documents, _json
from .._calls import Call, put_queue
from .._flow import repeated, run
from .._http import Endpoint
from .._wire import Wire
from ..errors import Conflict, Forbidden, InvalidRequest, NotFound
from ._message import KIND, KIND_DEFINITION, ONCE, Message, enqueue
from ._names import bindings, listeners, queue_name

T = TypeVar("T")

log = logging.getLogger("holdfast.celery")

#: How long a publish in a running task is repeated while the server is unavailable, in seconds. Elsewhere it is not repeated here.
TASK_PATIENCE_SECONDS = 300.0

#: How often a publish to a queue that was just declared is repeated, and after how many seconds each time.
DECLARE_TRIES = 10
DECLARE_PAUSE_SECONDS = 0.2

#: How long bindings of queues with jobs are remembered by the server, and how often they are told again, in seconds.
BINDING_TTL_SECONDS = 31_536_000
BINDING_AGAIN_SECONDS = 3_600.0

#: How long a queue that holds no jobs is known without a sign of life, in seconds.
LISTENING_TTL_SECONDS = 3_600

#: How long a message waits on a channel for its readers, in seconds.
CHANNEL_TTL_SECONDS = 300


class Calls:
    """The calls of one process to one server. Safe for threads, greenlets and forks."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._wire = Wire(endpoint)
        #: Queues that hold jobs, as far as is known here, and when each binding was told last.
        self._job_queues: set[str] = set()
        self._told: dict[tuple[str, str], float] = {}
        #: Servers of an older version refuse the field.
        self._knows_expiry = True

    def run(self, call: Call[T], patience: float = 0.0) -> T:
        """The call's result. It is repeated for ``patience`` seconds. Raises ApiError or ConnectionFailed."""
        return run(repeated(call, patience), self._wire.send)

    def check(self) -> None:
        """Raises what a wrong URL, a wrong key or a server without these routes answers."""
        self.run(_documents.read(["kombu.check"]))

    # Jobs

    def publish(self, queue: str, message: Message) -> None:
        """Returns once the job is committed."""
        patience = TASK_PATIENCE_SECONDS if in_task() else 0.0
        for tried in range(DECLARE_TRIES + 1):
            try:
                self.run(enqueue(queue, message, expires=self._knows_expiry), patience)
                break
            except InvalidRequest as error:
                if error.type == "idempotency-key-reused" and ONCE in message["properties"]:
                    # The job exists: its message was written by another worker, and differs in what does not matter.
                    break
                if tried == DECLARE_TRIES or not self._mend(queue, error, tried):
                    raise
        self._job_queues.add(queue)

    def _mend(self, queue: str, error: InvalidRequest, tried: int) -> bool:
        """Whether the same publish may be accepted now."""
        if error.type in ("unknown-kind", "unknown-queue"):
            if tried == 0:
                self.declare_queue(queue)
            else:
                # Another process of the server answers, and learns of the queue within a second.
                time.sleep(DECLARE_PAUSE_SECONDS)
            return True
        if error.field == "expires_at" and self._knows_expiry:
            self._knows_expiry = False
            return True
        return False

    def declare_queue(self, queue: str) -> None:
        """Makes the queue, and the kind of Celery's jobs."""
        self._declare(Call("PUT", f"/v1/kinds/{KIND}", dict, _json.encode(KIND_DEFINITION)))
        if queue_name(queue) != KIND:
            self._declare(put_queue(queue_name(queue)))
        self._job_queues.add(queue)

    def declare_if_allowed(self, queue: str) -> None:
        """For consumers: a key that may not declare queues is enough where they exist."""
        try:
            self.declare_queue(queue)
        except Forbidden as error:
            log.info("%s", error)

    def _declare(self, call: Call[Any]) -> None:
        try:
            self.run(call)
        except Conflict as error:
            # It is in the server's configuration.
            if error.type != "queue-configured":
                raise
        except Forbidden as error:
            raise Forbidden(
                error.status,
                error.type,
                error.title,
                "the key may not declare queues: it needs the scopes produce and work, unbound; or declare them with another key "
                "(`holdfast queues declare NAME`, `holdfast kinds declare celery --queue celery`)",
            ) from error

    def is_job_queue(self, queue: str) -> bool:
        """Whether the queue holds jobs. One that is not known here may have been made by a client that waits for replies."""
        if queue in self._job_queues:
            return True
        if self.parts(listeners(queue)):
            return False
        self._job_queues.add(queue)
        return True

    def know_job_queue(self, queue: str) -> bool:
        """False: it was known."""
        if queue in self._job_queues:
            return False
        self._job_queues.add(queue)
        return True

    def size(self, queue: str) -> int:
        """Jobs that wait. 0 if the key may not read."""
        try:
            listed = self.run(Call("GET", "/v1/queues", lambda body: list(body["queues"])))
        except Forbidden:
            return 0
        name = queue_name(queue)
        depths = [one["depth"] for one in listed if one["name"] == name]
        return sum(int(depth["available"]) + int(depth["retryable"]) for depth in depths)

    def purge(self, queue: str) -> int:
        """Cancels what waits. Returns how many. The key needs the scope ``admin``."""
        name = queue_name(queue)
        key = {"Idempotency-Key": uuid.uuid4().hex}
        call = Call("POST", f"/v1/queues/{name}/purge", dict, _json.encode({"confirm": name}), key, timeout=60.0)
        while True:
            try:
                answer: dict[str, Any] = self.run(call)
            except NotFound:
                return 0
            if answer.get("finished", True):
                return int(answer["cancelled"])

    # Bindings

    def bind(self, exchange: str, binding: str, *, listens: bool) -> None:
        """Remembers what is bound to an exchange."""
        now = time.monotonic()
        if not listens and now - self._told.get((exchange, binding), -BINDING_AGAIN_SECONDS) < BINDING_AGAIN_SECONDS:
            return
        self.run(_documents.add_parts(bindings(exchange), [binding], LISTENING_TTL_SECONDS if listens else BINDING_TTL_SECONDS))
        self._told[(exchange, binding)] = now

    def unbind(self, exchange: str, binding: str) -> None:
        self._told.pop((exchange, binding), None)
        self.run(_documents.delete_parts(bindings(exchange), [binding]))

    def bound(self, exchange: str) -> list[str]:
        return self.parts(bindings(exchange))

    # Documents and sets

    def read(self, ids: Sequence[str], patience: float = 0.0) -> dict[str, str]:
        """The bodies of the documents that exist."""
        bodies: dict[str, str] = {}
        left = list(ids)
        while left:
            found, left_out = self.run(_documents.read(left[: _documents.MAX_ITEMS]), patience)
            bodies.update((one.id, one.body) for one in found)
            left = left_out + left[_documents.MAX_ITEMS :]
        return bodies

    def parts(self, id: str, patience: float = 0.0) -> list[str]:
        """The whole set, sorted."""
        found, after = self.run(_documents.parts(id), patience)
        while after is not None:
            page, after = self.run(_documents.parts(id, after), patience)
            found += page
        return found

    # Channels

    def say(self, channel: str, messages: list[str], patience: float = 0.0) -> None:
        self.run(_documents.say(channel, messages, CHANNEL_TTL_SECONDS), patience)


def in_task() -> bool:
    """Whether this thread runs a task in a worker: then what it publishes is worth waiting for."""
    from celery._state import get_current_worker_task

    return get_current_worker_task() is not None


_ALL: dict[Endpoint, Calls] = {}
_LOCK = threading.Lock()


def calls_to(endpoint: Endpoint) -> Calls:
    """The one of this process for a server and a key."""
    found = _ALL.get(endpoint)
    if found is None:
        with _LOCK:
            found = _ALL.setdefault(endpoint, Calls(endpoint))
    return found
