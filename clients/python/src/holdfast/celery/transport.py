"""The kombu transport: ``broker_url = "holdfast://KEY@host:8080"``.

What becomes of kombu's entities
    - A *queue* is a queue of Holdfast, and its messages are jobs (:mod:`._message`): committed when the publish returns. One that vanishes
      with its consumer in AMQP (``auto_delete`` or ``exclusive``: replies of remote control, events, ``Broadcast``) holds no jobs: its
      messages are said on a channel, for those who listen now.
    - A *fanout exchange* is a channel. Its routing keys are patterns, as with Celery on Redis.
    - A *direct* or *topic exchange* is a set of bindings that all clients share; the publisher puts the message into each bound queue.
      Celery's own tasks name their queue and need none of this.

When things fail
    - *A publish*: raised at once, as one of ``connection_errors`` if it may succeed later. Kombu's retry policies publish the same message
      under the same Idempotency-Key, so a lost reply makes no second job. In a running task it is repeated for 300 s first
      (TASK_PATIENCE_SECONDS): the task's retry, or the next one of its chain, would be lost otherwise.
    - *Consuming*: see :mod:`._link`. No error of the server is raised in the consumer.
    - *Events* (``celeryev``) are collected and sent by a thread; what cannot be sent is dropped (:mod:`._events`).
"""

from __future__ import annotations

import json
import re
import socket
from queue import Empty
from typing import Any

from amqp.protocol import queue_declare_ok_t
from kombu.compression import compress
from kombu.exceptions import OperationalError
from kombu.transport import virtual
from kombu.transport.base import to_rabbitmq_queue_arguments
from kombu.utils.uuid import uuid

from .. import _documents
from .._attempt import Outcome
from .._version import VERSION
from ..errors import ApiError, ConnectionFailed, HoldfastError, NotFound, ServerError, Unavailable
from ._calls import CHANNEL_TTL_SECONDS, Calls, calls_to
from ._endpoint import PORT, ca_file_of, endpoint, split
from ._events import EVENT_EXCHANGE, poster_to
from ._link import UNLIMITED, Link
from ._lost import limit_losses
from ._message import ONCE, Message
from ._names import exchange_channel, listeners, queue_channel, queue_name

#: Bodies that are longer are compressed: a server takes payloads of 256 KiB by default.
COMPRESS_BYTES = 65_536

#: Messages that are delivered in one go to a consumer with an event loop; then its other work has its turn.
MAX_DELIVERIES = 100


#: What may pass.
UNAVAILABLE = (ConnectionFailed, Unavailable, ServerError)


class NotPublished(HoldfastError, OperationalError):
    """The message was not accepted, or it is not known whether it was. Celery documents this type for it."""


class QoS(virtual.QoS):
    """Which messages are unsettled is known by the link and the server; here are those of channels alone."""

    restore_at_shutdown = False

    def append(self, message: Any, delivery_tag: str) -> None:
        if message.properties.get("holdfast_queue"):
            super().append(message, delivery_tag)

    def can_consume(self) -> bool:
        return True

    def ack(self, delivery_tag: str) -> None:
        self.channel.lost.pop(delivery_tag, None)
        if not self._forget(delivery_tag):
            self.channel.settle(delivery_tag, Outcome("completed"))

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        message = self._forget(delivery_tag)
        loss = self.channel.lost.pop(delivery_tag, None)
        if message:
            if requeue:
                self.channel.again(message)
        elif requeue and loss:
            self.channel.settle(delivery_tag, Outcome("failed", error=loss, retry_after=0.0))
        elif requeue:
            self.channel.settle(delivery_tag, Outcome("snooze", retry_after=0.0))
        else:
            self.channel.settle(delivery_tag, Outcome("discard", error=loss or "the worker rejected the task"))

    def _forget(self, delivery_tag: str) -> Any:
        return self._delivered.pop(delivery_tag, None)

    def restore_unacked(self) -> list[Any]:
        return []


