"""A server of few lines that writes what it is told to."""

from __future__ import annotations

import socket
import threading

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


def answer(status: int, body: str) -> bytes:
    """With a body in JSON."""
    content = body.encode()
    return f"HTTP/1.1 {status} Status\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content


class Scripted:
    """Answers the requests of all connections from a list, the last one again and again; an empty answer closes the connection, None says
    nothing. A subclass may decide by the request.
    """

    def __init__(self, *answers: bytes | None) -> None:
        self.answers = list(answers)
        self.requests: list[bytes] = []
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def answer(self, request: bytes) -> bytes | None:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            while self._request(connection):
                answer = self.answer(self.requests[-1])
                if answer == b"":
                    return
                if answer is not None:
                    connection.sendall(answer)

    def _request(self, connection: socket.socket) -> bool:
        data = b""
        while b"\r\n\r\n" not in data or len(data.partition(b"\r\n\r\n")[2]) < self._length(data):
            try:
                received = connection.recv(65_536)
            except OSError:
                return False
            if not received:
                return False
            data += received
        self.requests.append(data)
        return True

    def _length(self, data: bytes) -> int:
        head = data.partition(b"\r\n\r\n")[0].decode().lower()
        return int(head.partition("content-length: ")[2].split("\r\n")[0])

    def close(self) -> None:
        self._listener.close()
