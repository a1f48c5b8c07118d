"""The result backend: ``result_backend = "holdfast://KEY@host:8080"``.

Results
    A result is a document with a time to live (``result_expires``), written in one call. SUCCESS is written as finished, and everything
    as "unless finished": what a lost or late copy of a task writes never replaces the result of the one that succeeded. A waiting producer
    reads with a long poll, and is answered when the document changes.

Chords
    Each part writes what it returned (a document), and adds its task to the set of the chord's parts. The set counts a task once, however
    often it runs. The parts that find the set full join it and publish the callback, under one Idempotency-Key made of the run of the
    chord and the callback's task: if the last part is run again, or two workers both see the set full, one callback exists. A mark says
    that a chord is done, so that a copy that comes days later starts nothing.

When things fail
    - *The server is unavailable*: calls are repeated, in a worker's tasks and its own process for WORKER_PATIENCE_SECONDS (the lease of the
      task is renewed meanwhile), elsewhere for PATIENCE_SECONDS (``result_backend_transport_options = {"patience": seconds}`` sets both).
      Then the error is raised, and ``result_backend_always_retry`` repeats it as with every backend.
    - *A part is late*: its worker is cut off after it has counted. The part is run again, is counted already, finds the set full
      again if it was the last one, and the publish is a repeat.
"""

from __future__ import annotations

import base64
import json
import time
import zlib
from functools import cached_property
from typing import Any

from celery import states
from celery.backends.asynchronous import AsyncBackendMixin, BaseResultConsumer
from celery.backends.base import BaseKeyValueStoreBackend
from celery.canvas import maybe_signature
from celery.exceptions import BackendStoreError, ChordError
from celery.result import GroupResult, allow_join_result
from celery.utils.log import get_logger
from kombu.utils.encoding import bytes_to_str
from kombu.utils.uuid import uuid

from .. import _documents
from .._calls import Call
from ..errors import ConnectionFailed, InvalidRequest, ServerError, Unavailable
from ._calls import Calls, calls_to, in_task
from ._endpoint import ca_file_of, endpoint, split
from ._message import ONCE

logger = get_logger(__name__)

#: How long a call is repeated while the server is unavailable, in seconds: in a worker, and elsewhere.
WORKER_PATIENCE_SECONDS = 300.0
PATIENCE_SECONDS = 15.0

#: How long a done chord is remembered after its callback was published, in seconds: longer than a server remembers idempotency keys.
DONE_SECONDS = 7 * 86_400


#: How long one call waits where not all awaited results fit into it, in seconds.
TURN_SECONDS = 0.2


