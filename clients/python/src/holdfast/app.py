"""An application's kinds of jobs: each is a producer and a handler.

.. code-block:: python

    app = App()

    @app.job("thumbnail.make", queue="media")
    def make(url: str, width: int = 120) -> dict[str, int]: ...

    make.delay("https://example.com/a.png")          # a producer: enqueues a job
    make("https://example.com/a.png")                # the function itself
    # holdfast worker myapp:app                      # a worker: runs the jobs
"""

from __future__ import annotations

import asyncio
import inspect
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from ._attempt import Handler
from ._signature import Signature
from .aio import AsyncClient, AsyncJob
from .client import Client, Job
from .context import Context
from .errors import ConfigurationError, seconds_of
from .models import EnqueueOptions, KindDefinition, NewJob, split_options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Unpack

    from .testing import Box

P = ParamSpec("P")
R = TypeVar("R")

#: The queue of kinds that name none.
DEFAULT_QUEUE = "python"


class App:
    """The kinds of jobs of one application, and the connection that they are enqueued over.

    ``url`` and ``key`` default to the environment's HOLDFAST_URL and HOLDFAST_API_KEY, which are read when the first job is
    enqueued. ``queue`` is that of kinds that name none.
    """

    def __init__(self, url: str | None = None, key: str | None = None, *, queue: str = DEFAULT_QUEUE, ca_file: str | None = None) -> None:
        self._url = url
        self._key = key
        self._ca_file = ca_file
        self._queue = queue
        self._kinds: dict[str, Kind[..., Any]] = {}
        self._client: Client | None = None
        self._async_clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncClient] = weakref.WeakKeyDictionary()
        self._box: Box | None = None

    def __repr__(self) -> str:
        return f"App({len(self._kinds)} kinds)"

    @property
    def kinds(self) -> Mapping[str, Kind[..., Any]]:
        """The registered kinds, by name."""
        return dict(self._kinds)

    @property
    def client(self) -> Client:
        """The client of ``delay`` and ``enqueue``; it is made when it is first used."""
        if self._box is not None:
            return self._box.client
        if self._client is None:
            self._client = Client(self._url, self._key, ca_file=self._ca_file)
        return self._client

    @property
    def async_client(self) -> AsyncClient:
        """The client of ``adelay`` and ``aenqueue``: one for each event loop, because connections belong to a loop."""
        if self._box is not None:
            return self._box.async_client
        loop = asyncio.get_running_loop()
        client = self._async_clients.get(loop)
        if client is None:
            client = self._async_clients[loop] = AsyncClient(self._url, self._key, ca_file=self._ca_file)
        return client

    def connect(self, url: str | None = None, key: str | None = None, *, ca_file: str | None = None) -> None:
        """Sets where the API is, for a setting that is known late. Clients that exist are replaced."""
        self._url, self._key, self._ca_file = url or self._url, key or self._key, ca_file or self._ca_file
        self._client = None
        self._async_clients.clear()

    def job(
        self,
        kind: str,
        *,
        queue: str | None = None,
        timeout_seconds: float | timedelta | None = None,
        max_attempts: int | None = None,
        retry_base_seconds: float | timedelta | None = None,
        retry_cap_seconds: float | timedelta | None = None,
        retry_jitter: bool | None = None,
        description: str | None = None,
        redact: Iterable[str] = (),
        check_result: bool = False,
    ) -> Registration:
        """Registers the decorated function as the handler of ``kind``.

        ``timeout_seconds`` is the longest duration of one attempt, ``max_attempts`` counts the first one. A delay between attempts
        is at most ``retry_base_seconds``, doubled after each failure, up to ``retry_cap_seconds``. ``redact`` names fields that only
        admins see, by their paths (``login.token``, ``items[].secret`` or ``/customer/email``). What is not given is the server's default.

        The description is the function's docstring, unless another one is given. With ``check_result`` the server checks results by
        the type that the function returns; a job whose result is refused is a dead letter, although its handler has run.
        """

        def seconds(value: float | timedelta | None, name: str) -> float | None:
            return None if value is None else seconds_of(value, name)

        definition = KindDefinition(
            kind,
            queue or self._queue,
            timeout_seconds=seconds(timeout_seconds, "timeout_seconds"),
            max_attempts=max_attempts,
            base_seconds=seconds(retry_base_seconds, "retry_base_seconds"),
            cap_seconds=seconds(retry_cap_seconds, "retry_cap_seconds"),
            jitter=retry_jitter,
            description=description,
            redact=tuple(redact),
        )
        return Registration(self, definition, check_result)

    def declare(self, client: Client | None = None) -> list[str]:
        """Declares every kind at the API, with its schema; the key needs the scope ``admin``. Returns their names."""
        client = client or self.client
        for kind in self._kinds.values():
            client.put_kind(kind.definition)
        return list(self._kinds)

    @contextmanager
    def testing(self, *, eager: bool = False, others: Iterable[str] = ()) -> Iterator[Box]:
        """Within this, jobs go to a :class:`~holdfast.testing.Box` in memory. ``eager``: each is run when it is enqueued. ``others`` are
        kinds that have no handler in this app, such as the server's own: their jobs are recorded, and wait.
        """
        from .testing import Box

        before, self._box = self._box, Box(self, eager=eager, others=others)
        try:
            yield self._box
        finally:
            self._box = before

    def _register(self, kind: Kind[..., Any]) -> None:
        if kind.name in self._kinds:
            raise ConfigurationError(f"the kind {kind.name!r} has a handler already: {self._kinds[kind.name].function!r}")
        self._kinds[kind.name] = kind


