"""HTTP over sockets, against a server that writes what it is told to."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from holdfast import Client, ConfigurationError, _wire
from holdfast._calls import Broken, Call, Reply
from holdfast._http import Endpoint
from holdfast._pulse import MAX_HEAD, AnswerReader
from holdfast._wire import AwaitingWire, Wire
from scripted import OK, Scripted


def call(method: str = "POST", **options: Any) -> Call[Any]:
    return Call(method, "/v1/x", dict, **{"body": '{"a":1}', **options})


@pytest.fixture
def scripted() -> Iterator[Callable[..., Scripted]]:
    made: list[Scripted] = []

    def make(*answers: bytes | None) -> Scripted:
        made.append(Scripted(*answers))
        return made[-1]

    yield make
    for one in made:
        one.close()


def send_blocking(url: str, *calls: Call[Any]) -> list[Reply | Broken]:
    wire = Wire(Endpoint.of(url, "the-key", None))
    try:
        return [wire.send(one) for one in calls]
    finally:
        wire.close()


def send_awaiting(url: str, *calls: Call[Any]) -> list[Reply | Broken]:
    async def run() -> list[Reply | Broken]:
        wire = AwaitingWire(Endpoint.of(url, "the-key", None))
        try:
            return [await wire.send(one) for one in calls]
        finally:
            await wire.close()

    return asyncio.run(run())


Send = Callable[..., "list[Reply | Broken]"]
both = pytest.mark.parametrize("send", [send_blocking, send_awaiting])


@both
def test_calls_share_a_connection(scripted: Callable[..., Scripted], send: Send) -> None:
    server = scripted(OK)
    replies = send(server.url + "/base", call(headers={"Idempotency-Key": "1"}), call("GET", body=None))
    assert replies == [Reply(200, {"content-length": "2"}, b"{}")] * 2
    assert server.connections == 1
    first, second = (text.decode() for text in server.requests)
    assert first.startswith("POST /base/v1/x HTTP/1.1\r\nHost: 127.0.0.1:") and first.endswith('\r\n\r\n{"a":1}')
    assert "\r\nAuthorization: Bearer the-key\r\n" in first and "\r\nIdempotency-Key: 1\r\n" in first
    assert second.startswith("GET /base/v1/x HTTP/1.1\r\n") and "Idempotency" not in second and second.endswith("Content-Length: 0\r\n\r\n")


@both
def test_a_server_that_closes_is_connected_again(scripted: Callable[..., Scripted], send: Send) -> None:
    server = scripted(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert [type(reply) for reply in send(server.url, call(), call())] == [Reply, Reply]
    assert server.connections == 2


def test_a_kept_connection_that_was_closed_is_replaced_where_a_call_may_be_repeated(scripted: Callable[..., Scripted]) -> None:
    server = scripted(OK, b"", OK)
    assert [type(reply) for reply in send_blocking(server.url, call(), call())] == [Reply, Reply]
    once = scripted(OK, b"", OK)
    replies = send_blocking(once.url, call(), call(repeatable=False), call())
    assert replies[1] == Broken("ConnectionError: the connection was closed", reached=True)
    assert len(once.requests) == 3


@both
def test_a_call_that_was_not_answered_may_have_reached_the_server(scripted: Callable[..., Scripted], send: Send) -> None:
    silent = scripted(None)
    (broken,) = send(silent.url, call(timeout=0.2))
    assert isinstance(broken, Broken) and broken.reached and broken.reason.startswith("TimeoutError")
    closing = scripted(b"")
    assert send(closing.url, call()) == [Broken("ConnectionError: the connection was closed", reached=True)]


@both
def test_one_that_was_not_sent_has_not(send: Send) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}", "http://no-such-host.invalid"):
        (broken,) = send(url, call())
        assert isinstance(broken, Broken) and not broken.reached


@both
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"no http\r\n\r\n", "ValueError"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "no length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "no length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n", "too long"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffff\r\n", "too long"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n", "too long"),
        (b"x" * (MAX_HEAD + 1), "too long"),
    ],
)
def test_what_is_no_answer_is_refused(scripted: Callable[..., Scripted], send: Send, answer: bytes, reason: str) -> None:
    (broken,) = send(scripted(answer).url, call())
    assert isinstance(broken, Broken) and broken.reached and reason in broken.reason


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (OK, (200, b"{}")),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, (200, b"{}")),
        (b"HTTP/1.1 204 No Content\r\n\r\n", (204, b"")),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=1\r\nde\r\n0\r\n\r\n", (200, b"abcde")),
    ],
)
def test_answers_are_read_in_pieces_of_any_size(answer: bytes, expected: tuple[int, bytes]) -> None:
    for size in (1, 3, len(answer)):
        reader = AnswerReader(100)
        pieces = [answer[at : at + size] for at in range(0, len(answer), size)]
        *early, last = [reader.feed(piece) for piece in pieces]
        assert last is not None and (last[0], last[2]) == expected
        assert early == [None] * len(early)


def test_a_call_that_is_cancelled_closes_its_connection(scripted: Callable[..., Scripted]) -> None:
    server = scripted(None, OK)

    async def run() -> Reply | Broken:
        wire = AwaitingWire(Endpoint.of(server.url, None, None))
        waiting = asyncio.ensure_future(wire.send(call()))
        while not server.requests:
            await asyncio.sleep(0.005)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        return await wire.send(call())

    assert isinstance(asyncio.run(run()), Reply)
    assert server.connections == 2


def test_connections_of_a_loop_are_bounded_and_each_loop_has_its_own(
    scripted: Callable[..., Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_wire, "MAX_CONNECTIONS", 2)
    monkeypatch.setattr(_wire, "PLACE_SECONDS", 0.1)
    server = scripted(OK)
    wire = AwaitingWire(Endpoint.of(server.url, None, None))

    async def many(one: Call[Any]) -> list[Reply | Broken]:
        return list(await asyncio.gather(*(wire.send(one) for _ in range(20))))

    assert [type(reply) for reply in asyncio.run(many(call()))] == [Reply] * 20
    assert server.connections <= 2
    assert [type(reply) for reply in asyncio.run(many(call()))] == [Reply] * 20
    assert 3 <= server.connections <= 4
    server.answers = [None]
    broken = asyncio.run(many(call(timeout=1.0)))
    assert broken.count(Broken("no connection is free", reached=False)) == 18


def test_idle_connections_are_not_used_for_ever(scripted: Callable[..., Scripted], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_wire, "IDLE_SECONDS", 0.0)
    for send in (send_blocking, send_awaiting):
        server = scripted(OK)
        send(server.url, call(), call())
        assert server.connections == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_process_has_connections_of_its_own(scripted: Callable[..., Scripted]) -> None:
    server = scripted(OK)
    wire = Wire(Endpoint.of(server.url, None, None))
    wire.send(call())
    child = os.fork()
    if child == 0:
        os._exit(0 if isinstance(wire.send(call()), Reply) and len(wire._idle) == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert isinstance(wire.send(call()), Reply)
    assert server.connections == 2


@both
def test_headers_cannot_be_added_by_a_value(scripted: Callable[..., Scripted], send: Send) -> None:
    with pytest.raises(ValueError, match="traceparent has a line end"):
        send(scripted(OK).url, call(headers={"traceparent": "x\r\nAuthorization: other"}))


def test_urls_are_written_as_http_needs_them() -> None:
    assert Endpoint.of("https://jobs.example.com", None, None).address() == ("https", "jobs.example.com", 443, "")
    assert Endpoint.of("http://[::1]:9/a b/ü/", None, None).address() == ("http", "::1", 9, "/a%20b/%C3%BC")
    assert Endpoint.of("http://bücher.example", None, None).address().host == "xn--bcher-kva.example"
    for wrong in ("http://a b", f"http://{'ü' * 64}.example", "http://\u2100.example"):
        with pytest.raises(ConfigurationError, match="not valid"):
            Client(wrong)