class ResultConsumer(BaseResultConsumer):
    """Waits for results with long polls. Every thread that waits makes its own."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        #: The tasks whose results are awaited, and the version of each that is known.
        self._awaited: dict[str, int] = {}
        self._turn = 0

    def start(self, initial_task_id: str, **_: Any) -> None:
        self.consume_from(initial_task_id)

    def consume_from(self, task_id: str) -> None:
        self._awaited.setdefault(str(task_id), 0)

    def cancel_for(self, task_id: str) -> None:
        self._awaited.pop(str(task_id), None)

    def on_after_fork(self) -> None:
        self._awaited = {}

    def _some(self) -> dict[str, int]:
        """As many of the awaited tasks as one call takes; all have their turn."""
        tasks = list(self._awaited.items())
        if len(tasks) <= _documents.MAX_ITEMS:
            return dict(tasks)
        self._turn = (self._turn + _documents.MAX_ITEMS) % len(tasks)
        return dict((tasks + tasks)[self._turn : self._turn + _documents.MAX_ITEMS])

    def drain_events(self, timeout: float | None = None) -> None:
        """Waits for news of any awaited result. Raises TimeoutError if there is none."""
        wait = _documents.MAX_WAIT_SECONDS if timeout is None else max(0.0, min(timeout, _documents.MAX_WAIT_SECONDS))
        awaited = self._some()
        if not awaited:
            time.sleep(min(wait, 0.1))
            return
        if len(awaited) < len(self._awaited):
            wait = min(wait, TURN_SECONDS)
        backend: Backend = self.backend
        began = time.monotonic()
        keys = {backend.get_key_for_task(task): task for task in awaited}
        known = {key: awaited[task] for key, task in keys.items() if awaited[task]}
        found, _ = backend.call(_documents.read(list(keys), known, wait))
        for document in found:
            task = keys[document.id]
            if task in self._awaited:
                self._awaited[task] = document.version
            meta = backend.decode_result(document.body)
            if meta["status"] in states.READY_STATES:
                self.cancel_for(task)
            self.on_state_change(meta, None)
        if not found:
            time.sleep(max(0.0, min(wait, 0.05) - (time.monotonic() - began)))
            raise TimeoutError()


class Backend(BaseKeyValueStoreBackend, AsyncBackendMixin):
    """Results and chords in Holdfast."""

    ResultConsumer = ResultConsumer

    key_t = staticmethod(bytes_to_str)
    supports_autoexpire = True
    supports_native_join = True
    supports_failure_expires = True

    def __init__(self, url: str | None = None, **options: Any) -> None:
        super().__init__(url=url, **options)
        host, port, key, is_tls, path = split(url or "holdfast://")
        conf = self.app.conf
        transport_options = conf.get("result_backend_transport_options") or {}
        ca_file = ca_file_of(transport_options) or ca_file_of(conf.get("broker_use_ssl"))
        self._calls: Calls = calls_to(endpoint(host, port, key, is_tls, path, ca_file))
        self._own_patience = transport_options.get("patience")
        failure = conf.get("result_failure_expires")
        self._failure_expires = self.expires if failure is None else self.prepare_expires(failure)
        self.result_consumer = self.ResultConsumer(self, self.app, self.accept, self._pending_results, self._pending_messages)

    def as_uri(self, include_password: bool = False) -> str:
        return str(self.url) if include_password else self._masked

    @cached_property
    def _masked(self) -> str:
        host, port, key, is_tls, path = split(self.url or "holdfast://")
        return f"{'holdfast+https' if is_tls else 'holdfast'}://{':**@' if key else ''}{host}:{port}{path}"

    def __reduce__(self, args: Any = (), kwargs: Any = None) -> Any:
        return super().__reduce__(args, {**(kwargs or {}), "url": self.url})

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        return isinstance(exc, (ConnectionFailed, Unavailable, ServerError))

    def call(self, call: Call[Any]) -> Any:
        """The call's result; it is repeated while the server is unavailable."""
        return self._calls.run(call, self._patience)

    @property
    def _patience(self) -> float:
        if self._own_patience is not None:
            return float(self._own_patience)
        return WORKER_PATIENCE_SECONDS if in_task() or _in_worker() else PATIENCE_SECONDS

    def decode(self, payload: Any) -> Any:
        if isinstance(payload, str) and payload.startswith(ZLIB):
            payload = zlib.decompress(base64.b64decode(payload[len(ZLIB) :])).decode("utf-8")
        if isinstance(payload, str) and payload.startswith(BYTES):
            payload = base64.b64decode(payload[len(BYTES) :])
        return super().decode(payload)

    # Documents

    def get(self, key: str) -> str | None:
        return self._calls.read([key], self._patience).get(key)

    def mget(self, keys: list[str]) -> list[str | None]:
        bodies = self._calls.read(keys, self._patience)
        return [bodies.get(key) for key in keys]

    def _parts(self, id: str) -> list[str]:
        return self._calls.parts(id, self._patience)

    def set(self, key: str, value: Any) -> None:
        self._write(key, value, self.expires)

    def _set_with_state(self, key: str, value: Any, state: str) -> None:
        self._write(key, value, self._failure_expires if state == states.FAILURE else self.expires, state)

    def _write(self, key: str, value: Any, expires: Any, state: str | None = None) -> None:
        body = value if isinstance(value, str) else BYTES + base64.b64encode(bytes(value)).decode("ascii")
        if len(body) > COMPRESS_BYTES:
            body = ZLIB + base64.b64encode(zlib.compress(body.encode("utf-8"))).decode("ascii")
        call = _documents.write(key, body, _ttl(expires), finished=state == states.SUCCESS, unless_finished=state is not None)
        try:
            self.call(call)
        except InvalidRequest as error:
            raise BackendStoreError(f"the server refuses the result: {error}") from error

    def delete(self, key: str) -> None:
        self.call(_documents.delete([key]))

    def expire(self, key: str, value: Any) -> None:
        """The time to live is given with each write."""

    def _store_result(self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **_: Any) -> Any:
        """One call: the server keeps a result that is finished."""
        meta = self._get_result_meta(result=result, state=state, traceback=traceback, request=request)
        meta["task_id"] = bytes_to_str(task_id)
        self._set_with_state(self.get_key_for_task(task_id), self.encode(meta), state)
        return result

    def _save_group(self, group_id: str, result: Any) -> Any:
        """A group may be saved again, with other results."""
        self.set(self.get_key_for_group(group_id), self.encode({"result": result.as_tuple()}))
        return result

    def forget(self, task_id: str) -> None:
        super().forget(task_id)
        self.result_consumer.cancel_for(task_id)

    # Chords

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        # A frozen chord that is applied again has the same group and the same callback, and is a new run. (The first parts of this one
        # may have returned already.)
        self.call(_documents.delete([self._chord(group_id, "done")]))
        self._write(self._chord(group_id, "size"), json.dumps([chord_size, uuid()]), self._chord_ttl)

    def add_to_chord(self, chord_id: str, result: Any) -> None:
        self.call(_documents.add_parts(self._chord(chord_id, "more"), [str(result.id)], self._chord_ttl))
        self._write(self._chord(chord_id, "more"), "1", self._chord_ttl)

    def apply_chord(self, header_result_args: Any, body: Any, **_: Any) -> None:
        from celery.utils.functional import _regen

        # The order and the nesting of results that are groups themselves are restored from the saved group.
        if not isinstance(header_result_args[1], _regen):
            header = self.app.GroupResult(*header_result_args)
            if any(isinstance(one, GroupResult) for one in header.results):
                key = self.get_key_for_group(header.id)
                self._write(key, self.encode({"result": header.as_tuple()}), self._chord_ttl)

    def on_chord_part_return(self, request: Any, state: str, result: Any, **_: Any) -> None:
        group = request.group
        if not group or not request.id:
            return
        value = self.encode([1, request.id, state, self.encode_result(result, state)])
        index = getattr(request, "group_index", None)
        part = json.dumps(["~" if index is None else f"{int(index):012d}", str(request.id)])
        self._write(self._part(group, request.id), value, self._chord_ttl)
        count = self.call(_documents.add_parts(self._chord(group, "parts"), [part], self._chord_ttl))
        run = self._full(group, count)
        if run is not None:
            self._complete(request, group, run)

    def _full(self, group: str, count: int) -> str | None:
        """The run of the chord, if every part has returned and the callback was not started."""
        size, done, more = self.mget([self._chord(group, name) for name in ("size", "done", "more")])
        if size is None or done is not None:
            # The last part of the header has not been published, or this is a copy of one that has counted.
            return None
        wanted, run = json.loads(size)
        added = len(self._parts(self._chord(group, "more"))) if more is not None else 0
        return str(run) if count >= int(wanted) + added else None

    def _complete(self, request: Any, group: str, run: str) -> None:
        callback = maybe_signature(request.chord, app=self.app)
        try:
            results = self._joined(group)
        except ChordError as error:
            logger.exception("Chord %r raised: %r", group, error)
            self._failed(group, callback, error)
        except Exception as error:
            logger.exception("Chord %r raised: %r", group, error)
            self._failed(group, callback, _chord_error(f"Join error: {error!r}", error))
        else:
            self._publish(group, run, callback, results)

    def _publish(self, group: str, run: str, callback: Any, results: Any) -> None:
        callback.options[ONCE] = f"chord/{run}"
        try:
            # Celery 5.6 and older publish under the policy of the callback alone.
            publish = getattr(self.app.amqp, "_retry_publish", None)
            callback.delay(results) if publish is None else publish(callback.delay, results)
        except Exception as error:
            logger.exception("Chord callback for %r raised: %r", group, error)
            self._failed(group, callback, ChordError(f"Callback error: {error!r}"))
        else:
            self._done(group)

    def _failed(self, group: str, callback: Any, error: ChordError) -> None:
        # First the mark: the errbacks are to be called once.
        self._done(group)
        self.chord_error_from_stack(callback, error)

    def _done(self, group: str) -> None:
        self._write(self._chord(group, "done"), "1", DONE_SECONDS)
        tasks = [json.loads(part)[1] for part in self._parts(self._chord(group, "parts"))]
        left = [self._part(group, task) for task in tasks] + [self._chord(group, name) for name in ("size", "parts", "more")]
        for first in range(0, len(left), _documents.MAX_ITEMS):
            self.call(_documents.delete(left[first : first + _documents.MAX_ITEMS]))

    def _joined(self, group: str) -> Any:
        """What the parts returned, in the order of the header. Raises ChordError for a part that failed."""
        header = GroupResult.restore(group, app=self.app, backend=self)
        if header is not None:
            header.on_ready()
            join = header.join_native if header.supports_native_join else header.join
            with allow_join_result():
                return join(timeout=self.app.conf.result_chord_join_timeout, propagate=True)
        tasks = [json.loads(part)[1] for part in sorted(self._parts(self._chord(group, "parts")))]
        return [self._unpacked(value) for value in self.mget([self._part(group, task) for task in tasks])]

    def _unpacked(self, value: str | None) -> Any:
        if value is None:
            raise ChordError("a result of the header has expired")
        _, task, state, result = self.decode(value)
        if state in states.EXCEPTION_STATES:
            result = self.exception_to_python(result)
        if state in states.PROPAGATE_STATES:
            raise _chord_error(f"Dependency {task} raised {result!r}", result)
        return result

    @property
    def _chord_ttl(self) -> int:
        # Celery 5.6 and older have no such setting.
        return _ttl(getattr(self, "chord_expires", None) or self.expires)

    def _chord(self, group: str, name: str) -> str:
        return f"{self.chord_keyprefix}{group}.{name}"

    def _part(self, group: str, task: str) -> str:
        return f"{self.chord_keyprefix}{group}.part.{task}"


def _chord_error(text: str, cause: Any) -> ChordError:
    """As Celery's own backends make it from 5.6 on."""
    error = ChordError(text)
    if isinstance(cause, Exception):
        error.__cause__ = cause
    return error


def _in_worker() -> bool:
    """Whether this is the main process of a worker."""
    from celery._state import _task_join_will_block

    return bool(_task_join_will_block)


def _ttl(expires: Any) -> int:
    """In whole seconds. No expiry is the longest that the server takes: a year."""
    return max(1, min(int(expires), _documents.MAX_TTL_SECONDS)) if expires else _documents.MAX_TTL_SECONDS


#: Documents are text. This begins one whose serializer makes bytes (pickle, msgpack), and this one that is compressed.
BYTES = "base64:"
ZLIB = "zlib:"

#: Results that are longer are compressed: a server takes documents of 256 KiB by default.
COMPRESS_BYTES = 65_536

__all__ = ["Backend", "ResultConsumer"]