class Registration:
    """What ``app.job(…)`` returns: the decorator."""

    def __init__(self, app: App, definition: KindDefinition, check_result: bool) -> None:
        self._app = app
        self._definition = definition
        self._check_result = check_result

    @overload
    def __call__(self, function: Callable[Concatenate[Context, P], Awaitable[R]]) -> Kind[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Context, P], R]) -> Kind[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, Awaitable[R]]) -> Kind[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R]) -> Kind[P, R]: ...
    def __call__(self, function: Callable[..., Any]) -> Kind[..., Any]:
        kind: Kind[..., Any] = Kind(self._app, self._definition, function, self._check_result)
        self._app._register(kind)
        return kind


class Kind(Generic[P, R]):
    """A kind of job: a producer (``delay``, ``enqueue``), and the handler that it was made from, which can be called as before."""

    def __init__(self, app: App, definition: KindDefinition, function: Callable[..., Any], check_result: bool) -> None:
        self._app = app
        self.function = function
        self._signature = Signature(function)
        description = definition.description or inspect.getdoc(function)
        self.definition = replace(
            definition,
            description=description[:4096] if description else None,
            payload_schema=self._signature.payload_schema(),
            result_schema=self._signature.result_schema() if check_result else None,
        )
        self.handler = Handler(function, inspect.iscoroutinefunction(function), self._signature)
        self.__doc__ = function.__doc__
        self.__name__ = getattr(function, "__name__", definition.name)
        self.__module__ = function.__module__
        self.__wrapped__ = function

    def __repr__(self) -> str:
        return f"Kind({self.name!r}, queue={self.queue!r})"

    @property
    def name(self) -> str:
        return self.definition.name

    @property
    def queue(self) -> str:
        return self.definition.queue

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the function, here and now."""
        return self.function(*args, **kwargs)

    def check(self, payload: Any) -> None:
        """Raises PayloadError for a payload that the handler's types do not describe."""
        self._signature.arguments_of(payload, closed=True)

    def new(self, *args: P.args, **kwargs: P.kwargs) -> NewJob:
        """A job with the handler's arguments, for ``enqueue_many``, batches and ``then``."""
        return NewJob(self.name, self._signature.payload_of(args, kwargs))

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> Job:
        """Enqueues a job with the handler's arguments. When this returns, the job is committed."""
        return self._app.client.enqueue(self.name, self._signature.payload_of(args, kwargs))

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncJob:
        """``delay`` for event loops."""
        return await self._app.async_client.enqueue(self.name, self._signature.payload_of(args, kwargs))

    def enqueue(self, payload: Any, **options: Unpack[EnqueueOptions]) -> Job:
        """Enqueues a job with a payload and options, as :meth:`Client.enqueue <holdfast.Client.enqueue>` does."""
        return self._app.client.enqueue(self.name, payload, **options)

    async def aenqueue(self, payload: Any, **options: Unpack[EnqueueOptions]) -> AsyncJob:
        """``enqueue`` for event loops."""
        return await self._app.async_client.enqueue(self.name, payload, **options)

    def options(self, **options: Unpack[EnqueueOptions]) -> Optioned[P]:
        """The producer with options: ``make.options(priority="high").delay(url)``."""
        return Optioned(self._app, self.name, self._signature, options)


class Optioned(Generic[P]):
    """A producer with options."""

    def __init__(self, app: App, kind: str, signature: Signature, options: EnqueueOptions) -> None:
        split_options(options)
        self._app = app
        self._kind = kind
        self._signature = signature
        self._options = options

    def new(self, *args: P.args, **kwargs: P.kwargs) -> NewJob:
        """A job with the handler's arguments, for ``enqueue_many``, batches and ``then``."""
        job, _ = split_options(self._options)
        return NewJob(self._kind, self._signature.payload_of(args, kwargs), **job)

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> Job:
        """Enqueues a job with the handler's arguments."""
        return self._app.client.enqueue(self._kind, self._signature.payload_of(args, kwargs), **self._options)

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncJob:
        """``delay`` for event loops."""
        payload = self._signature.payload_of(args, kwargs)
        return await self._app.async_client.enqueue(self._kind, payload, **self._options)
