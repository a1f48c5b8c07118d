"""Calls through a transport of httpx that the caller gives, such as a mock of a test. Others take :mod:`holdfast._wire`."""

from __future__ import annotations

from typing import Any

import httpx

from ._calls import MAX_ANSWER_BYTES, Broken, Call, Reply
from ._http import Endpoint
from ._pulse import CONNECT_SECONDS

#: Failures before which the request cannot have reached the server.
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)


class Blocking:
    """Sends calls of threads."""

    def __init__(self, endpoint: Endpoint, transport: httpx.BaseTransport) -> None:
        self._client = httpx.Client(base_url=endpoint.url, headers=endpoint.headers(), transport=transport, trust_env=False)

    def send(self, call: Call[Any]) -> Reply | Broken:
        """One try."""
        try:
            response = self._client.send(_request(self._client, call))
        except httpx.HTTPError as error:
            return _broken(error)
        return _reply(response)

    def close(self) -> None:
        self._client.close()


class Awaiting:
    """Sends calls of an event loop."""

    def __init__(self, endpoint: Endpoint, transport: httpx.AsyncBaseTransport) -> None:
        self._client = httpx.AsyncClient(base_url=endpoint.url, headers=endpoint.headers(), transport=transport, trust_env=False)

    async def send(self, call: Call[Any]) -> Reply | Broken:
        """One try."""
        try:
            response = await self._client.send(_request(self._client, call))
        except httpx.HTTPError as error:
            return _broken(error)
        return _reply(response)

    async def close(self) -> None:
        await self._client.aclose()


def _request(client: httpx.Client | httpx.AsyncClient, call: Call[Any]) -> httpx.Request:
    headers = dict(call.headers) if call.body is None else {**call.headers, "Content-Type": "application/json"}
    content = None if call.body is None else call.body.encode("utf-8")
    timeout = httpx.Timeout(call.timeout, connect=CONNECT_SECONDS)
    return client.build_request(call.method, call.path, content=content, headers=headers, timeout=timeout)


def _reply(response: httpx.Response) -> Reply | Broken:
    if len(response.content) > MAX_ANSWER_BYTES:
        return Broken(f"the answer has more than {MAX_ANSWER_BYTES} bytes", reached=True)
    return Reply(response.status_code, response.headers, response.content)


def _broken(error: Exception) -> Broken:
    """Why there is no answer, without the URL."""
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return Broken(reason, reached=not isinstance(error, _NOT_SENT))
