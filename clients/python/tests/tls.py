"""A private authority, and a server of TLS before another server."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import threading
from pathlib import Path

#: The name that the certificate has. `127.0.0.1` is not in it.
HOST = "localhost"


class Authority:
    """Files of a certificate authority that no system trusts, and of a certificate of :data:`HOST`."""

    def __init__(self, directory: Path) -> None:
        self.ca_file = str(directory / "ca.pem")
        self.chain, self.key = str(directory / "host.pem"), str(directory / "host.key")
        request = str(directory / "host.csr")
        new = ["openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj"]
        usage = ["-addext", "keyUsage=critical,keyCertSign,cRLSign", "-addext", "subjectKeyIdentifier=hash"]
        _run(*new, "/CN=Test authority", *usage, "-x509", "-days", "2", "-keyout", str(directory / "ca.key"), "-out", self.ca_file)
        _run(*new, f"/CN={HOST}", "-keyout", self.key, "-out", request)
        # As Python 3.13 and later want certificates to be.
        (directory / "san").write_text(f"subjectAltName=DNS:{HOST}\nauthorityKeyIdentifier=keyid\n")
        signed = ["openssl", "x509", "-req", "-in", request, "-CA", self.ca_file, "-CAkey", str(directory / "ca.key"), "-CAcreateserial"]
        _run(*signed, "-days", "2", "-extfile", str(directory / "san"), "-out", self.chain)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


class TlsServer:
    """Passes what it receives to a port of this machine."""

    def __init__(self, authority: Authority, upstream: int) -> None:
        self._upstream = upstream
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(authority.chain, authority.key)
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)
        self._thread.start()
        self._started.wait()

    async def _main(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        listening = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        self.port = listening.sockets[0].getsockname()[1]
        self._started.set()
        await self._ended.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        await asyncio.gather(_pass(reader, upstream_writer), _pass(upstream_reader, writer))

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()