class Channel(virtual.Channel):
    """One channel of a connection."""

    QoS = QoS
    supports_fanout = True
    do_restore = False

    def __init__(self, connection: Transport, **options: Any) -> None:
        super().__init__(connection, **options)
        self._calls: Calls = connection.calls
        #: Queues of this channel that hold no jobs, and what they read: channel, pattern of the routing key, position.
        self._listening: dict[str, list[tuple[str, re.Pattern[str] | None, int]]] = {}
        #: Delivery tags of jobs that were given to this channel's consumers.
        self._unsettled: set[str] = set()
        #: Tasks that are about to be rejected because they have killed their process (:mod:`._lost`): why, by delivery tag.
        self.lost: dict[str, str] = {}

    # Publishing

    def prepare_message(
        self,
        body: Any,
        priority: Any = None,
        content_type: Any = None,
        content_encoding: Any = None,
        headers: Any = None,
        properties: Any = None,
    ) -> Message:
        properties = {} if properties is None else properties
        # Kombu repeats a publish with these same properties.
        once = properties.get(ONCE)
        task = (headers or {}).get("id")
        properties.setdefault("delivery_tag", f"{once}/{task}/{headers.get('retries', 0)}" if once and task else uuid())
        message: Message = super().prepare_message(body, priority, content_type, content_encoding, headers, properties)
        return message

    def _inplace_augment_message(self, message: Message, exchange: str, routing_key: str) -> None:
        _compress(message)
        body = message["body"]
        encoding = "utf-8" if isinstance(body, str) else "base64"
        message["body"], encoding = self.encode_body(body, encoding)
        properties = message["properties"]
        properties["body_encoding"] = encoding
        properties.setdefault("delivery_tag", uuid())
        properties["delivery_info"] = {**properties.get("delivery_info", {}), "exchange": exchange, "routing_key": routing_key}

    def _put(self, queue: str, message: Message, **_: Any) -> None:
        try:
            if self._calls.is_job_queue(queue):
                self._calls.publish(queue, message)
            else:
                self._calls.say(queue_channel(queue), [_said(queue, message)])
        except UNAVAILABLE as error:
            raise NotPublished(str(error)) from error

    def _put_fanout(self, exchange: str, message: Message, routing_key: str, **_: Any) -> None:
        text = _said(routing_key, message)
        if exchange.startswith(EVENT_EXCHANGE):
            poster_to(self._calls).post(exchange_channel(exchange), text)
        else:
            self._calls.say(exchange_channel(exchange), [text])

    def _restore(self, message: Any) -> None:
        """What is not settled goes back with the lease."""

    # Queues, exchanges and bindings

    def prepare_queue_arguments(self, arguments: Any, **options: Any) -> Any:
        return to_rabbitmq_queue_arguments(arguments, **options)

    def queue_declare(self, queue: str | None = None, passive: bool = False, **options: Any) -> Any:
        name = queue or f"amq.gen-{uuid()}"
        if passive:
            return super().queue_declare(name, passive=True, **options)
        self._new_queue(name, **options)
        return queue_declare_ok_t(name, 0, 0)

    def _new_queue(self, queue: str, auto_delete: bool = False, exclusive: bool = False, **_: Any) -> None:
        if auto_delete or exclusive:
            self._listening.setdefault(queue, [])
        else:
            self._calls.know_job_queue(queue)

    def _has_queue(self, queue: str, **_: Any) -> bool:
        return True

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str | None, queue: str) -> None:
        if self.typeof(exchange).type == "fanout":
            channel = exchange_channel(exchange)
            self._listening.setdefault(queue, []).append((channel, _pattern(routing_key), self._position(channel)))
        else:
            if queue in self._listening:
                self._listen_to_queue(queue)
            self._calls.bind(exchange, _binding(routing_key, pattern, queue), listens=queue in self._listening)

    def _listen_to_queue(self, queue: str) -> None:
        """A queue without jobs has a channel of its own, from now on."""
        channel = queue_channel(queue)
        if all(name != channel for name, _, _ in self._listening[queue]):
            self._listening[queue].append((channel, None, self._position(channel)))
            self._calls.run(_documents.add_parts(listeners(queue), ["1"], 3_600))

    def _position(self, channel: str) -> int:
        return self._calls.run(_documents.position(channel))

    def get_table(self, exchange: str) -> list[tuple[str, str | None, str]]:
        return [_bound(text) for text in self._calls.bound(exchange)]

    def _delete(self, queue: str, exchange: str, routing_key: str, pattern: str | None, *_: Any, **__: Any) -> None:
        """One binding of a queue. Its jobs stay."""
        if self.typeof(exchange).type != "fanout":
            self._calls.unbind(exchange, _binding(routing_key, pattern, queue))

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False, **options: Any) -> None:
        super().queue_delete(queue, if_unused=if_unused, if_empty=if_empty, **options)
        if any(name == queue_channel(queue) for name, _, _ in self._listening.pop(queue, ())):
            self._calls.run(_documents.delete_parts(listeners(queue), ["1"]))

    def _size(self, queue: str) -> int:
        return 0 if queue in self._listening else self._calls.size(queue)

    def _purge(self, queue: str) -> int:
        return 0 if queue in self._listening else self._calls.purge(queue)

    # Consuming

    def basic_qos(self, prefetch_size: int = 0, prefetch_count: int = 0, apply_global: bool = False) -> None:
        self.qos.prefetch_count = prefetch_count
        self.connection.consumers_changed()

    def basic_consume(self, queue: str, no_ack: bool, callback: Any, consumer_tag: str, **options: Any) -> None:
        if queue in self._listening:
            if not self._listening[queue]:
                self._listen_to_queue(queue)
        else:
            self._calls.declare_if_allowed(queue)
        super().basic_consume(queue, no_ack, callback, consumer_tag, **options)
        if no_ack and queue not in self._listening:
            self._settle_on_arrival(queue)
        self.connection.consumers_changed()

    def _settle_on_arrival(self, queue: str) -> None:
        deliver = self.connection._callbacks[queue]

        def delivered(raw: Message) -> None:
            deliver(raw)
            self.settle(raw["properties"]["delivery_tag"], Outcome("completed"))

        self.connection._callbacks[queue] = delivered

    def basic_cancel(self, consumer_tag: str) -> None:
        super().basic_cancel(consumer_tag)
        if self.connection is not None:
            self.connection.consumers_changed()

    def _get(self, queue: str, timeout: float | None = None) -> Message:
        """One message, without a consumer: it is pulled by the link as for one."""
        found: Message = self.connection.get_one(self, queue)
        return found

    def job_queues(self) -> list[str]:
        """The consumed queues that hold jobs."""
        return [queue for queue in dict.fromkeys(self._active_queues) if queue not in self._listening]

    def listened(self) -> dict[str, list[tuple[str, re.Pattern[str] | None, int]]]:
        """The consumed queues that hold none."""
        return {queue: self._listening[queue] for queue in self._active_queues if queue in self._listening}

    def given(self, delivery_tag: str) -> None:
        """A job was given to a consumer of this channel."""
        self._unsettled.add(delivery_tag)

    def settle(self, delivery_tag: str, outcome: Outcome) -> None:
        """From any thread."""
        self._unsettled.discard(delivery_tag)
        connection = self.connection
        if connection is not None:
            connection.link.settle(delivery_tag, outcome)

    def again(self, message: Any) -> None:
        """A message of a channel that was put back. It is stored here: no other process has it."""
        queue = message.properties["holdfast_queue"]
        self.connection.link.inbox.put(queue, message.serializable())

    def close(self) -> None:
        if not self.closed and self.connection is not None:
            for queue in list(self._listening):
                self._forget_listening(queue)
            if not self.connection.is_closing:
                for tag in list(self._unsettled):
                    self.settle(tag, Outcome("snooze", retry_after=0.0))
        super().close()

    def _forget_listening(self, queue: str) -> None:
        try:
            self.queue_delete(queue)
        except (ApiError, ConnectionFailed, KeyError):
            # It is forgotten by the server after an hour.
            self._listening.pop(queue, None)


