"""The client for event loops. It is :class:`holdfast.Client` with ``await``; both run the same flows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from . import _calls, _flow
from ._flow import Flow, Pause
from ._http import Endpoint
from ._wire import awaiting
from .client import PATIENCE_SECONDS
from .models import Accepted, AcceptedBatch, BatchRecord, EnqueueOptions, JobRecord, KindDefinition, NewJob

if TYPE_CHECKING:
    import httpx
    from typing_extensions import Unpack

T = TypeVar("T")


class AsyncClient:
    """A connection to the API, for one event loop. Close it, or use it with ``async with``.

    ``url`` and ``key`` default to the environment's HOLDFAST_URL and HOLDFAST_API_KEY. ``patience`` is how long a call is repeated
    while the API is unavailable, in seconds; 0 raises at the first failure. ``ca_file`` names certificates to trust.

    Raises :class:`~holdfast.ApiError` for what the server refuses, and :class:`~holdfast.ConnectionFailed`.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        patience: float = PATIENCE_SECONDS,
        ca_file: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._endpoint = Endpoint.of(url, key, ca_file)
        self._patience = patience
        self._http = awaiting(self._endpoint, transport)

    def __repr__(self) -> str:
        return f"AsyncClient({self._endpoint.url!r})"

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.close()

    # Producing

    async def enqueue(self, kind: str, payload: Any, **options: Unpack[EnqueueOptions]) -> AsyncJob:
        """Enqueues a job. When this returns, the job is committed, and will run.

        The options are those of :class:`~holdfast.JobOptions`, ``idempotency_key`` and ``traceparent``.
        """
        return AsyncJob(self, await self._repeat(_calls.enqueue(kind, payload, options)))

    async def enqueue_many(
        self, jobs: Iterable[NewJob], *, idempotency_key: str | None = None, traceparent: str | None = None
    ) -> list[str]:
        """Enqueues jobs. Returns their ids, in order. An invalid job is named by ``index`` in the error.

        Up to 10,000 jobs (and 12 MiB) are enqueued all or none. More are enqueued in several such calls, each under a key of its own
        that follows from ``idempotency_key``: after an error repeat the whole with the same key.
        """
        ids: list[str] = []
        for call in _calls.enqueue_many(jobs, idempotency_key, traceparent):
            ids += await self._repeat(call)
        return ids

    async def create_batch(
        self,
        jobs: Iterable[NewJob],
        *,
        name: str | None = None,
        callback: NewJob | None = None,
        idempotency_key: str | None = None,
        traceparent: str | None = None,
    ) -> AsyncBatch:
        """Enqueues jobs that are followed as one. ``callback`` is enqueued once, when all of them have ended."""
        call = _calls.create_batch(jobs, name, callback, idempotency_key, traceparent)
        return AsyncBatch(self, await self._repeat(call))

    # Jobs and batches

    async def job(self, id: str) -> JobRecord:
        """The job as it is now. Raises NotFound."""
        return await self._repeat(_calls.get_job(id))

    async def wait(self, id: str, timeout: float | None = None) -> JobRecord:
        """Waits for the end of a job, for ``timeout`` seconds. Raises WaitTimeout."""
        return await self._run(_flow.awaited(f"job {id}", lambda wait: _calls.get_job(id, wait), timeout, self._patience))

    async def jobs(
        self,
        *,
        queue: str | None = None,
        state: str | None = None,
        kind: str | None = None,
        batch: str | None = None,
        page: int = 100,
    ) -> AsyncIterator[JobRecord]:
        """Jobs, newest first; they are read in pages while you iterate with ``async for``."""
        filters = {"queue": queue, "state": state, "kind": kind, "batch": batch}
        for flow in _flow.pages(filters, page, self._patience):
            for record in await self._run(flow):
                yield record

    async def cancel(self, id: str) -> str:
        """Cancels a job. Returns its state: ``cancelled``, or ``running`` if it was asked to stop."""
        return await self._repeat(_calls.cancel_job(id))

    async def retry(self, id: str) -> str:
        """Makes a discarded or delayed job available now. Returns its state."""
        return await self._repeat(_calls.retry_job(id))

    async def batch(self, id: str) -> BatchRecord:
        """The batch as it is now. Raises NotFound."""
        return await self._repeat(_calls.get_batch(id))

    async def wait_batch(self, id: str, timeout: float | None = None) -> BatchRecord:
        """Waits for the end of a batch, for ``timeout`` seconds. Raises WaitTimeout."""
        return await self._run(_flow.awaited(f"batch {id}", lambda wait: _calls.get_batch(id, wait), timeout, self._patience))

    async def cancel_batch(self, id: str) -> BatchRecord:
        """Cancels what waits of a batch, and asks what runs to stop."""
        return await self._repeat(_calls.cancel_batch(id))

    # Kinds and queues: a key with the scope `admin`

    async def put_kind(self, kind: KindDefinition) -> dict[str, Any]:
        """Declares a kind, and its queue."""
        return await self._repeat(_calls.put_kind(kind))

    async def kind(self, name: str) -> dict[str, Any]:
        """A kind as the API shows it. Raises NotFound."""
        return await self._repeat(_calls.get_kind(name))

    async def delete_kind(self, name: str) -> None:
        """Forgets a kind: new jobs of it are refused."""
        await self._repeat(_calls.delete_kind(name))

    async def put_queue(self, name: str) -> dict[str, Any]:
        """Declares a queue of pull workers."""
        return await self._repeat(_calls.put_queue(name))

    async def delete_queue(self, name: str) -> None:
        """Forgets a declared queue that has no kinds and no jobs to run."""
        await self._repeat(_calls.delete_queue(name))

    async def ring(self, queue: str) -> None:
        """Wakes the queue's workers, after jobs were enqueued in SQL (:mod:`holdfast.sql`)."""
        await self._repeat(_calls.ring(queue))

    # How calls are sent

    async def _repeat(self, call: _calls.Call[T]) -> T:
        return await self._run(_flow.repeated(call, self._patience))

    async def _run(self, flow: Flow[T]) -> T:
        try:
            step = next(flow)
            while True:
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                    step = flow.send(None)
                else:
                    step = flow.send(await self._http.send(step))
        except StopIteration as end:
            result: T = end.value
            return result


