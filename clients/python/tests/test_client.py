"""How calls are written, repeated and read: the core, behind both clients."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx
import holdfast
import pytest
from holdfast import AsyncClient, Client, ConfigurationError, NewJob, _flow
from holdfast.models import moment_of

Answer = Any
ACCEPTED = {"id": "01J", "kind": "k", "queue": "q", "state": "available", "duplicate": False}


class Script:
    """Answers in order, the last one again and again; notes the requests."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        status, body, *headers = answer
        content = {"json": body} if not isinstance(body, str) else {"text": body}
        return httpx.Response(status, headers=headers[0] if headers else None, **content)

    @property
    def client(self) -> Client:
        return Client("http://test", "secret-key", transport=httpx.MockTransport(self), patience=30)

    def body(self, number: int = 0) -> Any:
        return json.loads(self.requests[number].content)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_flow, "FIRST_PAUSE", 0.001)


def problem(status: int, slug: str, **more: Any) -> tuple[int, dict[str, Any]]:
    return status, {"type": f"urn:holdfast:problem:{slug}", "title": "T", "status": status, "detail": "D", **more}


def test_every_option_is_sent() -> None:
    script = Script((202, ACCEPTED))
    job = script.client.enqueue(
        "k",
        {"a": 1},
        queue="q",
        run_at=datetime(2030, 1, 1, tzinfo=timezone(timedelta(hours=1))),
        priority="high",
        max_attempts=3,
        timeout_seconds=timedelta(minutes=1),
        unique_key="u",
        limit_key="l",
        tags=("vip", "eu west"),
        then=NewJob("next", None, delay_seconds=2),
        idempotency_key="key",
        traceparent="00-1-2-01",
    )
    assert job.id == "01J"
    assert script.body() == {
        "kind": "k",
        "payload": {"a": 1},
        "queue": "q",
        "run_at": "2029-12-31T23:00:00+00:00",
        "priority": "high",
        "max_attempts": 3,
        "timeout_seconds": 60.0,
        "unique_key": "u",
        "limit_key": "l",
        "tags": ["vip", "eu west"],
        "then": {"kind": "next", "payload": None, "delay_seconds": 2.0},
    }
    headers = script.requests[0].headers
    assert (headers["idempotency-key"], headers["traceparent"]) == ("key", "00-1-2-01")
    assert headers["authorization"] == "Bearer secret-key"


def test_a_lost_reply_is_repeated_under_the_same_key_and_is_no_duplicate() -> None:
    script = Script(httpx.ReadError("lost"), (200, {**ACCEPTED, "duplicate": True}))
    assert script.client.enqueue("k", {}).duplicate is False
    first, second = (request.headers["idempotency-key"] for request in script.requests)
    assert first == second


def test_a_key_of_the_caller_and_a_unique_key_can_be_duplicates() -> None:
    for options in ({"idempotency_key": "mine"}, {"unique_key": "one"}):
        assert Script((200, {**ACCEPTED, "duplicate": True})).client.enqueue("k", {}, **options).duplicate is True  # type: ignore[arg-type]


def test_a_gateways_page_is_repeated() -> None:
    script = Script((502, "<html>"), (202, ACCEPTED))
    assert script.client.enqueue("k", {}).id == "01J"


def test_patience_ends_and_the_last_error_is_raised() -> None:
    script = Script(problem(503, "unavailable"))
    client = Client("http://test", transport=httpx.MockTransport(script), patience=0)
    with pytest.raises(holdfast.Unavailable):
        client.enqueue("k", {})
    assert len(script.requests) == 1


def test_what_cannot_be_repeated_is_sent_once() -> None:
    script = Script(httpx.ReadError("lost"))
    with pytest.raises(holdfast.ConnectionFailed):
        script.client.retry("01J")
    assert len(script.requests) == 1


def test_retry_after_is_a_lower_bound() -> None:
    for _ in range(100):
        assert 7 <= _flow.pause_after(1, 7.0) <= 8.75
        assert _flow.pause_after(1000) <= _flow.LONGEST_PAUSE


@pytest.mark.parametrize(
    ("answer", "kind", "type"),
    [
        (
            problem(422, "invalid-payload", errors=[{"field": "payload.url", "reason": "R", "index": 2}]),
            holdfast.InvalidRequest,
            "invalid-payload",
        ),
        (problem(401, "unauthenticated"), holdfast.Unauthenticated, "unauthenticated"),
        (problem(403, "missing-scope"), holdfast.Forbidden, "missing-scope"),
        (problem(404, "job-not-found"), holdfast.NotFound, "job-not-found"),
        (problem(409, "illegal-transition"), holdfast.Conflict, "illegal-transition"),
        (problem(500, "internal"), holdfast.ServerError, "internal"),
        ((404, "<html>"), holdfast.NotFound, "status-404"),
        ((200, "<html>"), holdfast.ServerError, "unknown-answer"),
        ((202, ["odd"]), holdfast.ServerError, "unknown-answer"),
        ((302, ""), holdfast.ServerError, "status-302"),
    ],
)
def test_problems_are_exceptions(answer: Answer, kind: type[holdfast.ApiError], type: str) -> None:
    with pytest.raises(kind) as caught:
        Script(answer).client.enqueue("k", {})
    assert caught.value.type == type
    if type == "invalid-payload":
        assert caught.value.field == "payload.url" and caught.value.errors[0].index == 2


