"""Where the API is: the settings of every connection."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from ._version import VERSION
from .errors import ConfigurationError

DEFAULT_URL = "http://127.0.0.1:8080"


class Address(NamedTuple):
    """What a connection needs of a URL."""

    scheme: str
    #: In ASCII.
    host: str
    port: int
    #: Before the API's own paths; empty or with a slash at its beginning.
    path: str


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
        endpoint = cls(url, key, ca_file)
        try:
            endpoint.address()
        except ValueError:
            raise ConfigurationError("the URL is not valid; it must be such as https://jobs.example.com") from None
        return endpoint

    def address(self) -> Address:
        """Raises ValueError for what is no host."""
        parts = urlsplit(self.url)
        host = parts.hostname or ""
        if not host.isascii():
            # Only then: it loads the tables of all characters.
            host = host.encode("idna").decode("ascii")
        if not host.isprintable() or " " in host:
            raise ValueError("a host has no spaces")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return Address(parts.scheme, host, port, quote(parts.path, safe="/%:@!$&'()*+,;=~"))

    def headers(self) -> dict[str, str]:
        """Of every call."""
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

    def trust(self) -> ssl.SSLContext | None:
        """What certificates are checked with; None: it is not https."""
        if not self.url.startswith("https:"):
            return None
        try:
            return ssl.create_default_context(cafile=self.trust_file())
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(f"the file of certificates cannot be read: {error}") from error
