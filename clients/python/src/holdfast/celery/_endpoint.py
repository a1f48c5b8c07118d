"""Where the server is, from a URL of Celery's settings.

``holdfast://KEY@host:8080`` and ``holdfast+https://KEY@host``. ``holdfast://:KEY@host`` is the same; Celery masks the key in this form
also in `celery report` and `celery inspect conf`. ``holdfast://`` alone means the environment's HOLDFAST_URL, and a URL without a key its
HOLDFAST_API_KEY.
"""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import unquote, urlsplit

from .._http import Endpoint
from ..errors import ConfigurationError

#: Ports where a URL names none.
PORT = 8080
TLS_PORT = 443


def split(url: str) -> tuple[str, int, str | None, bool, str]:
    """Host, port, key, whether it is TLS, and the path before the API's own."""
    plain = url.removeprefix("holdfast+")
    scheme, separator, _ = plain.partition("://")
    is_tls = scheme in ("https", "holdfasts")
    if not separator or not (is_tls or scheme in ("holdfast", "http")):
        raise ConfigurationError("the URL must be such as holdfast://:KEY@jobs.internal:8080 or holdfast+https://:KEY@jobs.example.com")
    try:
        parts = urlsplit(plain)
        port = parts.port or (TLS_PORT if is_tls else PORT)
    except ValueError:
        raise ConfigurationError("the URL has an invalid port") from None
    key = unquote(parts.password or parts.username or "") or None
    if not parts.hostname and key is None and os.environ.get("HOLDFAST_URL"):
        return split(os.environ["HOLDFAST_URL"])
    return parts.hostname or "127.0.0.1", port, key, is_tls, parts.path.rstrip("/")


def endpoint(host: str, port: int, key: str | None, is_tls: bool, path: str = "", ca_file: str | None = None) -> Endpoint:
    name = f"[{host}]" if ":" in host else host
    return Endpoint.of(f"{'https' if is_tls else 'http'}://{name}:{port}{path}", key, ca_file)


def ca_file_of(options: Any) -> str | None:
    """The file of certificates, from ``broker_use_ssl`` or transport options."""
    if not isinstance(options, dict):
        return None
    found = options.get("ca_file") or options.get("ca_certs") or options.get("ssl_ca_certs")
    return str(found) if found else None