class Transport(virtual.Transport):
    """Holdfast as a broker."""

    Channel = Channel

    can_parse_url = False
    default_port = PORT
    # Celery asks by this whether events and remote control are fanouts, and starts gossip and mingle.
    driver_type = "redis"
    driver_name = "holdfast"
    polling_interval = None

    implements = virtual.Transport.implements.extend(asynchronous=True, exchange_type=frozenset(["direct", "topic", "fanout"]))

    connection_errors = (NotPublished, *UNAVAILABLE, OSError)
    channel_errors = (ApiError,)
    recoverable_connection_errors = connection_errors
    recoverable_channel_errors = ()

    def __init__(self, client: Any, **options: Any) -> None:
        host, port, key, is_tls, path = _address(client)
        super().__init__(client, **options)
        # Of a first connection, where the caller gives no policy: a publish that cannot be sent is to raise once each URL was tried, and not
        # to wait.
        client.transport_options.setdefault("max_retries", max(0, len(client.alt or ()) - 1))
        ca_file = ca_file_of(client.transport_options) or ca_file_of(client.ssl)
        self.calls = calls_to(endpoint(host, port, key, is_tls, path, ca_file))
        heartbeat = "loop" if client.transport_options.get("heartbeat") == "loop" else "process"
        self.link = Link(self.calls.endpoint, self._said, heartbeat=heartbeat)
        self.is_closing = False
        self._hub: Any = None
        self._bell: tuple[socket.socket, socket.socket] | None = None

    def driver_version(self) -> str:
        return VERSION

    def establish_connection(self) -> Transport:
        try:
            self.calls.check()
        except NotFound as error:
            raise ServerError(
                error.status, error.type, error.title, "this server has no routes for results and channels: it is older than this client"
            ) from error
        self._avail_channels.append(self.create_channel(self))
        return self

    def close_connection(self, connection: Any) -> None:
        self.is_closing = True
        self._leave_hub()
        super().close_connection(connection)
        self.link.close()

    def _collect(self, connection: Any) -> None:
        """The connection is given up, because of an error or in a forked process. A channel that says that it has none is replaced by kombu."""
        if self.link.is_running:
            self.close_connection(connection)
        while self.channels:
            self.channels.pop().connection = None

    # Consumers

    def consumers_changed(self) -> None:
        """What is consumed, by all channels, for the link."""
        if self.is_closing and not self.link.is_running:
            return
        jobs: dict[str, str] = {}
        prefetch = 0
        positions: dict[str, int] = {}
        takers = []
        for channel in list(self.channels):
            queues = channel.job_queues()
            if queues:
                jobs.update((queue_name(queue), queue) for queue in queues)
                prefetch += channel.qos.prefetch_count or UNLIMITED
                takers.append(channel.qos)
            for bound in channel.listened().values():
                for name, _, position in bound:
                    positions[name] = min(position, positions.get(name, position))
        self.link.serve(jobs, prefetch, lambda: all(qos.can_consume() for qos in takers))
        self.link.listen(positions)

    def _said(self, channel: str, key: str, message: Message) -> None:
        """Something was said on a channel: for each consumed queue that listens. On the protocol loop."""
        for one in list(self.channels):
            for queue, bound in one.listened().items():
                if any(name == channel and (pattern is None or pattern.fullmatch(key)) for name, pattern, _ in bound):
                    copied = {**message, "properties": {**message["properties"], "holdfast_queue": queue, "delivery_tag": uuid()}}
                    self.link.inbox.put(queue, copied)

    def get_one(self, channel: Any, queue: str) -> Message:
        if queue in channel._listening:
            raise Empty()
        self.calls.declare_if_allowed(queue)
        prefetch = len(channel._unsettled) + 1
        self.link.serve({queue_name(queue): queue}, prefetch, lambda: True)
        try:
            found = self.link.inbox.get(GET_SECONDS)
        finally:
            self.consumers_changed()
        if found is None:
            raise Empty()
        self._owner(found[1], channel)
        return found[1]

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:
        found = self.link.inbox.get(timeout)
        if found is None:
            raise TimeoutError()
        self._give(*found)

    def _give(self, queue: str, message: Message) -> None:
        for channel in self.channels:
            if queue in channel._active_queues:
                self._owner(message, channel)
                self._deliver(message, queue)
                return
        # Its consumer was cancelled meanwhile.
        self.link.settle(message["properties"]["delivery_tag"], Outcome("snooze", retry_after=0.0))

    def _owner(self, message: Message, channel: Any) -> None:
        if not message["properties"].get("holdfast_queue"):
            channel.given(message["properties"]["delivery_tag"])

    # Celery's event loop

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        limit_losses()
        self._leave_hub()
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        self._hub, self._bell = loop, (reader, writer)
        loop.add_reader(reader.fileno(), self._on_readable, reader)
        self.link.inbox.on_arrival(lambda: _ring(writer))
        if len(self.link.inbox):
            _ring(writer)

    def unregister_from_event_loop(self, connection: Any, loop: Any) -> None:
        self._leave_hub()

    def _leave_hub(self) -> None:
        self.link.inbox.on_arrival(None)
        if self._bell is not None:
            reader, writer = self._bell
            try:
                self._hub.remove(reader.fileno())
            except (KeyError, ValueError, OSError, AttributeError):
                pass
            reader.close()
            writer.close()
        self._hub = self._bell = None

    def _on_readable(self, reader: socket.socket) -> None:
        try:
            reader.recv(65_536)
        except (BlockingIOError, InterruptedError):
            pass
        for _ in range(MAX_DELIVERIES):
            found = self.link.inbox.get(0)
            if found is None:
                return
            self._give(*found)
        if self._bell is not None:
            _ring(self._bell[1])


