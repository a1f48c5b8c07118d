"""Settings of a connection, and the two ways to send a call: blocking and awaiting."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx

from ._calls import MAX_ANSWER_BYTES, Broken, Call, Reply
from ._version import VERSION
from .errors import ConfigurationError

DEFAULT_URL = "http://127.0.0.1:8080"

#: Seconds that a connection may take.
CONNECT_SECONDS = 5.0

#: Connections of one client at most, and seconds to wait for a free one.
MAX_CONNECTIONS = 20
POOL_SECONDS = 10.0

#: Failures before which the request cannot have reached the server.
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)


@dataclass(frozen=True)
class Endpoint:
    """Where the API is, and the key. The key is in no text of this object."""

    url: str
    key: str | None = field(repr=False)
    ca_file: str | None = None

    @classmethod
    def of(cls, url: str | None, key: str | None, ca_file: str | None) -> Endpoint:
        """Defaults: the environment's HOLDFAST_URL and HOLDFAST_API_KEY, then this machine's port 8080 and no key."""
        url = (url or os.environ.get("HOLDFAST_URL") or DEFAULT_URL).rstrip("/")
        key = key or os.environ.get("HOLDFAST_API_KEY") or None
        try:
            parts = urlsplit(url)
            has_host = bool(parts.hostname) and (parts.port is None or parts.port > 0)
        except ValueError:
            raise ConfigurationError("the URL is not valid; it must be such as https://jobs.example.com") from None
        if parts.username or parts.password or "@" in parts.netloc:
            raise ConfigurationError("the URL has credentials in it; give the API key as key=, or in HOLDFAST_API_KEY")
        if parts.scheme not in ("http", "https") or not has_host or parts.query or parts.fragment:
            raise ConfigurationError("the URL must be such as https://jobs.example.com: http or https, a host, no query")
        if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
            raise ConfigurationError("the API key has characters that no key has; was it copied with spaces or a line end?")
        try:
            httpx.URL(url)
        except httpx.InvalidURL:
            raise ConfigurationError("the URL is not valid; it must be such as https://jobs.example.com") from None
        return cls(url, key, ca_file)

    def headers(self) -> dict[str, str]:
        headers = {"User-Agent": f"holdfast-python/{VERSION}", "Accept": "application/json"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        return headers

    def trust_file(self) -> str:
        """The certificates of authorities to trust."""
        if self.ca_file or os.environ.get("SSL_CERT_FILE"):
            return self.ca_file or os.environ["SSL_CERT_FILE"]
        import certifi

        return certifi.where()

    def verify(self) -> ssl.SSLContext | bool:
        if not self.url.startswith("https:"):
            return False
        try:
            return ssl.create_default_context(cafile=self.trust_file())
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(f"the file of certificates cannot be read: {error}") from error


def timeouts(call: Call[Any]) -> httpx.Timeout:
    return httpx.Timeout(call.timeout, connect=CONNECT_SECONDS, pool=POOL_SECONDS)


_LIMITS = httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS, keepalive_expiry=30.0)


class Blocking:
    """Sends calls of threads."""

    def __init__(self, endpoint: Endpoint, transport: httpx.BaseTransport | None = None) -> None:
        self._client = httpx.Client(
            base_url=endpoint.url,
            headers=endpoint.headers(),
            verify=endpoint.verify(),
            limits=_LIMITS,
            transport=transport,
            trust_env=False,
            follow_redirects=False,
        )

    def send(self, call: Call[Any]) -> Reply | Broken:
        try:
            request = self._client.build_request(
                call.method, call.path, content=_content(call), headers=_headers(call), timeout=timeouts(call)
            )
            response = self._client.send(request, stream=True)
            try:
                body = bytearray()
                for chunk in response.iter_bytes():
                    _grow(body, chunk)
            finally:
                response.close()
        except (httpx.HTTPError, httpx.StreamError, _TooLarge) as error:
            return broken(error)
        return Reply(response.status_code, response.headers, bytes(body))

    def close(self) -> None:
        self._client.close()


class Awaiting:
    """Sends calls of an event loop."""

    def __init__(self, endpoint: Endpoint, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._client = httpx.AsyncClient(
            base_url=endpoint.url,
            headers=endpoint.headers(),
            verify=endpoint.verify(),
            limits=_LIMITS,
            transport=transport,
            trust_env=False,
            follow_redirects=False,
        )

    async def send(self, call: Call[Any]) -> Reply | Broken:
        try:
            request = self._client.build_request(
                call.method, call.path, content=_content(call), headers=_headers(call), timeout=timeouts(call)
            )
            response = await self._client.send(request, stream=True)
            try:
                body = bytearray()
                async for chunk in response.aiter_bytes():
                    _grow(body, chunk)
            finally:
                await response.aclose()
        except (httpx.HTTPError, httpx.StreamError, _TooLarge) as error:
            return broken(error)
        return Reply(response.status_code, response.headers, bytes(body))

    async def close(self) -> None:
        await self._client.aclose()


class _TooLarge(Exception):
    pass


def _grow(body: bytearray, chunk: bytes) -> None:
    if len(body) + len(chunk) > MAX_ANSWER_BYTES:
        raise _TooLarge(f"the answer has more than {MAX_ANSWER_BYTES} bytes")
    body.extend(chunk)


def _content(call: Call[Any]) -> bytes | None:
    return None if call.body is None else call.body.encode("utf-8")


def _headers(call: Call[Any]) -> dict[str, str]:
    headers = dict(call.headers)
    if call.body is not None:
        headers["Content-Type"] = "application/json"
    return headers


def broken(error: Exception) -> Broken:
    """Why there is no answer, without the URL."""
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return Broken(reason, reached=not isinstance(error, _NOT_SENT))