def test_many_jobs_are_sent_in_parts_under_keys_that_follow_from_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast._calls.MAX_JOBS", 2)
    script = Script((202, {"ids": ["a", "b"]}), (202, {"ids": ["c"]}))
    jobs = (NewJob("k", number) for number in range(3))
    assert script.client.enqueue_many(jobs, idempotency_key="key") == ["a", "b", "c"]
    assert [request.headers["idempotency-key"] for request in script.requests] == ["key", "key/1"]
    assert Script((500, {})).client.enqueue_many([]) == []


def test_wait_asks_until_the_job_has_ended() -> None:
    job = {"id": "01J", "kind": "k", "queue": "q", "state": "running"}
    done = {**job, "state": "completed", "result": 3, "run_at": "2026-01-31T12:00:00.123456789Z", "newer_field": {}}
    script = Script((202, ACCEPTED), (200, job), (200, done))
    record = script.client.enqueue("k", {}).wait(10)
    assert (record.result, record.run_at) == (3, datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=timezone.utc))
    assert "wait=" in str(script.requests[1].url)


def test_wait_ends_with_its_time() -> None:
    script = Script((200, {"id": "01J", "kind": "k", "queue": "q", "state": "running"}))
    with pytest.raises(holdfast.WaitTimeout):
        script.client.wait("01J", 0.01)


def test_a_server_that_allows_shorter_waits_is_asked_for_shorter_ones() -> None:
    done = {"id": "01J", "kind": "k", "queue": "q", "state": "completed"}
    script = Script(problem(400, "invalid-parameter"), (200, done))
    assert script.client.wait("01J").is_final
    assert "wait=1.000" in str(script.requests[1].url)


def test_the_result_of_a_job_that_failed_is_an_exception() -> None:
    failed = {"id": "01J", "kind": "k", "queue": "q", "state": "discarded", "errors": [{"attempt": 1, "message": "boom"}]}
    with pytest.raises(holdfast.JobFailed, match="boom"):
        Script((202, ACCEPTED), (200, failed)).client.enqueue("k", {}).result(1)


def test_jobs_are_read_in_pages() -> None:
    job = {"id": "01J", "kind": "k", "queue": "q", "state": "running"}
    script = Script((200, {"jobs": [job], "next": "01J"}), (200, {"jobs": [job], "next": None}))
    assert len(list(script.client.jobs(queue="q"))) == 2
    assert "after=01J" in str(script.requests[1].url)


def test_the_async_client_runs_the_same_flows() -> None:
    script = Script((503, "", {"Retry-After": "0"}), (202, ACCEPTED), (200, {"jobs": [], "next": None}))

    async def run() -> str:
        async with AsyncClient("http://test", transport=httpx.MockTransport(script)) as client:
            job = await client.enqueue("k", {})
            assert [record async for record in client.jobs()] == []
            return job.id

    assert asyncio.run(run()) == "01J"
    assert script.requests[0].headers["idempotency-key"] == script.requests[1].headers["idempotency-key"]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://user:hidden@host", "credentials"),
        ("http://hidden@host", "credentials"),
        ("ftp://host", "http or https"),
        ("host:8080", "http or https"),
        ("http://", "a host"),
        ("http://host:port", "not valid"),
        ("http://host/?key=hidden", "no query"),
    ],
)
def test_a_wrong_url_is_refused_and_not_repeated(url: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason) as caught:
        Client(url)
    assert "hidden" not in str(caught.value)


def test_the_key_is_in_no_text() -> None:
    script = Script(httpx.ReadError("lost"))
    client = Client("http://test", "secret-key", transport=httpx.MockTransport(script), patience=0)
    with pytest.raises(holdfast.ConnectionFailed) as caught:
        client.enqueue("k", {})
    assert "secret-key" not in f"{client!r} {client} {client._endpoint!r} {caught.value!r} {caught.value}"
    with pytest.raises(ConfigurationError) as refused:
        Client("http://test", "secret key\n")
    assert "secret" not in str(refused.value)


def test_misspelt_options_and_naive_times_are_refused() -> None:
    client = Script((202, ACCEPTED)).client
    with pytest.raises(TypeError, match="there is no option 'prioritty'"):
        client.enqueue("k", {}, prioritty="high")  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="time zone"):
        client.enqueue("k", {}, run_at=datetime(2030, 1, 1))
    with pytest.raises(ValueError, match="delay_seconds"):
        client.enqueue("k", {}, delay_seconds=-1)


def test_times_of_the_api_are_read_by_every_python() -> None:
    assert moment_of("2026-01-31T12:00:00Z") == datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
    assert moment_of("2026-01-31T12:00:00.5Z") == datetime(2026, 1, 31, 12, 0, 0, 500000, tzinfo=timezone.utc)
    assert moment_of(None) is None


def test_errors_go_from_one_process_to_another() -> None:
    import pickle

    from holdfast.errors import Fault, JobFailed, PayloadError, api_error
    from holdfast.models import JobRecord

    error = pickle.loads(pickle.dumps(api_error(503, {"type": "unavailable", "title": "t", "detail": "d", "field": "f"}, 2.0)))
    assert (type(error).__name__, error.status, error.errors, error.retry_after) == ("Unavailable", 503, (Fault("f", "d"),), 2.0)
    assert pickle.loads(pickle.dumps(JobFailed(JobRecord("1", "k", "q", "discarded")))).record.id == "1"
    assert str(pickle.loads(pickle.dumps(PayloadError("a.b", "wrong")))) == "a.b: wrong"