class AsyncJob:
    """An enqueued job."""

    def __init__(self, client: AsyncClient, accepted: Accepted) -> None:
        self._client = client
        self.id = accepted.id
        self.kind = accepted.kind
        self.queue = accepted.queue
        #: The state when it was enqueued; ``refresh`` has the one of now.
        self.state = accepted.state
        #: A job with this ``idempotency_key`` or ``unique_key`` existed; this is it.
        self.duplicate = accepted.duplicate

    def __repr__(self) -> str:
        return f"AsyncJob({self.id}, {self.kind})"

    async def refresh(self) -> JobRecord:
        """The job as it is now."""
        return await self._client.job(self.id)

    async def wait(self, timeout: float | None = None) -> JobRecord:
        """Waits for the job's end, for ``timeout`` seconds. Raises WaitTimeout."""
        return await self._client.wait(self.id, timeout)

    async def result(self, timeout: float | None = None) -> Any:
        """Waits for the result. Raises WaitTimeout, and JobFailed for a discarded or cancelled job.

        The key needs the scope ``read:payload``; with ``read`` alone the result is shown as ``"[redacted]"``.
        """
        return (await self.wait(timeout)).result_or_raise()

    async def cancel(self) -> str:
        """Cancels the job. Returns its state."""
        return await self._client.cancel(self.id)


class AsyncBatch:
    """An enqueued batch."""

    def __init__(self, client: AsyncClient, accepted: AcceptedBatch) -> None:
        self._client = client
        self.id = accepted.id
        self.total = accepted.total
        #: The ids of the jobs, in order; empty for a repeat of an earlier batch.
        self.ids = accepted.ids
        self.duplicate = accepted.duplicate

    def __repr__(self) -> str:
        return f"AsyncBatch({self.id}, {self.total} jobs)"

    async def refresh(self) -> BatchRecord:
        """The batch as it is now."""
        return await self._client.batch(self.id)

    async def wait(self, timeout: float | None = None) -> BatchRecord:
        """Waits for the batch's end, for ``timeout`` seconds. Raises WaitTimeout."""
        return await self._client.wait_batch(self.id, timeout)

    async def cancel(self) -> BatchRecord:
        """Cancels what waits of it, and asks what runs to stop."""
        return await self._client.cancel_batch(self.id)
