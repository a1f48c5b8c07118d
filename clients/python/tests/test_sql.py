"""Jobs that are enqueued in a transaction of the application's own, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from conftest import Server, eventually
from holdfast import Client, KindDefinition, NewJob, sql

psycopg = pytest.importorskip("psycopg")


@pytest.fixture(scope="module")
def database(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Client]]:
    server = Server(tmp_path_factory.mktemp("sql"), postgres)
    with Client(server.url, server.key) as client:
        client.put_kind(KindDefinition("order.confirm", "orders"))
        yield postgres, client
    server.stop()


@pytest.fixture
def url(database: tuple[str, Client]) -> str:
    with psycopg.connect(database[0]) as connection:
        if connection.execute("select to_regprocedure('holdfast.enqueue(text,json,jsonb)')").fetchone() == (None,):
            pytest.skip("this release of Holdfast has no SQL function")
    eventually(lambda: _is_ready(database[0]), "the server has told the database its kinds")
    return database[0]


def _is_ready(url: str) -> bool:
    with psycopg.connect(url) as connection:
        try:
            sql.enqueue(connection, "order.confirm", {})
        except psycopg.errors.ObjectNotInPrerequisiteState:
            return False
        finally:
            connection.rollback()
    return True


@pytest.fixture
def client(database: tuple[str, Client]) -> Client:
    return database[1]


def test_ids_are_those_of_the_api() -> None:
    assert sql.job_id(UUID("01936b86-1b3c-4e8b-a9c4-6b2fb5a4d2ee")) == "01JDNRC6SW9T5TKH3B5YTT9MQE"
    assert sql.job_id("00000000-0000-0000-0000-000000000000") == "0" * 26


def test_a_committed_job_exists_and_one_that_was_rolled_back_does_not(url: str, client: Client) -> None:
    with psycopg.connect(url) as connection:
        kept = sql.enqueue(connection, "order.confirm", {"id": 1}, priority="high", delay_seconds=3600, unique_key="o1")
        same = sql.enqueue(connection, "order.confirm", {"id": 1}, unique_key="o1")
        many = sql.enqueue_many(connection, [NewJob("order.confirm", {"id": number}) for number in range(3)])
    assert same == kept and len(set(many)) == 3
    record = client.job(kept)
    assert (record.payload, record.priority, record.state) == ({"id": 1}, "high", "scheduled")
    assert [client.job(id).payload["id"] for id in many] == [0, 1, 2]
    with psycopg.connect(url) as connection:
        lost = sql.enqueue(connection, "order.confirm", {"id": 2})
        connection.rollback()
    assert client.job(kept).id == kept
    with pytest.raises(Exception, match="job-not-found"):
        client.job(lost)
    client.ring("orders")


def test_the_reason_of_a_refusal_is_the_drivers_error(url: str) -> None:
    with psycopg.connect(url) as connection, pytest.raises(psycopg.Error, match="unknown kind"):
        sql.enqueue(connection, "unheard", {})


def test_sqlalchemy_connections_and_sessions(url: str, client: Client) -> None:
    sqlalchemy = pytest.importorskip("sqlalchemy")
    orm = pytest.importorskip("sqlalchemy.orm")
    engine = sqlalchemy.create_engine(url.replace("postgres:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        first = sql.enqueue(connection, "order.confirm", {"text": "50 % :p0"})
    with orm.Session(engine) as session, session.begin():
        second = sql.enqueue(session, "order.confirm", {"id": 2})
    assert client.job(first).payload == {"text": "50 % :p0"} and client.job(second).payload == {"id": 2}
    engine.dispose()


def test_async_connections(url: str, client: Client) -> None:
    asyncio_of_sqlalchemy = pytest.importorskip("sqlalchemy.ext.asyncio")
    pytest.importorskip("greenlet")

    async def run() -> list[str]:
        ids = []
        async with await psycopg.AsyncConnection.connect(url) as connection:
            ids.append(await sql.aenqueue(connection, "order.confirm", {"id": 3}))
            ids += await sql.aenqueue_many(connection, [NewJob("order.confirm", {"id": 3})])
        engine = asyncio_of_sqlalchemy.create_async_engine(url.replace("postgres:", "postgresql+psycopg:"))
        async with engine.begin() as connection:
            ids.append(await sql.aenqueue(connection, "order.confirm", {"id": 3}))
        await engine.dispose()
        return ids

    assert [client.job(id).payload for id in asyncio.run(run())] == [{"id": 3}] * 3


def test_psycopg2_connections(url: str, client: Client) -> None:
    psycopg2 = pytest.importorskip("psycopg2")
    connection = psycopg2.connect(url)
    try:
        with connection:
            first = sql.enqueue(connection, "order.confirm", {"text": "50 % of it"}, priority="low")
            many = sql.enqueue_many(connection, [NewJob("order.confirm", {"id": number}) for number in range(2)])
        lost = sql.enqueue(connection, "order.confirm", {"id": 2})
        connection.rollback()
    finally:
        connection.close()
    assert (client.job(first).payload, client.job(first).priority) == ({"text": "50 % of it"}, "low")
    assert [client.job(id).payload for id in many] == [{"id": 0}, {"id": 1}]
    with pytest.raises(Exception, match="job-not-found"):
        client.job(lost)


def test_asyncpg_connections(url: str, client: Client) -> None:
    asyncpg = pytest.importorskip("asyncpg")

    async def run() -> tuple[list[str], str]:
        connection = await asyncpg.connect(url)
        try:
            async with connection.transaction():
                ids = [await sql.aenqueue(connection, "order.confirm", {"text": "$1"}, priority="low")]
                ids += await sql.aenqueue_many(connection, [NewJob("order.confirm", {"id": 6})])
            transaction = connection.transaction()
            await transaction.start()
            lost = await sql.aenqueue(connection, "order.confirm", {"id": 7})
            await transaction.rollback()
            return ids, lost
        finally:
            await connection.close()

    ids, lost = asyncio.run(run())
    assert [client.job(id).payload for id in ids] == [{"text": "$1"}, {"id": 6}] and client.job(ids[0]).priority == "low"
    with pytest.raises(Exception, match="job-not-found"):
        client.job(lost)


def test_django_transactions(url: str, client: Client) -> None:
    django = pytest.importorskip("django")
    from django.conf import settings
    from django.db import connection, transaction

    parts = psycopg.conninfo.conninfo_to_dict(url)
    settings.configure(
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": parts["dbname"],
                "USER": parts["user"],
                "HOST": parts["host"],
                "PORT": parts["port"],
            }
        }
    )
    django.setup()
    ids: list[Any] = []
    with transaction.atomic():
        ids.append(sql.enqueue(connection, "order.confirm", {"id": 4}))
    try:
        with transaction.atomic():
            ids.append(sql.enqueue(connection, "order.confirm", {"id": 5}))
            raise RuntimeError
    except RuntimeError:
        pass
    connection.close()
    assert client.job(ids[0]).payload == {"id": 4}
    with pytest.raises(Exception, match="job-not-found"):
        client.job(ids[1])


def test_rows_of_mappings_are_read(url: str) -> None:
    with psycopg.connect(url, row_factory=psycopg.rows.dict_row) as connection:
        assert len(sql.enqueue(connection, "order.confirm", {})) == 26