#: How long `basic_get` waits for a message, in seconds.
GET_SECONDS = 1.0


def _address(client: Any) -> tuple[str, int, str | None, bool, str]:
    """Where the server is. The key becomes the connection's password, which kombu and Celery mask wherever they show a connection."""
    if client.hostname and "://" in client.hostname:
        host, port, key, is_tls, path = split(client.hostname)
        client.hostname, client.port, client.uri_prefix = host, port, None
        client.virtual_host, client.ssl = path or "/", client.ssl or is_tls
    elif not client.hostname and not client.password and not client.userid:
        host, port, key, is_tls, path = split("holdfast://")
        client.hostname, client.port, client.ssl = host, port, client.ssl or is_tls
    else:
        host, port = client.hostname or "127.0.0.1", client.port or PORT
        password = client.password() if callable(client.password) else client.password
        key, is_tls = password or client.userid or None, bool(client.ssl)
        path = "" if client.virtual_host in (None, "/", "//") else "/" + client.virtual_host.strip("/")
    client.userid, client.password = None, key
    return host, port, key, is_tls, path


def _compress(message: Message) -> None:
    """A large body, such as that of a chord of a thousand tasks, as kombu's own compression writes it and every kombu reads it."""
    body, headers = message["body"], message["headers"]
    if len(body) > COMPRESS_BYTES and "compression" not in headers:
        message["body"], compression = compress(body, "zlib")
        # The headers are the publisher's own: a repeat begins with them as they were.
        message["headers"] = {**headers, "compression": compression}


def _ring(writer: socket.socket) -> None:
    try:
        writer.send(b"\0")
    except OSError:
        # It is full, so it has been rung; or the connection is closed.
        pass


def _said(key: str, message: Message) -> str:
    return json.dumps({"key": key, "message": message}, separators=(",", ":"))


def _binding(routing_key: str | None, pattern: str | None, queue: str) -> str:
    return json.dumps([routing_key or "", pattern, queue], separators=(",", ":"))


def _bound(text: str) -> tuple[str, str | None, str]:
    routing_key, pattern, queue = json.loads(text)
    return routing_key, pattern, queue


def _pattern(routing_key: str | None) -> re.Pattern[str] | None:
    """As AMQP's topics: ``*`` is one word, ``#`` any number. No routing key hears everything."""
    if not routing_key or routing_key in ("#", "*"):
        return None
    words = {"*": r"[^.]+", "#": r".*"}
    return re.compile(r"\.".join(words.get(word, re.escape(word)) for word in routing_key.split(".")))


__all__ = ["CHANNEL_TTL_SECONDS", "Channel", "QoS", "Transport"]
