"""Enqueues jobs inside a transaction of your own, on the PostgreSQL database that Holdfast uses.

The job exists if and only if the transaction commits. It calls the function ``holdfast.enqueue`` of the database, with the connection
that you give: of psycopg, psycopg2, asyncpg, SQLAlchemy (connection or session) or Django.

.. code-block:: python

    with transaction.atomic():                                            # Django
        order.save()
        holdfast.sql.enqueue(connection, "order.confirm", {"id": order.id})

    with Session(engine) as session, session.begin():                     # SQLAlchemy
        session.add(order)
        holdfast.sql.enqueue(session, "order.confirm", {"id": order.id})

Workers find the job within their poll interval. ``client.ring(queue)`` after the commit wakes them at once. The role needs
``usage`` on the schema ``holdfast`` and ``execute`` on its functions. Follow-up jobs (``then``) are enqueued over HTTP only. Errors are
those of the driver; the server's reason is in their text.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from uuid import UUID

from . import _json
from .models import EnqueueOptions, NewJob, split_options

if TYPE_CHECKING:
    from typing_extensions import Unpack

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

#: The statements, with a place for each parameter.
_ONE = "select holdfast.enqueue(cast({} as text), cast({} as json), cast({} as jsonb))"
_MANY = 'select id from holdfast.enqueue_many(cast({} as json)) order by "position"'


def enqueue(connection: Any, kind: str, payload: Any, **options: Unpack[EnqueueOptions]) -> str:
    """Enqueues a job in the connection's transaction, and returns its id."""
    return _ids(_rows(connection, _ONE, _parameters(kind, payload, options)))[0]


def enqueue_many(connection: Any, jobs: Iterable[NewJob]) -> list[str]:
    """Enqueues up to 10,000 jobs in the connection's transaction, and returns their ids, in order."""
    bodies = [job.body() for job in jobs]
    return _ids(_rows(connection, _MANY, (_json.encode(bodies),))) if bodies else []


async def aenqueue(connection: Any, kind: str, payload: Any, **options: Unpack[EnqueueOptions]) -> str:
    """``enqueue`` for connections of event loops."""
    return _ids(await _arows(connection, _ONE, _parameters(kind, payload, options)))[0]


async def aenqueue_many(connection: Any, jobs: Iterable[NewJob]) -> list[str]:
    """``enqueue_many`` for connections of event loops."""
    bodies = [job.body() for job in jobs]
    return _ids(await _arows(connection, _MANY, (_json.encode(bodies),))) if bodies else []


def job_id(id: UUID | str) -> str:
    """A job's id as the API shows it, from the UUID that SQL knows it by."""
    number = UUID(str(id)).int
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


def _parameters(kind: str, payload: Any, options: EnqueueOptions) -> tuple[str, ...]:
    job, call = split_options(options)
    body = NewJob(kind, None, **job).body()
    del body["kind"], body["payload"]
    return kind, _json.encode(payload), _json.encode({**body, **call})


def _ids(rows: Iterable[Any]) -> list[str]:
    """Of rows of one column; some row factories make mappings."""
    return [job_id(next(iter(row.values())) if isinstance(row, dict) else row[0]) for row in rows]


def _rows(connection: Any, statement: str, parameters: tuple[str, ...]) -> Any:
    if _is_of("sqlalchemy", connection):
        return connection.execute(*_for_sqlalchemy(statement, parameters)).all()
    with connection.cursor() as cursor:
        cursor.execute(_for_dbapi(statement, parameters), parameters)
        return cursor.fetchall()


async def _arows(connection: Any, statement: str, parameters: tuple[str, ...]) -> Any:
    if _is_of("sqlalchemy", connection):
        return (await connection.execute(*_for_sqlalchemy(statement, parameters))).all()
    if _is_of("asyncpg", connection):
        places = (f"${number}" for number, _ in enumerate(parameters, 1))
        return await connection.fetch(statement.format(*places), *parameters)
    async with connection.cursor() as cursor:
        await cursor.execute(_for_dbapi(statement, parameters), parameters)
        return await cursor.fetchall()


def _for_dbapi(statement: str, parameters: tuple[str, ...]) -> str:
    return statement.format(*("%s" for _ in parameters))


def _for_sqlalchemy(statement: str, parameters: tuple[str, ...]) -> tuple[Any, dict[str, str]]:
    named = {f"p{number}": value for number, value in enumerate(parameters)}
    text = importlib.import_module("sqlalchemy").text
    return text(statement.format(*(f":{name}" for name in named))), named


def _is_of(library: str, connection: Any) -> bool:
    return any(one.__module__.partition(".")[0] == library for one in type(connection).__mro__)
