"""A server for the tests of the example."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def holdfast_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The URL and the key."""
    if "HOLDFAST_URL" in os.environ:
        yield os.environ["HOLDFAST_URL"], os.environ.get("HOLDFAST_API_KEY", "")
        return
    binary = os.environ.get("HOLDFAST_BINARY")
    if not binary:
        pytest.skip("set HOLDFAST_URL and HOLDFAST_API_KEY, or HOLDFAST_BINARY")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    directory: Path = tmp_path_factory.mktemp("holdfast")
    key = "examples-key-of-no-worth"
    own = {"PORT": str(port), "HOLDFAST_API_KEY": key, "DATABASE_URL": f"sqlite://{directory}/holdfast.db", "REDIS_URL": ""}
    with open(directory / "log", "wb") as log:
        server = subprocess.Popen([binary, "dev"], cwd=directory, env={**os.environ, **own}, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            break
        except OSError:
            assert server.poll() is None, (directory / "log").read_text()
            time.sleep(0.1)
    yield url, key
    server.terminate()
    server.wait(30)
