"""Kinds from functions, and the testing mode."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import Any

import holdfast
import pytest
from holdfast import App, Cancelled, ConfigurationError, Context, Discard, Retry, Snooze


@dataclass
class Thumb:
    url: str
    width: int = 120


def make_app() -> App:
    app = App("http://nowhere.invalid", queue="media")

    @app.job("thumb", max_attempts=3, check_result=True)
    def thumb(thumb: Thumb) -> dict[str, int]:
        """Makes a thumbnail."""
        return {"width": thumb.width}

    @app.job("add")
    async def add(ctx: Context, a: int, b: int = 2) -> int:
        ctx.progress({"a": a})
        ctx.log("adding")
        return a + b

    @app.job("whole")
    def whole(payload: list[int], /) -> int:
        return sum(payload)

    @app.job("signal")
    def signal(ctx: Context, what: str) -> str:
        if what == "retry" and ctx.attempt == 1:
            raise Retry("later", after=5)
        if what == "snooze" and not SNOOZED:
            SNOOZED.append(1)
            raise Snooze(5)
        if what == "discard":
            raise Discard("never")
        if what == "cancelled":
            raise Cancelled()
        if what == "error":
            raise ValueError("wrong")
        if what == "exit":
            raise SystemExit(3)
        if what == "object":
            return object()  # type: ignore[return-value]
        return f"attempt {ctx.attempt}"

    return app


SNOOZED: list[int] = []


def test_a_definition_has_the_types_and_the_docstring() -> None:
    kinds = make_app().kinds
    body = kinds["thumb"].definition.body()
    assert body["queue"] == "media" and body["retry"] == {"max_attempts": 3} and body["description"] == "Makes a thumbnail."
    assert body["payload_schema"] == {
        "type": "object",
        "properties": {"url": {"type": "string"}, "width": {"type": "integer"}},
        "required": ["url"],
        "additionalProperties": False,
    }
    assert body["result_schema"] == {"type": "object", "additionalProperties": {"type": "integer"}}
    assert kinds["add"].definition.payload_schema["properties"] == {"a": {"type": "integer"}, "b": {"type": "integer"}}  # type: ignore[index]
    assert kinds["add"].definition.result_schema is None
    assert kinds["whole"].definition.payload_schema == {"type": "array", "items": {"type": "integer"}}


def test_jobs_are_recorded_and_run() -> None:
    app = make_app()
    kinds = app.kinds
    with app.testing() as box:
        kinds["thumb"].delay(Thumb("u"))
        kinds["add"].options(priority="high").delay(a=1)
        kinds["whole"].delay([1, 2])
        kinds["thumb"].enqueue({"url": "v"}, then=kinds["add"].new(5))
        assert [job.payload for job in box.jobs] == [{"url": "u", "width": 120}, {"a": 1}, [1, 2], {"url": "v"}]
        assert box.jobs[1].options == {"priority": "high"}
        assert box.run() == 5
        assert [job.result for job in box.jobs] == [{"width": 120}, 3, 3, {"width": 120}, 7]
        assert box.jobs[1].progress == [{"a": 1}] and box.jobs[1].lines == ["adding"]
        assert box.jobs[4].previous_result == {"width": 120}


def test_handlers_can_be_called_as_functions() -> None:
    kinds = make_app().kinds
    assert kinds["thumb"](Thumb("u")) == {"width": 120}
    assert kinds["whole"]([1]) == 1


def test_jobs_of_kinds_without_a_handler_are_recorded_if_they_are_named() -> None:
    app = make_app()
    with app.testing(others=["notify.email"]) as box:
        app.client.enqueue("notify.email", {"to": "ada@example.org"})
        app.kinds["add"].delay(1)
        assert box.run() == 1
        assert [job.state for job in box.jobs] == ["available", "completed"]


def test_eager_jobs_run_when_they_are_enqueued() -> None:
    app = make_app()
    with app.testing(eager=True) as box:
        assert app.kinds["add"].delay(1).result(1) == 3
        assert box.of("add")[0].state == "completed"


def test_waiting_runs_the_job_also_within_an_event_loop() -> None:
    app = make_app()

    async def produce() -> Any:
        return await (await app.kinds["add"].adelay(1)).result(1)

    with app.testing():
        assert asyncio.run(produce()) == 3


@pytest.mark.parametrize(
    ("what", "state", "attempt", "error"),
    [
        ("fine", "completed", 1, None),
        ("retry", "completed", 2, "later"),
        ("snooze", "completed", 1, None),
        ("discard", "discarded", 1, "never"),
        ("cancelled", "discarded", 1, "the handler raised Cancelled, but its job was not cancelled"),
        ("error", "discarded", 5, "ValueError: wrong"),
        ("exit", "discarded", 5, "SystemExit: 3"),
        ("object", "discarded", 1, "the result cannot be written as JSON"),
    ],
)
def test_what_a_handler_raises_decides(what: str, state: str, attempt: int, error: str | None) -> None:
    app = make_app()
    with app.testing() as box:
        app.kinds["signal"].delay(what)
        box.run()
        job = box.jobs[0]
        assert (job.state, job.attempt) == (state, attempt)
        assert error is None or error in str(job.error)


@pytest.mark.parametrize(
    ("kind", "payload", "field"),
    [
        ("thumb", {"url": 3}, "payload.url"),
        ("thumb", {}, "payload.url"),
        ("add", {"a": "x"}, "payload.a"),
        ("add", {"a": 1, "c": 2}, "payload.c"),
        ("add", [], "payload"),
        ("unheard", {}, "kind"),
    ],
)
def test_the_box_refuses_what_the_server_would(kind: str, payload: Any, field: str) -> None:
    app = make_app()
    with app.testing() as box:
        with pytest.raises(holdfast.InvalidRequest) as caught:
            app.client.enqueue(kind, payload)
        assert caught.value.field == field and box.jobs == []


def test_keys_make_one_job() -> None:
    app = make_app()
    with app.testing() as box:
        add = app.kinds["add"]
        assert [add.enqueue({"a": 1}, idempotency_key="k").duplicate for _ in range(2)] == [False, True]
        assert [add.enqueue({"a": 1}, unique_key="u").duplicate for _ in range(2)] == [False, True]
        app.client.enqueue_many([add.new(1), add.new(2)])
        assert len(box.jobs) == 4
        assert app.client.cancel(box.jobs[0].id) == "cancelled"


def test_the_app_has_its_own_client_again_after_testing() -> None:
    app = make_app()
    before = app.client
    with app.testing():
        assert app.client is not before
    assert app.client is before


def test_each_event_loop_has_its_own_async_client() -> None:
    app = make_app()

    async def client() -> tuple[int, bool]:
        return id(app.async_client), app.async_client is app.async_client

    first, second = asyncio.run(client()), asyncio.run(client())
    assert first[1] and second[1]
    with pytest.raises(RuntimeError):
        app.async_client  # noqa: B018


def test_a_payload_error_of_the_handlers_own_is_a_failed_attempt() -> None:
    app = make_app()

    @app.job("nested")
    def nested() -> None:
        app.kinds["add"].check({"a": "x"})

    with app.testing() as box:
        nested.delay()
        box.run()
        assert (box.jobs[0].attempt, box.jobs[0].state) == (5, "discarded")


def test_handlers_that_no_payload_fits_are_refused() -> None:
    app = App()
    for function in (lambda *args: None, lambda a, b, /: None, lambda **kwargs: None):
        with pytest.raises(ConfigurationError, match="parameter"):
            app.job("k")(function)

    def unknown(a: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821
        pass

    with pytest.raises(ConfigurationError, match="cannot be found"):
        app.job("k")(unknown)
    app.job("k")(lambda: None)
    with pytest.raises(ConfigurationError, match="has a handler already"):
        app.job("k")(lambda: None)


def test_wrong_arguments_are_refused_as_by_the_function() -> None:
    app = make_app()
    with app.testing(), pytest.raises(TypeError):
        app.kinds["add"].delay(1, 2, 3)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "HOLDFAST_URL", "http://jobs.test/base/")
    assert repr(App().client) == "Client('http://jobs.test/base')"
